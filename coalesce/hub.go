package coalesce

import (
	"context"
	"errors"
	"sync"

	"weir/grpcapi/wire"
)

// Batch is all events of one revision, in the order in which they were made.
type Batch struct {
	Revision int64
	Events   []wire.Event
}

// Source is where the hub resyncs watchers from that are older than its ring, and finds previous values. Its methods
// are called concurrently, without locks held.
type Source interface {
	// History calls yield with each revision from `from` on, in order, that touched [key, end) (etcd's meaning of
	// range ends), whole and with only the events of that range, until yield returns false or the newest is reached.
	// It returns the next revision to ask from: one more than the last it yielded if it was stopped, else one more
	// than the newest, which is at least the newest that had been published when it was called. Below the compact
	// revision it returns a *CompactedError, also when compaction overtakes it.
	History(ctx context.Context, key, end []byte, from int64, yield func(Batch) bool) (next int64, err error)
	// Prev returns the encoded KeyValue that key had just before revision rev, or nil when there was none or it is compacted.
	Prev(key []byte, rev int64) []byte
}

// CompactedError says that history was asked for which is no longer there.
type CompactedError struct{ CompactRevision int64 }

func (e *CompactedError) Error() string { return "required revision has been compacted" }

// ErrHubClosed is why watchers are cancelled when their hub is closed.
var ErrHubClosed = errors.New("watch hub is closed")

// resyncers is how many goroutines bring watchers up to date that are not live. They are few, because each may hold
// a chunk of history and keep a processor busy, and more than one, because each may wait for a disk.
const resyncers = 4

// chunkBytes is from where on a message is not given more revisions.
const chunkBytes = 128 << 10

// Hub fans one ordered stream of revisions out to watchers.
//
// The idea: the newest revisions are in a ring, and every watcher owns the next revision that it is to be sent.
// Publish appends to the ring and is done. One goroutine, the broadcaster, walks the ring behind the publisher and
// serves all watchers that are exactly where it is: those are live, and cost nothing while nothing happens to
// them. A watcher that starts in the past, or whose client did not take a message, is not live. It keeps its next
// revision, and one of a few resyncers sends it what it lacks, from the ring or from the Source, until it is where
// the broadcaster is. A watcher has only one of them serving it at a time, so that it is sent every event once and
// in order.
//
// Clients are reached through their Sink, which never waits. Nobody holds a lock meanwhile.
//
// Tried by others and rejected: a goroutine and a channel for each watcher (costs more than the sending itself, and
// a full channel has to be waited for or dropped), and sending under the lock of the store (a slow client is then
// everybody's).
//
// All methods may be called concurrently, except Publish, whose calls are the order of revisions.
type Hub struct {
	source Source
	ring   *ring
	chunk  int // chunkBytes, and smaller in tests
	window int // streamWindow, and smaller in tests
	caster broadcaster

	wake   chan struct{} // has an element when the broadcaster may have work
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu        sync.Mutex // guards the fields below, and those of groups, streams and watchers
	index     index
	pos       int64      // what live watchers are up to; of the broadcaster, which alone changes it
	queue     cohorts    // of waiting watchers
	queued    *sync.Cond // queue is not empty, or closed
	asking    []*Stream  // want progress
	compacted int64
	closed    bool
	streams   map[*Stream]struct{}
}

// NewHub makes a hub whose newest revision is rev. ringBytes bounds the history it keeps in memory.
func NewHub(source Source, rev int64, ringBytes int) *Hub {
	h := newHub(source, rev, ringBytes, chunkBytes, streamWindow)
	h.tasks.Go(h.runBroadcaster)
	for range resyncers {
		h.tasks.Go(h.runResyncer)
	}
	return h
}

// newHub makes a hub that does nothing by itself, for tests that take its steps one by one.
func newHub(source Source, rev int64, ringBytes, chunk, window int) *Hub {
	h := &Hub{
		source:  source,
		ring:    newRing(rev, ringBytes),
		chunk:   chunk,
		window:  window,
		wake:    make(chan struct{}, 1),
		index:   newIndex(),
		pos:     rev,
		queue:   newCohorts(),
		streams: map[*Stream]struct{}{},
	}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.queued = sync.NewCond(&h.mu)
	return h
}

// Publish appends one revision. It never waits for a watcher. Revisions must ascend; gaps are revisions without
// events, and a Batch without events moves the hub's newest revision. Whoever is told of a write (its client, or a
// reader of Hub.Revision) must be told after it is published, or a watcher that starts "now" could be sent it.
func (h *Hub) Publish(b Batch) {
	h.ring.append(b)
	h.poke()
}

// Revision is the newest revision published.
func (h *Hub) Revision() int64 { return h.ring.revision() }

// Compacted tells that history before rev is gone. A Watch that starts before it is cancelled. A watcher that is
// behind is cancelled only if what it lacks is no longer in the ring either.
func (h *Hub) Compacted(rev int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.compacted = max(h.compacted, rev)
}

// Close cancels every watcher with ErrHubClosed and waits for what the hub started. Publish after Close is allowed
// and reaches nobody.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	h.queued.Broadcast()
	h.mu.Unlock()
	h.cancel()
	h.tasks.Wait()

	for _, w := range h.endAll() {
		w.stream.sink.Canceled(w, ErrHubClosed)
	}
}

func (h *Hub) endAll() (all []*Watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.streams {
		all = append(all, s.watchers...)
	}
	for _, w := range all {
		h.end(w)
	}
	return all
}

// poke makes the broadcaster look for work.
func (h *Hub) poke() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// The functions below are called with h.mu held. They are the only ones that change a watcher's state.

// place gives a watcher that nobody serves to who is to serve it next.
func (h *Hub) place(w *Watcher) {
	s := w.stream
	switch {
	case w.next > h.pos:
		s.enter(w, live)
		w.group.join(w)
		if w.next > h.pos+1 {
			s.early.push(w)
		}
		h.ask(s)
	case s.full || s.served >= h.window:
		s.enter(w, held)
		s.held.push(w)
	default:
		s.enter(w, waiting)
		h.queue.add(w)
		h.queued.Signal()
	}
}

// unplace takes a watcher away from who serves it.
func (h *Hub) unplace(w *Watcher) {
	w.unlist()
	switch w.state {
	case live:
		w.group.leave(w)
	case waiting:
		h.queue.prune(w)
	}
}

// release lets held watchers of a stream go on while it has room.
func (h *Hub) release(s *Stream) {
	for s.held.first != nil && !s.full && s.served < h.window {
		w := s.held.first
		w.unlist()
		h.place(w)
	}
}

// refuse records that a stream took no more when its drained count was `drained`. If it has drained since, nobody
// would tell so again, and it counts as having room.
func (s *Stream) refuse(drained uint32) {
	if s.drained.Load() == drained {
		s.full = true
	}
}

// end takes a watcher out of the hub, if it still is in it.
func (h *Hub) end(w *Watcher) {
	if w.state == ended {
		return
	}
	s := w.stream
	h.unplace(w)
	s.enter(w, ended)
	s.remove(w)
	if w.group.size--; w.group.size == 0 {
		h.index.remove(w.group)
	}
	h.release(s)
	h.ask(s)
}
