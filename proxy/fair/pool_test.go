package fair

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/bubble"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newPool makes a pool with room for whatever waits.
func newPool(slots int) *Pool[string] {
	return New[string](Config{Slots: slots, MaxQueuedBytes: 1 << 40, MaxQueued: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
}

// take takes a slot that must be free.
func take(t *testing.T, p *Pool[string], account string) Slot[string] {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // so that it cannot wait
	s, err := p.Acquire(ctx, account, 1, 0)
	if err != nil {
		t.Fatalf("take a slot for %s: %v", account, err)
	}
	return s
}

// call is one that waits for a slot, or has it.
type call struct {
	slot Slot[string]
	err  chan error // set when it waits no more
}

// wait begins to wait for a slot, in a bubble of synctest.
func wait(ctx context.Context, p *Pool[string], account string, bytes int) *call {
	return waitAs(ctx, p, account, 1, bytes)
}

func waitAs(ctx context.Context, p *Pool[string], account string, weight, bytes int) *call {
	c := &call{err: make(chan error, 1)}
	go func() {
		var err error
		c.slot, err = p.Acquire(ctx, account, weight, bytes)
		c.err <- err
	}()
	synctest.Wait()
	return c
}

// given tells whether a slot was given to who waits. It is told once.
func given(t *testing.T, c *call) bool {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-c.err:
		if err != nil {
			t.Fatalf("wait for a slot: %v", err)
		}
		return true
	default:
		return false
	}
}

func checkEmpty(t *testing.T, p *Pool[string]) {
	t.Helper()
	if s := p.Stats(); s.InUse != 0 || s.Accounts != 0 || s.Queued != 0 || s.QueuedBytes != 0 || p.weights != 0 || len(p.waiting) != 0 {
		t.Errorf("something is left when nobody holds a slot or waits for one: %+v, weights %d", s, p.weights)
	}
}

func TestWhoHoldsLessThanTheShareIsServedFirst(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPool(4)
		var holds []Slot[string]
		for range 4 {
			holds = append(holds, take(t, p, "flood"))
		}
		flood := wait(t.Context(), p, "flood", 0)
		var quiet []*call
		for range 3 {
			quiet = append(quiet, wait(t.Context(), p, "quiet", 0))
		}
		for i := range 2 { // the share of each is two slots
			holds[i].Release()
			if !given(t, quiet[i]) {
				t.Errorf("quiet call %d was not served by release %d", i, i)
			}
		}
		holds[2].Release()
		if !given(t, flood) || given(t, quiet[2]) {
			t.Error("the flood, down to one slot, was not served before the third call of who held two")
		}
	})
}

func TestASlotIsGivenOverTheShareIfNobodyBelowItWaits(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPool(2)
		take(t, p, "a")
		other := take(t, p, "b")
		more := wait(t.Context(), p, "a", 0)
		other.Release()
		if !given(t, more) {
			t.Error("a slot is free while a call waits")
		}
	})
}

func TestAHeavierCallCostsItsAccountMoreTurns(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPool(1)
		holds := take(t, p, "long")
		long := wait(t.Context(), p, "long", 0)
		var short []*call
		for range 12 {
			short = append(short, wait(t.Context(), p, "short", 0))
		}
		time.Sleep(10 * time.Millisecond)
		holds.Release()
		served := 0
		for ; !given(t, long); served++ {
			if !given(t, short[served]) {
				t.Fatalf("nobody is served after %d short calls", served)
			}
			time.Sleep(time.Millisecond)
			short[served].slot.Release()
		}
		if served < 9 || served > 11 {
			t.Errorf("%d calls of 1 ms were served for one of 10 ms", served)
		}
	})
}

func TestNobodyPaysForWhatNobodyElseWanted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPool(1)
		holds := take(t, p, "alone")
		time.Sleep(time.Hour)
		const calls = 10
		waiting := map[string][]*call{}
		for range calls {
			for _, account := range []string{"alone", "new"} {
				waiting[account] = append(waiting[account], wait(t.Context(), p, account, 0))
			}
		}
		served := map[string]int{}
		for range calls {
			time.Sleep(time.Millisecond)
			holds.Release()
			for account, w := range waiting {
				if given(t, w[served[account]]) {
					holds = w[served[account]].slot
					served[account]++
				}
			}
		}
		if served["alone"] < calls/2-1 || served["new"] < calls/2-1 {
			t.Errorf("of %d calls were served %v", calls, served)
		}
		for range calls { // the others
			holds.Release()
			for account, w := range waiting {
				if served[account] < calls && given(t, w[served[account]]) {
					holds = w[served[account]].slot
					served[account]++
				}
			}
		}
		holds.Release()
		checkEmpty(t, p)
	})
}

func TestAnAccountHasTheWeightOfItsLatestCall(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPool(4)
		var holds []Slot[string]
		for range 4 {
			holds = append(holds, take(t, p, "b"))
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range 3 {
			wait(ctx, p, "a", 0)
		}
		waitAs(ctx, p, "a", 3, 0)
		wait(ctx, p, "b", 0)
		for _, s := range holds[:3] {
			s.Release()
		}
		if a := p.accounts["a"]; a.inUse != 3 || p.weights != 4 {
			t.Errorf("of weight 3 beside 1 it holds %d of 4 slots; weights %d", a.inUse, p.weights)
		}
		cancel()
		synctest.Wait()
	})
}
