package load

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// tally counts what comes, in any number of goroutines, for one that waits until a number has come.
type tally struct {
	came atomic.Int64
	want atomic.Int64
	full chan struct{} // has room for one; is sent to when what is wanted has come
}

func newTally() *tally {
	t := &tally{full: make(chan struct{}, 1)}
	t.want.Store(math.MaxInt64)
	return t
}

func (t *tally) add(n int64) {
	// await sets want before it looks at what came, and this is the other way around: one of the two sees that it is enough.
	if t.came.Add(n) < t.want.Load() {
		return
	}
	select {
	case t.full <- struct{}{}:
	default:
	}
}

// await waits until n have come in all, failed ends, or it takes longer than Patience. More than n are an error.
func (t *tally) await(failed context.Context, n int64, what string) error {
	t.want.Store(n)
	timeout := time.NewTimer(Patience)
	defer timeout.Stop()
	for t.came.Load() < n {
		select {
		case <-t.full: // or was, of an earlier number
		case <-failed.Done():
			return context.Cause(failed)
		case <-timeout.C:
			return fmt.Errorf("%d of %d %s are missing after %v", n-t.came.Load(), n, what, Patience)
		}
	}
	if more := t.came.Load() - n; more > 0 {
		return fmt.Errorf("%d more %s than there can be", more, what)
	}
	return context.Cause(failed)
}
