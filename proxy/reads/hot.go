package reads

import (
	"context"
	"errors"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"weir/cache"
	"weir/coalesce"
	"weir/grpcapi/wire"
)

// hot is a hot range: a snapshot of all its keys, and the watch that keeps it current.
//
// The idea: to the hub it is one more client, with a stream that has one watch. So whatever upstream does to a watch is
// the hub's work already: sessions that are lost and resumed, feeds that are widened and divided, compaction. What is
// left is to apply events in order, and to end when the watch is cancelled.
//
// It begins as a watch from now, of which the events are pending until the snapshot has been read (see load.go), is then
// in the catalog and found by reads, and ends once, with a reason. What an ended one has is as right as before, but will
// not become newer: who has found it may finish with it.
//
// Rejected: a feed of its own, next to those of the hub, which would save a copy of each event's slice header and would
// need all of the above a second time.
type hot struct {
	interval
	span  coalesce.Range // the same
	era   uint64
	fixed bool
	since int64           // everything after it is delivered; set when the watch is created
	snap  *cache.Snapshot // set before it is in the catalog

	keeper  *Keeper
	stream  *coalesce.Stream
	watcher coalesce.Watcher
	gone    chan struct{}           // closed when it has ended
	cancel  context.CancelCauseFunc // of the load

	proven atomic.Pointer[time.Time] // when the snapshot was last known to lack nothing; see follow
	spared atomic.Int64              // microseconds of upstream's work, since it began
	events atomic.Int64              // applied

	review review // guarded by keeper.mu

	mu      sync.Mutex // guards the fields below, and changes of snap
	reason  error      // why it has ended
	loaded  bool       // snap has everything that has been delivered
	pending []revision // what was delivered before snap was there
	waits   []wait     // by ascending revision
	asked   int64      // the newest revision for which the hub was asked to tell progress

	bytes        int // memory that it takes, as counted in keeper.held
	loading      int // until it is loaded: for what has been read,
	pendingBytes int // and for pending
}

// revision is the events of one revision, in memory of their own.
type revision struct {
	rev    int64
	events []wire.Event
	bytes  int
}

// wait is everybody who waits for one revision.
type wait struct {
	rev     int64
	many    int
	reached chan struct{}
}

// errDropped is why nothing newer is to be expected of a hot range.
var errDropped = errors.New("reads: the range is not kept in memory any more")

// dropped tells whether the snapshot may be behind for ever.
func (h *hot) dropped() bool {
	select {
	case <-h.gone:
		return true
	default:
		return false
	}
}

// used counts upstream's work that a read would have cost, had it been forwarded.
func (h *hot) used(cost time.Duration) { h.spared.Add(cost.Microseconds()) }

// await waits until the snapshot has everything up to rev, which upstream must have reached. It fails with ctx, and with
// errDropped. All who wait share one request for progress; an event that comes before the answer serves as well.
func (h *hot) await(ctx context.Context, rev int64) error {
	if h.snap.Revision() >= rev {
		return nil
	}
	reached, ask := h.join(rev)
	if reached == nil {
		return nil
	}
	if ask {
		h.stream.Await(rev)
	}
	select {
	case <-reached:
		return nil
	case <-h.gone:
		h.leave(rev)
		return errDropped
	case <-ctx.Done():
		h.leave(rev)
		return ctx.Err()
	}
}

// join returns what is closed when rev is reached, or nil if it has been, and whether the hub is to be asked.
func (h *hot) join(rev int64) (reached chan struct{}, ask bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.snap.Revision() >= rev {
		return nil, false
	}
	if ask = rev > h.asked; ask {
		h.asked = rev
	}
	at := h.waitsFrom(rev)
	if at == len(h.waits) || h.waits[at].rev != rev {
		h.waits = slices.Insert(h.waits, at, wait{rev: rev, reached: make(chan struct{})})
	}
	h.waits[at].many++
	return h.waits[at].reached, ask
}

// leave is for who does not wait any longer.
func (h *hot) leave(rev int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.waitsFrom(rev)
	if at == len(h.waits) || h.waits[at].rev != rev {
		return // it has just been reached
	}
	if h.waits[at].many--; h.waits[at].many == 0 {
		h.waits = slices.Delete(h.waits, at, at+1)
	}
}

// waitsFrom is the place of those who wait for rev or later. h.mu is held.
func (h *hot) waitsFrom(rev int64) int {
	return sort.Search(len(h.waits), func(i int) bool { return h.waits[i].rev >= rev })
}

