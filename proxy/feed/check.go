package feed

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"weir/coalesce"
)

// check asks upstream what revision it is, once for all who wait. Whoever waits joins only a request that had not
// been sent when he arrived: what an earlier one answers may be older than what he has already been told.
//
// Requests are numbered. One is under way at a time, by a goroutine that ends when nobody waits.
type check struct {
	ask   func(context.Context) (int64, error) // one request
	ctx   context.Context
	tasks *tasks

	sent atomic.Uint64 // the number of the last request that was sent

	mu      sync.Mutex    // guards the fields below
	wanted  uint64        // the lowest number that is good enough for all who wait
	done    uint64        // the number of the last request that was answered
	rev     int64         // the newest answer
	epoch   int           // calls of reset
	running bool          // there is a goroutine
	asked   time.Time     // when the request that is under way was sent; zero if none is
	changed chan struct{} // closed and replaced when done changes
}

// arrive is the moment now: requests with a higher number are sent after it.
func (c *check) arrive() coalesce.Arrival { return coalesce.Arrival(c.sent.Load()) }

// begin has a request sent for somebody who will wait.
func (c *check) begin(since coalesce.Arrival) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start(since)
}

// start is called with c.mu held.
func (c *check) start(since coalesce.Arrival) {
	if c.done > uint64(since) {
		return
	}
	c.wanted = max(c.wanted, uint64(since)+1)
	if !c.running {
		c.running = c.tasks.start(c.run)
	}
}

// wait returns a revision that upstream had reached at `since` or later. It waits for as long as upstream cannot be
// asked, and fails only with ctx.
func (c *check) wait(ctx context.Context, since coalesce.Arrival) (int64, error) {
	for {
		c.mu.Lock()
		if c.done > uint64(since) {
			defer c.mu.Unlock()
			return c.rev, nil
		}
		c.start(since)
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-c.ctx.Done():
			return 0, c.ctx.Err()
		}
	}
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
	return !c.asked.IsZero() && time.Since(c.asked) > d
}

func (c *check) run() {
	for epoch, more := c.more(); more; epoch, more = c.more() {
		n := c.sent.Add(1)
		rev, err := c.ask(c.ctx)
		c.mu.Lock()
		c.asked = time.Time{}
		if err == nil && epoch == c.epoch {
			c.done, c.rev = n, max(c.rev, rev)
			close(c.changed)
			c.changed = make(chan struct{})
		}
		c.mu.Unlock()
	}
}

func (c *check) more() (epoch int, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running = c.done < c.wanted && c.ctx.Err() == nil; c.running {
		c.asked = time.Now()
	}
	return c.epoch, c.running
}
