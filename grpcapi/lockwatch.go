package grpcapi

import (
	"context"
	"errors"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// watcher is a stream of watches of the server's own, which some RPC follows. It is the sink of its watches: what the hub
// gives it stays in it until next takes it. From watcherLimit on it refuses more, and the hub reads it again later; so an RPC
// that waits for its client does not make it grow.
//
// One goroutine calls watch, next and close.
type watcher struct {
	stream  *coalesce.Stream
	permits WatchPermits
	news    chan struct{} // has an element when there may be something for next

	mu      sync.Mutex // guards the fields below
	user    string     // whose RPC it is
	ranges  []coalesce.Range
	events  []wire.Event
	bytes   int // of events
	refused bool
	ended   error // why there will be nothing more
}

// watcherLimit is in bytes of events. One message more may be taken, which is a whole revision.
const watcherLimit = 64 << 10

// newWatcher makes a watcher, which must be closed.
func newWatcher(hub *coalesce.Hub, permits WatchPermits) *watcher {
	w := &watcher{permits: permits, news: make(chan struct{}, 1)}
	w.stream = hub.NewStream(w)
	return w
}

// watch adds a watch for who sends the request of ctx, always the same one. It ends when that user may no longer read its
// range.
func (w *watcher) watch(ctx context.Context, o coalesce.Watch) error {
	user, err := w.permits.PermitWatch(ctx, o.Key, o.End)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.user, w.ranges = user, append(w.ranges, coalesce.Range{Key: o.Key, End: o.End})
	w.mu.Unlock()
	w.Recheck() // what has changed since it was permitted
	if err := w.stream.Watch(ctx, new(coalesce.Watcher), o, coalesce.Known); err != nil {
		return watchError(err)
	}
	return nil
}

// next waits for events and returns them, those of each watch in order. The error is ctx's, or why a watch has ended:
// isCompacted tells whether its history was gone.
func (w *watcher) next(ctx context.Context) ([]wire.Event, error) {
	for {
		if events, err := w.take(); len(events) > 0 || err != nil {
			return events, err
		}
		select {
		case <-w.news:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (w *watcher) take() ([]wire.Event, error) {
	w.mu.Lock()
	events, err, drained := w.events, w.ended, w.refused
	w.events, w.bytes, w.refused = nil, 0, false
	w.mu.Unlock()
	if drained {
		w.stream.Drained()
	}
	if len(events) > 0 {
		return events, nil // the error comes next
	}
	return nil, err
}

func (w *watcher) close() { w.stream.Close() }

// Created is part of coalesce.Sink.
func (w *watcher) Created(*coalesce.Watcher, int64) {}

// Deliver is part of coalesce.Sink.
func (w *watcher) Deliver(_ *coalesce.Watcher, m *coalesce.Message) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		return true // and drop it
	}
	if w.bytes >= watcherLimit {
		w.refused = true
		return false
	}
	w.events = append(w.events, m.Events...)
	for i := range m.Events {
		w.bytes += m.Events[i].Size(false)
	}
	w.wake()
	return true
}

// Progress is part of coalesce.Sink. Nobody asks for it.
func (w *watcher) Progress(*coalesce.Watcher, int64, int) bool { return true }

// Canceled is part of coalesce.Sink.
func (w *watcher) Canceled(_ *coalesce.Watcher, reason error) { w.Ended(reason) }

// Ended is part of coalesce.Sink.
func (w *watcher) Ended(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended == nil {
		w.ended = watchError(err)
	}
	w.wake()
}

// Recheck is part of coalesce.Sink.
func (w *watcher) Recheck() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.ranges {
		if err := w.permits.PermitUser(w.user, r.Key, r.End); err != nil && w.ended == nil {
			w.ended = err
			w.events, w.bytes = nil, 0
			w.wake()
			return
		}
	}
}

// wake is called with w.mu held.
func (w *watcher) wake() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// watchError is what an RPC answers when its watch ends.
func watchError(err error) error {
	if errors.Is(err, coalesce.ErrHubClosed) {
		return rpctypes.ErrGRPCStopped
	}
	return err
}

func isCompacted(err error) bool {
	var compacted *coalesce.CompactedError
	return errors.As(err, &compacted)
}
