package feed

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestACheckIsSentAfterThoseWhoJoinItArrived lets a thousand callers come and go while upstream moves on, and each must
// be told a revision that is not older than its arrival.
func TestACheckIsSentAfterThoseWhoJoinItArrived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var upstream, asked atomic.Int64
		var tasks tasks
		var callers sync.WaitGroup
		c := check{ctx: ctx, tasks: &tasks}
		c.ask = func(ctx context.Context) (int64, error) {
			if asked.Add(1)%5 == 0 {
				return 0, errors.Join(errNoSession, sleep(ctx, time.Millisecond))
			}
			rev := upstream.Load()
			return rev, sleep(ctx, 3*time.Millisecond)
		}
		for i := range 1000 {
			callers.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Microsecond)
				rev, since := upstream.Add(1), c.arrive()
				if got, err := c.wait(ctx, since); err != nil || got < rev {
					t.Errorf("arrived at revision %d and was told %d (%v)", rev, got, err)
				}
			})
		}
		callers.Wait()
		if n := asked.Load(); n > 100 {
			t.Errorf("%d requests for a thousand callers in 100 ms, of 3 ms each", n)
		}
		synctest.Wait()
		if c.running {
			t.Error("a goroutine is left although nobody waits")
		}
		tasks.end(cancel)
	})
}

func TestACheckIsLeftWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		life, end := context.WithCancel(t.Context())
		var tasks tasks
		c := check{ctx: life, tasks: &tasks}
		c.ask = func(ctx context.Context) (int64, error) { return 0, sleep(ctx, time.Hour) }
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.wait(ctx, c.arrive()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		end()
		if _, err := c.wait(t.Context(), c.arrive()); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v after the end", err)
		}
		tasks.end(end)
	})
}
