package fair

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"weir/internal/bubble"
)

// load is what one account asks for: so many calls at a time, each of which takes a random time around service, and comes
// after a pause.
type load struct {
	account        string
	weight         int
	calls          int
	service, pause time.Duration
}

// had is what one account was given.
type had struct {
	calls   int
	held    time.Duration
	longest time.Duration // wait
}

// run runs loads against a pool for a time, in a bubble of synctest, and returns what each account was given.
func run(t *testing.T, p *Pool[string], took time.Duration, loads []load) map[string]*had {
	t.Helper()
	const seed = 7
	ctx, cancel := context.WithTimeout(t.Context(), took)
	defer cancel()
	var (
		mu      sync.Mutex // guards results
		results = map[string]*had{}
		wg      sync.WaitGroup
	)
	for i, l := range loads {
		results[l.account] = &had{}
		for j := range l.calls {
			random := rand.New(rand.NewPCG(seed, uint64(i)<<32|uint64(j)))
			wg.Go(func() {
				for ctx.Err() == nil {
					asked := time.Now()
					slot, err := p.Acquire(ctx, l.account, l.weight, 0)
					if err != nil {
						return
					}
					waited := time.Since(asked)
					service := l.service/2 + time.Duration(random.Int64N(int64(l.service)))
					time.Sleep(service)
					slot.Release()
					mu.Lock()
					r := results[l.account]
					r.calls++
					r.held += service
					r.longest = max(r.longest, waited)
					mu.Unlock()
					if l.pause > 0 {
						time.Sleep(l.pause/2 + time.Duration(random.Int64N(int64(l.pause))))
					}
				}
			})
		}
	}
	wg.Wait()
	checkEmpty(t, p)
	return results
}

func TestSharesConvergeToTheWeights(t *testing.T) {
	for _, slots := range []int{1, 3, 16} {
		for name, loads := range map[string][]load{
			"equal":   {{"a", 1, 40, 5e6, 0}, {"b", 1, 40, 5e6, 0}, {"c", 1, 40, 5e6, 0}},
			"weights": {{"a", 1, 40, 5e6, 0}, {"b", 2, 40, 5e6, 0}, {"c", 5, 40, 5e6, 0}},
			"long":    {{"a", 1, 40, 50e6, 0}, {"b", 1, 40, 1e6, 0}, {"c", 2, 40, 5e6, 0}},
			"crowds":  {{"a", 1, 400, 5e6, 0}, {"b", 1, 40, 5e6, 0}, {"c", 3, 80, 5e6, 0}},
		} {
			t.Run(fmt.Sprintf("%s/%d", name, slots), func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					results := run(t, newPool(slots), 20*time.Second, loads)
					var all time.Duration
					weights := 0
					for _, l := range loads {
						all += results[l.account].held
						weights += l.weight
					}
					for _, l := range loads {
						had, due := results[l.account].held.Seconds()/all.Seconds(), float64(l.weight)/float64(weights)
						if had < 0.93*due || had > 1.07*due {
							t.Errorf("account %s of weight %d of %d had %.3f of all time, not %.3f", l.account, l.weight, weights, had, due)
						}
					}
				})
			})
		}
	}
}

func TestAFloodDoesNotHoldUpTheQuiet(t *testing.T) {
	const (
		quiet   = 9
		service = 10 * time.Millisecond // on average; the longest takes half as much again
	)
	for _, slots := range []int{1, 4, 20} {
		t.Run(fmt.Sprint(slots), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				loads := []load{{account: "flood", weight: 1, calls: 10 * max(slots, 10), service: service}}
				for i := range quiet { // together they leave the pool time to spare
					loads = append(loads, load{fmt.Sprint(i), 1, 1, service, 20 * service * quiet / time.Duration(slots)})
				}
				results := run(t, newPool(slots), 20*time.Second, loads)
				if results["flood"].calls == 0 {
					t.Error("the flood was given nothing of what was to spare")
				}
				for i := range quiet {
					longest := 3 * service / 2
					if r := results[fmt.Sprint(i)]; r.calls == 0 || r.longest > longest*(quiet+2)/time.Duration(slots)+longest {
						t.Errorf("quiet account %d made %d calls, one of which waited %v", i, r.calls, r.longest)
					}
				}
			})
		})
	}
}

// An account that asks for one call at a time is forgotten between two of them, with what it was charged.
func TestNobodyStarvesBehindThoseWhoComeAgainAndAgain(t *testing.T) {
	const others = 30
	for _, slots := range []int{1, 4} {
		bubble.Test(t, func(t *testing.T) {
			loads := []load{{account: "many", weight: 1, calls: 20, service: 20 * time.Millisecond}}
			for i := range others {
				loads = append(loads, load{account: fmt.Sprint(i), weight: 1, calls: 1, service: time.Millisecond})
			}
			results := run(t, newPool(slots), 20*time.Second, loads)
			var all time.Duration
			for _, r := range results {
				all += r.held
			}
			if had, due := results["many"].held.Seconds()/all.Seconds(), 1./(others+1); had < due/2 {
				t.Errorf("with %d slots it had %.3f of all time, and %.3f was its share", slots, had, due)
			}
		})
	}
}

func TestStormsOfCallsThatGiveUpLeaveNothingBehind(t *testing.T) {
	const slots = 8
	p := newPool(slots)
	var (
		mu    sync.Mutex // guards what follows
		inUse int
		most  int
		wg    sync.WaitGroup
	)
	count := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		inUse += n
		most = max(most, inUse)
	}
	for i := range 64 {
		random := rand.New(rand.NewPCG(1, uint64(i)))
		wg.Go(func() {
			for range 300 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.Int64N(int64(200*time.Microsecond))))
				account := fmt.Sprint(random.IntN(10))
				if slot, err := p.Acquire(ctx, account, 1+random.IntN(3), 100); err == nil {
					count(1)
					<-ctx.Done()
					count(-1)
					slot.Release()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if most > slots {
		t.Errorf("%d slots of %d were in use", most, slots)
	}
	if s := p.Stats(); s.Left == 0 || s.Granted == 0 {
		t.Errorf("that was no storm: %+v", s)
	}
	checkEmpty(t, p)
}