// wake is called with h.mu held, when the snapshot has become newer.
func (h *hot) wake() {
	n := h.waitsFrom(h.snap.Revision() + 1)
	for _, w := range h.waits[:n] {
		close(w.reached)
	}
	h.waits = slices.Delete(h.waits, 0, n)
}

// Created is part of coalesce.Sink.
func (h *hot) Created(_ *coalesce.Watcher, now int64) { h.since = now }

// Deliver is part of coalesce.Sink. It takes every message.
func (h *hot) Deliver(_ *coalesce.Watcher, m *coalesce.Message) bool {
	if err := h.take(m); err != nil {
		h.keeper.drop(h, err)
	}
	return true
}

func (h *hot) take(m *coalesce.Message) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reason != nil {
		return nil
	}
	for events := m.Events; len(events) > 0; {
		n := 1
		for n < len(events) && events[n].ModRev == events[0].ModRev {
			n++
		}
		if err := h.apply(events[:n:n]); err != nil {
			return err
		}
		events = events[n:]
	}
	h.advance(m.Revision)
	return nil
}

// apply takes all events of one revision. h.mu is held.
func (h *hot) apply(events []wire.Event) error {
	if h.loaded {
		h.events.Add(int64(len(events)))
		return h.snap.Apply(events[0].ModRev, events)
	}
	r := copyRevision(events)
	h.pending = append(h.pending, r)
	h.pendingBytes += r.bytes
	if !h.count() {
		return errNoRoom
	}
	return nil
}

// advance tells that everything up to rev has been taken. h.mu is held.
func (h *hot) advance(rev int64) {
	if !h.loaded {
		return // nobody waits yet
	}
	h.snap.Advance(rev)
	h.wake()
	if !h.count() {
		h.keeper.pokeTend()
	}
}

// count counts the memory that the hot range takes now. It tells whether all of them together are within their bound.
// h.mu is held.
func (h *hot) count() (within bool) {
	was := h.bytes
	switch {
	case h.reason != nil:
		h.bytes = 0
	case h.loaded:
		h.bytes = h.snap.Bytes()
	default:
		h.bytes = h.loading + h.pendingBytes
	}
	return h.keeper.held.Add(int64(h.bytes-was)) <= int64(h.keeper.limit)
}

// forget tells that upstream has compacted what is before rev.
func (h *hot) forget(rev int64) {
	if h.snap.Oldest() >= rev {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.snap.Forget(rev)
	h.count()
}

// end ends the hot range, and tells whether it had not ended before.
func (h *hot) end(reason error) bool {
	h.mu.Lock()
	if h.reason != nil {
		h.mu.Unlock()
		return false
	}
	h.reason = reason
	h.pending = nil
	h.count()
	close(h.gone)
	h.mu.Unlock()
	h.cancel(reason)
	h.stream.Close()
	return true
}

// copyRevision copies events out of the messages that they came in, which may be much larger.
func copyRevision(events []wire.Event) revision {
	r := revision{rev: events[0].ModRev, events: slices.Clone(events)}
	for i := range r.events {
		e := &r.events[i]
		buf := append(make([]byte, 0, len(e.Data)+len(e.Key)), e.Data...)
		buf = append(buf, e.Key...)
		e.Data, e.Key, e.Prev = buf[:len(e.Data):len(e.Data)], buf[len(e.Data):], nil
		r.bytes += len(buf) + eventBytes
	}
	return r
}

// eventBytes is about what an event takes besides its Data and Key.
const eventBytes = 160

// follow brings the snapshot to where its watch is, of which it is not told while nobody waits for it: else a quiet range that
// nobody reads would be of unknown age when upstream goes away, and keep a revision in its window that has long been
// compacted. It is called again and again.
func (h *hot) follow() {
	if rev := h.stream.Delivered(); rev > h.snap.Revision() {
		h.mu.Lock()
		if h.reason == nil {
			h.advance(rev)
		}
		h.mu.Unlock()
	}
	if at := h.keeper.up.ProvenAt(h.snap.Revision()); !at.IsZero() {
		h.proven.Store(&at)
	}
}

// Progress is part of coalesce.Sink.
func (h *hot) Progress(_ *coalesce.Watcher, rev int64, _ int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reason == nil {
		h.advance(rev)
	}
	return true
}

// Canceled is part of coalesce.Sink.
func (h *hot) Canceled(_ *coalesce.Watcher, reason error) { h.keeper.drop(h, reason) }

// Ended is part of coalesce.Sink.
func (h *hot) Ended(error) { h.keeper.drop(h, errUnshared) }

// Recheck is part of coalesce.Sink. Upstream does it.
func (h *hot) Recheck() {}
