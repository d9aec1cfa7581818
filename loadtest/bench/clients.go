package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"weir/loadtest/target"
)

// clients are connections to one target, each with its reader. What goes wrong on one ends all: failed ends with it.
type clients struct {
	target   *target.Target
	conns    []*conn
	readers  sync.WaitGroup
	closing  atomic.Bool
	failed   context.Context // ends with what went wrong
	failWith context.CancelCauseFunc
}

func newClients(ctx context.Context, tg *target.Target) *clients {
	c := &clients{target: tg}
	c.failed, c.failWith = context.WithCancelCause(ctx)
	return c
}

// connect opens n connections for RPCs of a method, the i-th with the i-th handler, and returns when all are up, so that
// they are no part of what the RPCs cost. The connections that it did not fail to open are closed by close.
func (c *clients) connect(n int, method string, handlerOf func(i int) handler) error {
	var greeted sync.WaitGroup
	for i := range n {
		conn, err := dial(c.failed, c.target.Endpoint, c.target.ClientTLS(), method, handlerOf(i))
		if err != nil {
			return err
		}
		c.conns = append(c.conns, conn)
		greeted.Add(1)
		c.readers.Go(func() {
			once := sync.OnceFunc(greeted.Done)
			defer once()
			if err := conn.read(once); !c.closing.Load() {
				c.failWith(fmt.Errorf("%s of %s: %w", method, c.target.Kind, err))
			}
		})
	}
	greeted.Wait()
	return context.Cause(c.failed)
}

// close ends the connections and waits for their readers.
func (c *clients) close() error {
	c.closing.Store(true)
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.close())
	}
	c.readers.Wait()
	c.failWith(nil)
	return errors.Join(errs...)
}

// patience is how long a target may take for what it was asked for, after the last request.
const patience = 30 * time.Second

// await waits until a counter, whose channel is done, has what it expects.
func (c *clients) await(done <-chan struct{}, count *counter, what string) error {
	select {
	case <-done:
		return context.Cause(c.failed)
	case <-c.failed.Done():
		return context.Cause(c.failed)
	case <-time.After(patience):
		return fmt.Errorf("%s: %d %s are missing after %v", c.target.Kind, count.missing.Load(), what, patience)
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
