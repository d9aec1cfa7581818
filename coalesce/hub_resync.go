package coalesce

import (
	"fmt"

	"weir/grpcapi/wire"
)

// cohort is the waiting watchers of one group that lack the same revisions: they are read and encoded once.
type cohort struct {
	cohortKey
	watchers     watcherList
	ahead, after *cohort
}

type cohortKey struct {
	group *group
	next  int64
}

// cohorts is the queue of them. Each is served a chunk in its turn, so that those with much to read do not keep the
// others waiting.
type cohorts struct {
	byKey       map[cohortKey]*cohort
	first, last *cohort
}

func newCohorts() cohorts { return cohorts{byKey: map[cohortKey]*cohort{}} }

// add puts w into its cohort, which goes to the end of the queue if it is new.
func (q *cohorts) add(w *Watcher) {
	key := cohortKey{w.group, w.next}
	c := q.byKey[key]
	if c == nil {
		c = &cohort{cohortKey: key, ahead: q.last}
		q.byKey[key] = c
		if q.last == nil {
			q.first = c
		} else {
			q.last.after = c
		}
		q.last = c
	}
	c.watchers.push(w)
}

// prune drops the cohort that w has been taken from, if it is empty.
func (q *cohorts) prune(w *Watcher) {
	if c := q.byKey[cohortKey{w.group, w.next}]; c.watchers.first == nil {
		q.drop(c)
	}
}

func (q *cohorts) drop(c *cohort) {
	delete(q.byKey, c.cohortKey)
	if c.ahead == nil {
		q.first = c.after
	} else {
		c.ahead.after = c.after
	}
	if c.after == nil {
		q.last = c.ahead
	} else {
		c.after.ahead = c.ahead
	}
}

// resyncer serves one cohort after another, a chunk each. Its fields are only there to be used again.
type resyncer struct {
	hub     *Hub
	served  []serving
	batches []Batch
	events  []wire.Event
}

// serving is one watcher of the cohort that is being served.
type serving struct {
	watcher *Watcher
	refused bool
	drained uint32 // of its stream, before it refused
}

func newResyncer(h *Hub) *resyncer {
	return &resyncer{hub: h, batches: make([]Batch, 0, turnBatches)}
}

func (h *Hub) runResyncer() {
	r := newResyncer(h)
	for h.awaitCohort() {
		r.resync()
	}
}

// awaitCohort returns false when the hub is closed.
func (h *Hub) awaitCohort() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.queue.first == nil && !h.closed {
		h.queued.Wait()
	}
	return !h.closed
}

// resync serves the first cohort of the queue. It returns false if there is none.
func (r *resyncer) resync() bool {
	key, ok := r.take()
	if !ok {
		return false
	}
	next, err := r.read(key)
	if err != nil {
		r.cancel(err)
		return true
	}
	if len(r.events) > 0 {
		r.deliver(&Message{Revision: next - 1, Events: r.events, PrevKV: key.group.options.prevKV})
	}
	r.place(next)
	return true
}

func (r *resyncer) take() (cohortKey, bool) {
	h := r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.queue.first
	if c == nil {
		return cohortKey{}, false
	}
	h.queue.drop(c)
	clear(r.served)
	r.served = r.served[:0]
	for w := c.watchers.first; w != nil; w = c.watchers.first {
		w.unlist()
		w.stream.enter(w, reading)
		r.served = append(r.served, serving{watcher: w})
	}
	return c.cohortKey, true
}

// read fills r.events with a chunk of what the group lacks from key.next on, from the ring if it reaches back so
// far. It returns the revision after the chunk.
func (r *resyncer) read(key cohortKey) (next int64, err error) {
	clear(r.events[:cap(r.events)])
	r.events = r.events[:0]
	next, ok := r.readRing(key)
	if !ok {
		if next, err = r.readHistory(key); err != nil {
			return 0, err
		}
	}
	if key.group.options.prevKV {
		next = r.findPrevs(next)
	}
	return next, nil
}

// findPrevs fills in previous values, until they make a chunk. The rest of r.events is left for the next one.
func (r *resyncer) findPrevs(next int64) int64 {
	size := 0
	for i := range r.events {
		if r.hub.isChunk(size, r.events, i) {
			next = r.events[i].ModRev
			r.events = r.events[:i]
			break
		}
		e := &r.events[i]
		if e.Prev == nil && !e.Create {
			e.Prev = r.hub.source.Prev(e.Key, e.ModRev)
		}
		size += eventBytes(e)
	}
	return next
}

func (r *resyncer) readRing(key cohortKey) (next int64, ok bool) {
	next = key.next
	for size := 0; size < r.hub.chunk; {
		batches, after, ok := r.hub.ring.read(next, r.batches, r.hub.chunk)
		if !ok {
			// The ring has moved on. What was read of it before is whole.
			return next, next > key.next
		}
		for i := range batches {
			size += r.add(key.group, &batches[i])
			next = batches[i].Revision + 1
			if size >= r.hub.chunk {
				after = next
				break
			}
		}
		clear(batches)
		if after == next && len(batches) == 0 {
			break
		}
		next = after
	}
	return next, true
}

func (r *resyncer) readHistory(key cohortKey) (next int64, err error) {
	h, g, size, last := r.hub, key.group, 0, int64(0)
	next, err = h.source.History(h.ctx, []byte(g.key), []byte(g.end), key.next, func(b Batch) bool {
		size += r.add(g, &b)
		last = b.Revision
		return size < h.chunk
	})
	if err != nil {
		return 0, err
	}
	if next <= key.next || next <= last {
		return 0, fmt.Errorf("history from revision %d to %d says to go on at %d", key.next, last, next)
	}
	return next, nil
}

// add appends the events of b that the group wants, and returns what they take.
func (r *resyncer) add(g *group, b *Batch) (size int) {
	for i := range b.Events {
		e := &b.Events[i]
		if g.contains(e.Key) && !g.options.skips(e) {
			r.events = append(r.events, *e)
			size += eventBytes(e)
		}
	}
	return size
}

func (r *resyncer) deliver(m *Message) {
	for i := range r.served {
		s := &r.served[i]
		stream := s.watcher.stream
		s.drained = stream.drained.Load()
		s.refused = !stream.sink.Deliver(s.watcher, m)
		s.watcher.busy = s.watcher.busy || !s.refused
	}
}

// place gives the cohort to who is to serve it next, now that all who did not refuse have what is before next.
func (r *resyncer) place(next int64) {
	h := r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range r.served {
		w := s.watcher
		if w.state != reading {
			continue // ended meanwhile
		}
		if s.refused {
			w.stream.refuse(s.drained)
		} else {
			w.next = next
		}
		if w.next > h.pos {
			h.place(w)
		} else { // step back behind those of its stream that are held
			w.stream.enter(w, held)
			w.stream.held.push(w)
		}
		h.release(w.stream)
	}
}

// cancel ends the cohort. Watchers whose history could not be read because the hub closes are left to Close.
func (r *resyncer) cancel(reason error) {
	h := r.hub
	if h.ctx.Err() != nil {
		return
	}
	for _, s := range r.served {
		h.mu.Lock()
		ended := h.end(s.watcher)
		h.mu.Unlock()
		if ended {
			s.watcher.stream.sink.Canceled(s.watcher, reason)
		}
	}
}
