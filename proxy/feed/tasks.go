package feed

import (
	"context"
	"errors"
	"sync"
)

// tasks are the goroutines of a Set. None is started once their end has begun, so that waiting for them is sure.
type tasks struct {
	mu    sync.Mutex // guards over
	over  bool
	group sync.WaitGroup
}

// start runs f, or returns false if it is too late.
func (t *tasks) start(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.group.Go(f)
	}
	return !t.over
}

// end lets nothing more start, has what runs told to stop, and waits for it.
func (t *tasks) end(stop func()) {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	stop()
	t.group.Wait()
}

var errLost = errors.New("its connection is lost, or another member is used")

// untilLost returns a context that ends with ctx, and when the member is lost.
func (t *tasks) untilLost(ctx context.Context, m Member) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	t.start(func() {
		select {
		case <-m.Lost():
			cancel(errLost)
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(nil) }
}
