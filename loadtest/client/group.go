package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Group is connections with their readers. What goes wrong on one ends all: Failed ends with it. Its methods may be called
// concurrently, but for Connect and Close.
type Group struct {
	conns   []*Conn
	readers sync.WaitGroup
	closing atomic.Bool
	failed  context.Context
	fail    context.CancelCauseFunc
}

// NewGroup has no connections yet. It fails when ctx ends. Close must be called.
func NewGroup(ctx context.Context) *Group {
	g := &Group{}
	g.failed, g.fail = context.WithCancelCause(ctx)
	return g
}

// Connect opens n more connections, the i-th to the i-th address, with the i-th handler, and returns them when all are up, so that
// they are no part of what the RPCs cost. Those that were opened before an error are closed by Close.
func (g *Group) Connect(n int, addrOf func(i int) string, config Config, handlerOf func(i int) Handler) ([]*Conn, error) {
	first := len(g.conns)
	greeted := make(chan struct{}, n)
	for i := range n {
		addr := addrOf(i)
		conn, err := Dial(g.failed, addr, config, handlerOf(i))
		switch {
		case err != nil && g.failed.Err() != nil:
			return nil, context.Cause(g.failed)
		case err != nil:
			return nil, fmt.Errorf("%s: %w", addr, err)
		}
		g.conns = append(g.conns, conn)
		g.readers.Go(func() {
			err := conn.Read(sync.OnceFunc(func() { greeted <- struct{}{} }))
			if !g.closing.Load() {
				g.Fail(fmt.Errorf("%s: %w", addr, err))
			}
		})
	}
	for range n {
		select {
		case <-greeted:
		case <-g.failed.Done():
			return nil, context.Cause(g.failed)
		}
	}
	return g.conns[first:], nil
}

// Failed ends when something went wrong, which is its cause, and with Close.
func (g *Group) Failed() context.Context { return g.failed }

// Fail ends Failed with a cause, unless it has ended.
func (g *Group) Fail(err error) { g.fail(err) }

// Close ends the connections and waits for their readers. A handler that does not return keeps it waiting.
func (g *Group) Close() error {
	g.closing.Store(true)
	var errs []error
	for _, conn := range g.conns {
		errs = append(errs, conn.Close())
	}
	g.readers.Wait()
	g.fail(nil)
	return errors.Join(errs...)
}
