package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"weir/loadtest/client"
	"weir/loadtest/load"
	"weir/loadtest/target"
)

// clients are connections to one target. What goes wrong on one ends all.
type clients struct {
	*client.Group
	target *target.Target
}

func newClients(ctx context.Context, tg *target.Target) *clients {
	return &clients{Group: client.NewGroup(ctx), target: tg}
}

// connect opens n connections, the i-th to the i-th address, with the i-th handler, and returns them when all are up.
func (c *clients) connect(addrOf func(i int) string, n int, handlerOf func(i int) client.Handler) ([]*client.Conn, error) {
	conns, err := c.Connect(n, addrOf, client.Config{TLS: c.target.ClientTLS()}, handlerOf)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", c.target.Kind, err)
	}
	return conns, nil
}

// failure is what went wrong, nil if nothing did.
func (c *clients) failure() error {
	if err := context.Cause(c.Failed()); err != nil {
		return fmt.Errorf("clients of %s: %w", c.target.Kind, err)
	}
	return nil
}

// await waits until a counter, whose channel is done, has what it expects.
func (c *clients) await(done <-chan struct{}, count *counter, what string) error {
	select {
	case <-done:
		return c.failure()
	case <-c.Failed().Done():
		return c.failure()
	case <-time.After(load.Patience):
		return fmt.Errorf("%s: %d %s are missing after %v", c.target.Kind, count.missing.Load(), what, load.Patience)
	}
}

// wait waits for d, or less if ctx ends, which is an error.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// counter counts to a number that is expected.
type counter struct {
	missing atomic.Int64
	done    chan struct{} // closed when nothing is missing
}

// expect expects n more, when nothing is missing, and returns a channel that is closed when they came.
func (c *counter) expect(n int64) <-chan struct{} {
	c.done = make(chan struct{})
	c.missing.Store(n)
	return c.done
}

// add counts n. More than are expected is an error.
func (c *counter) add(n int64) error {
	switch missing := c.missing.Add(-n); {
	case missing == 0:
		close(c.done)
	case missing < 0:
		return fmt.Errorf("%d more than there can be", -missing)
	}
	return nil
}
