package coalesce

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"weir/internal/bubble"
)

// slotBench is Slots whose calls are under way until the test ends.
type slotBench struct {
	*Slots
	ctx   context.Context
	under atomic.Int64
}

// onSlots runs a test on 4 slots, of which one account has 2.
func onSlots(t *testing.T, maxBytes int, test func(t *testing.T, b *slotBench)) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := &slotBench{Slots: NewSlots(4, 2, maxBytes), ctx: ctx}
		test(t, b)
		cancel()
		synctest.Wait()
		if b.waiting != 0 || len(b.accounts) != 0 || len(b.all) != 0 {
			t.Errorf("when all have left, %d bytes wait, of %v, and %d slots are taken", b.waiting, b.accounts, len(b.all))
		}
	})
}

// do begins a call, and returns the error if it neither waits nor is under way.
func (b *slotBench) do(account string, bytes int) error {
	failed := make(chan error, 1)
	go func() {
		failed <- b.Do(b.ctx, account, bytes, func() error {
			b.under.Add(1)
			<-b.ctx.Done()
			return b.ctx.Err()
		})
	}()
	synctest.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func TestSlotsBoundTheCallsOfAllAndOfEachAccount(t *testing.T) {
	onSlots(t, 1<<30, func(t *testing.T, b *slotBench) {
		for i := range 30 {
			if err := b.do("a", 0); err != nil {
				t.Fatal(err)
			}
			if n := b.under.Load(); n != min(int64(i)+1, 2) {
				t.Fatalf("%d of %d calls of one account are under way", n, i+1)
			}
		}
		for i := range 30 {
			if err := b.do(fmt.Sprint(i), 0); err != nil {
				t.Fatal(err)
			}
		}
		if n := b.under.Load(); n != 4 {
			t.Errorf("%d calls are under way", n)
		}
	})
}

func TestSlotsGoOnToWhoWaits(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, done, n := NewSlots(4, 2, 1<<30), make(chan error), 100
		for i := range n {
			go func() { done <- s.Do(t.Context(), fmt.Sprint(i%7), 1, func() error { return nil }) }()
		}
		for range n {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

func TestWhatWaitsForSlotsIsBoundedInBytes(t *testing.T) {
	const size, most = 56 << 10, 1 << 20 // with what one takes beside it 64 KiB, of which there are 16
	onSlots(t, most, func(t *testing.T, b *slotBench) {
		refused := 0
		for range 100 {
			if err := b.do("a", size); errors.Is(err, ErrSlots) {
				refused++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if refused != 100-2-8 || b.waiting != most/2 {
			t.Errorf("one account: %d of 100 were refused, and %d bytes wait", refused, b.waiting)
		}
		for i := range 5 {
			if err := b.do(fmt.Sprint(i), size); err != nil {
				t.Errorf("another account: %v", err)
			}
		}
		if b.waiting > most {
			t.Errorf("%d bytes wait", b.waiting)
		}
	})
}

func TestALargeRequestThatNeedNotWaitIsNotRefused(t *testing.T) {
	onSlots(t, 1<<20, func(t *testing.T, b *slotBench) {
		if err := b.do("a", 1<<30); err != nil || b.under.Load() != 1 {
			t.Errorf("%d are under way, error %v", b.under.Load(), err)
		}
	})
}

func TestOneRequestIsUnderWaySeveralTimesAsFarAsItsAccountHasSlots(t *testing.T) {
	onSlots(t, 1<<20, func(t *testing.T, b *slotBench) {
		if err := b.do("a", 0); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		end := make(chan struct{})
		var calls atomic.Int64
		go func() {
			done <- b.Each(b.ctx, "b", 1<<10, 5, func(context.Context, int) error {
				calls.Add(1)
				<-end
				return nil
			})
		}()
		synctest.Wait()
		if n := calls.Load(); n != 2 || b.waiting != slotWaiterBytes+1<<10 {
			t.Errorf("%d calls of one request are under way, and %d bytes wait for the others", n, b.waiting)
		}
		close(end)
		if err := <-done; err != nil || calls.Load() != 5 {
			t.Errorf("%d calls, error %v", calls.Load(), err)
		}
	})
}

func TestARequestOfManyCallsEndsWithTheFirstThatFails(t *testing.T) {
	onSlots(t, 1<<20, func(t *testing.T, b *slotBench) {
		failure := errors.New("failed")
		var calls atomic.Int64
		err := b.Each(b.ctx, "a", 0, 100, func(ctx context.Context, i int) error {
			if calls.Add(1); i == 1 {
				return failure
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, failure) || calls.Load() > 3 {
			t.Errorf("%d calls, error %v", calls.Load(), err)
		}
	})
}

func TestARequestOfManyCallsThatMustNotWaitEnds(t *testing.T) {
	onSlots(t, 1<<10, func(t *testing.T, b *slotBench) {
		for range 2 {
			if err := b.do("a", 0); err != nil {
				t.Fatal(err)
			}
		}
		err := b.Each(b.ctx, "a", 0, 3, func(context.Context, int) error { return nil })
		if !errors.Is(err, ErrSlots) {
			t.Errorf("error %v", err)
		}
	})
}
