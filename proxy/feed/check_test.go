package feed

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/bubble"
)

// TestACheckIsSentAfterThoseWhoJoinItArrived lets a thousand callers come and go while upstream moves on, and each must
// be told a revision that is not older than its arrival.
func TestACheckIsSentAfterThoseWhoJoinItArrived(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
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
	bubble.Test(t, func(t *testing.T) {
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

func TestWhoWaitsOnceIsToldThatTheRequestFailed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var tasks tasks
		var asked atomic.Int64
		var callers sync.WaitGroup
		c := check{ctx: ctx, tasks: &tasks, once: true}
		c.ask = func(ctx context.Context) (int64, error) {
			n := asked.Add(1)
			_ = sleep(ctx, time.Second)
			if n == 2 {
				return 0, errNoSession
			}
			return n, nil
		}
		wait := func(want int64, wantErr error) {
			callers.Go(func() {
				if rev, err := c.wait(ctx, c.arrive()); rev != want || !errors.Is(err, wantErr) {
					t.Errorf("got %d, %v, want %d, %v", rev, err, want, wantErr)
				}
			})
		}
		wait(1, nil)
		synctest.Wait()
		for range 500 {
			wait(0, errNoSession)
		}
		time.Sleep(1500 * time.Millisecond)
		for range 500 {
			wait(3, nil)
		}
		callers.Wait()
		if n := asked.Load(); n != 3 {
			t.Errorf("%d requests", n)
		}
		tasks.end(cancel)
	})
}

func TestChecksKeepTheirInterval(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var tasks tasks
		var asked []time.Time // by one goroutine at a time
		c := check{ctx: ctx, tasks: &tasks, once: true, pause: 10 * time.Millisecond}
		c.ask = func(context.Context) (int64, error) {
			asked = append(asked, time.Now())
			return int64(len(asked)), nil
		}
		for range 5 {
			if _, err := c.wait(ctx, c.arrive()); err != nil {
				t.Fatal(err)
			}
		}
		for i := 1; i < len(asked); i++ {
			if d := asked[i].Sub(asked[i-1]); d < c.pause {
				t.Errorf("request %d is sent %v after the one before", i, d)
			}
		}
		tasks.end(cancel)
	})
}
