package bubble

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// Due timers looked at by several goroutines at once end the process when it has more than one P and the race detector.
func TestDueTimersOfManyGoroutines(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	Test(t, func(t *testing.T) {
		var looking sync.WaitGroup
		for range 4 {
			looking.Go(func() {
				for range 20_000 {
					due := time.NewTimer(0)
					select {
					case <-due.C:
					default:
						t.Error("a timer of no duration is not due")
					}
				}
			})
		}
		looking.Wait()
	})
	if got := runtime.GOMAXPROCS(0); got != before {
		t.Errorf("GOMAXPROCS is %d after the bubble, was %d before", got, before)
	}
}

// A bubble that ends while another is open leaves it its one P.
func TestBubblesAtOneTime(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	var p processors
	p.enter()
	p.enter()
	p.leave()
	if got := runtime.GOMAXPROCS(0); got != 1 {
		t.Errorf("GOMAXPROCS is %d with one bubble of two still open", got)
	}
	p.leave()
	if got := runtime.GOMAXPROCS(0); got != before {
		t.Errorf("GOMAXPROCS is %d after both bubbles, was %d before", got, before)
	}
}
