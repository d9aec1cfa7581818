package feed

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"weir/coalesce"
)

// check asks upstream what revision it is, once for all who wait. Whoever waits joins only a request that had not
// been sent when he arrived: what an earlier one answers may be older than what he has already been told.
//
// Requests are numbered. One is under way at a time; those who come meanwhile are together for the next one, which is
// sent by a goroutine that ends when nobody waits. Each of them is woken once, by the request that he waits for: waking
// all whenever something is answered would cost half of them a turn for nothing. Who finds nothing under way may
// send the request himself (see now), since nobody else can join it: that spares a lone reader two changes of goroutine.
type check struct {
	ask   func(context.Context) (int64, error) // one request
	ctx   context.Context
	tasks *tasks
	once  bool          // who waits is told when the request fails; else it is repeated
	pause time.Duration // least time between the beginnings of two requests

	sent atomic.Uint64 // the number of the last request that was sent

	mu      sync.Mutex // guards the fields below
	done    uint64     // the number of the last request that was answered
	rev     int64      // the newest answer
	epoch   int        // calls of reset
	failed  *inquiry   // the last request that ended, if it was not answered
	running bool       // there is a goroutine
	current *inquiry   // which is under way, or was the last
	next    *inquiry   // which has not been sent; nil if nobody waits for it
}

// inquiry is one request. What is below over is set before over is closed.
type inquiry struct {
	number uint64    // once it has been sent
	alone  bool      // it is under the context of who sent it, and nobody else's to wait for
	begun  time.Time // when it was
	over   chan struct{}
	rev    int64
	err    error
}

// errReset is why a request does not count that was answered by what upstream is no longer.
var errReset = errors.New("upstream has been replaced")

// arrive is the moment now: requests with a higher number are sent after it.
func (c *check) arrive() coalesce.Arrival { return coalesce.Arrival(c.sent.Load()) }

// begin has a request sent for somebody who will wait.
func (c *check) begin(since coalesce.Arrival) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.join(since)
}

// join returns the request to wait for, or nil if one that is good enough has been answered, or if it is too late to
// send any. c.mu is held.
func (c *check) join(since coalesce.Arrival) *inquiry {
	if c.done > uint64(since) {
		return nil
	}
	if c.isUnderWay() && c.current.number > uint64(since) && !c.current.alone {
		return c.current
	}
	if !c.running {
		if c.running = c.tasks.start(c.run); !c.running {
			return nil
		}
	}
	if c.next == nil {
		c.next = &inquiry{over: make(chan struct{})}
	}
	return c.next
}

// isUnderWay is called with c.mu held.
func (c *check) isUnderWay() bool {
	if c.current == nil {
		return false
	}
	select {
	case <-c.current.over:
		return false
	default:
		return true
	}
}

// wait returns a revision that upstream had reached at `since` or later. Unless c.once is set, it waits for as long as
// upstream cannot be asked, and fails only with ctx.
func (c *check) wait(ctx context.Context, since coalesce.Arrival) (int64, error) {
	for {
		c.mu.Lock()
		i := c.join(since)
		done, rev := c.done, c.rev
		c.mu.Unlock()
		switch {
		case i != nil:
		case done > uint64(since):
			return rev, nil
		default:
			return 0, context.Canceled
		}
		select {
		case <-i.over:
			if i.err == nil || c.once {
				return i.rev, i.err
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-c.ctx.Done():
			return 0, c.ctx.Err()
		}
	}
}

// now is wait for a check that is asked once, from this moment on.
func (c *check) now(ctx context.Context) (int64, error) {
	c.mu.Lock()
	if c.running || c.pause > 0 {
		c.mu.Unlock()
		return c.wait(ctx, c.arrive())
	}
	c.running, c.next = true, &inquiry{alone: true, over: make(chan struct{})}
	i, epoch := c.send()
	c.mu.Unlock()
	i.rev, i.err = c.ask(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	failed := c.failed
	c.end(i, epoch)
	if ctx.Err() != nil { // it need not be upstream that was too slow
		c.failed = failed
	}
	c.running = c.next != nil && c.tasks.start(c.run)
	return i.rev, i.err
}

// reset forgets what was answered, because upstream is no longer what it was.
func (c *check) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done, c.rev = 0, 0
	c.epoch++ // what is asked now does not count
}

// isLate tells whether a request has been under way for longer than d.
func (c *check) isLate(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.isUnderWay() && time.Since(c.current.begun) > d
}

// failure is when the last request that ended was sent and why it was not answered; nil if it was.
func (c *check) failure() (begun time.Time, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed == nil {
		return time.Time{}, nil
	}
	return c.failed.begun, c.failed.err
}

// run sends requests until nobody waits.
func (c *check) run() {
	for i, epoch := c.begun(); i != nil; i, epoch = c.begun() {
		i.rev, i.err = c.ask(c.ctx)
		c.mu.Lock()
		c.end(i, epoch)
		c.mu.Unlock()
	}
}

// begun returns the next request, which nobody can join any more who comes from now on; or nil if there is none.
func (c *check) begun() (i *inquiry, epoch int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if pause := c.due(); c.next != nil && pause > 0 {
		c.mu.Unlock()
		_ = sleep(c.ctx, pause)
		c.mu.Lock()
	}
	if c.running = c.next != nil && c.ctx.Err() == nil; !c.running {
		return nil, 0
	}
	return c.send()
}

// The functions below are called with c.mu held.

// send makes the next request the current one.
func (c *check) send() (i *inquiry, epoch int) {
	i, c.next = c.next, nil
	i.number, i.begun = c.sent.Add(1), time.Now()
	c.current = i
	return i, c.epoch
}

// due is how long the next request is to wait.
func (c *check) due() time.Duration {
	if c.current == nil {
		return 0
	}
	return c.pause - time.Since(c.current.begun)
}

// end takes the answer to a request.
func (c *check) end(i *inquiry, epoch int) {
	switch {
	case i.err != nil:
	case epoch != c.epoch:
		i.err = errReset
	default:
		c.done, c.rev = i.number, max(c.rev, i.rev)
	}
	if c.failed = nil; i.err != nil {
		c.failed = i
	}
	close(i.over)
}
