package tenants

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// following is one watch of a namespace. It is a coalesce.Sink.
type following struct {
	tracker *tracker
	stream  *coalesce.Stream
	watcher coalesce.Watcher
	since   int64 // everything after it is delivered; set before watch returns
	ended   chan struct{}
	reason  error // set before ended is closed

	mu      sync.Mutex // guards what follows, and is held while usage is told
	counted bool       // what is delivered goes to usage
	pending []sizeChange
	reached int64 // by what was delivered
	over    bool
}

// maxPending bounds the changes that wait until the keys have been read. They take 32 bytes each.
const maxPending = 1 << 20

var errTooManyChanges = errors.New("more has changed while the keys were read than can be kept")

// watch opens the watch, which has been created when it returns.
func (f *following) watch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	var w coalesce.Watch
	w.Key, w.End = []byte(f.tracker.prefix), f.tracker.prefix.End()
	return f.stream.Watch(ctx, &f.watcher, w, f.tracker.hub.Arrive())
}

// begin has what is delivered counted from now on, beginning with held as of rev. It returns false if the watch has ended.
func (f *following) begin(held census, rev int64, began time.Time) bool {
	for {
		pending := f.take(held, rev, began)
		if pending == nil {
			break
		}
		for _, c := range pending { // without the lock: who delivers the next ones must not wait
			if c.rev > rev {
				held.set(c.key, c.size)
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.over
}

// take returns the changes that have come since the last call. When there are none it returns nil: from then on they are
// counted as they come.
func (f *following) take(held census, rev int64, began time.Time) []sizeChange {
	f.mu.Lock()
	defer f.mu.Unlock()
	pending := f.pending
	f.pending = nil
	if len(pending) == 0 && !f.over {
		f.counted = true
		f.tracker.usage.know(held, max(rev, f.reached), began)
	}
	return pending
}

// end ends the following, once.
func (f *following) end(why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.finish(why)
}

// finish is called with mu held.
func (f *following) finish(why error) {
	if !f.over {
		f.over, f.reason, f.pending = true, why, nil
		close(f.ended)
	}
}

// Created is part of coalesce.Sink.
func (f *following) Created(_ *coalesce.Watcher, now int64) { f.since = now }

// Deliver is part of coalesce.Sink. It takes every message.
func (f *following) Deliver(_ *coalesce.Watcher, m *coalesce.Message) bool {
	changes, err := f.changes(m.Events)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.over:
	case err != nil:
		f.finish(fmt.Errorf("an event: %w", err))
	case f.counted:
		if !f.tracker.usage.apply(changes, m.Revision) {
			f.finish(errTooManyKeys)
		}
	default:
		f.pending = append(f.pending, changes...)
		f.reached = m.Revision
		if len(f.pending) > maxPending {
			f.finish(errTooManyChanges)
		}
	}
	return true
}

func (f *following) changes(events []wire.Event) ([]sizeChange, error) {
	all := make([]sizeChange, len(events))
	for i := range events {
		e := &events[i]
		key, size := e.Key[min(len(e.Key), len(f.tracker.prefix)):], uint32(0)
		if !e.Delete {
			var err error
			if key, size, err = f.tracker.sizeOf(e.KeyValue()); err != nil {
				return nil, err
			}
		}
		all[i] = sizeChange{key: hashOf(key), size: size, rev: e.ModRev}
	}
	return all, nil
}

// Progress is part of coalesce.Sink.
func (f *following) Progress(_ *coalesce.Watcher, rev int64, _ int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.counted && !f.over {
		f.tracker.usage.reach(rev)
	}
	return true
}

// Canceled is part of coalesce.Sink.
func (f *following) Canceled(_ *coalesce.Watcher, reason error) { f.end(reason) }

// Ended is part of coalesce.Sink.
func (f *following) Ended(reason error) { f.end(reason) }

// Recheck is part of coalesce.Sink. What the watch tells reaches no client.
func (f *following) Recheck() {}
