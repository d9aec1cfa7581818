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

// resyncer brings waiting watchers up to date. In one round it serves one cohort that needs history, a chunk of it,
// or many cohorts that only need the ring, which is then walked once for all of them: when ten thousand clients
// come back after a broken connection, it matters that the ring is not walked ten thousand times.
//
// Its fields belong to its goroutine and are kept only so that their memory is used again.
type resyncer struct {
	hub     *Hub
	parts   []part
	batches []Batch
	groups  []*group
}

// part is one cohort in a round.
type part struct {
	cohortKey
	served  []serving
	events  []wire.Event // for the cohort
	size    int          // of events
	next    int64        // up to where, exclusively, events is all
	sibling int          // index of another part of the same group, or -1
}

// serving is one watcher of a cohort.
type serving struct {
	watcher *Watcher
	refused bool
	drained uint32 // of its stream, before it refused
}

const (
	// roundCohorts bounds the cohorts of one round.
	roundCohorts = 512
	// roundChunks bounds the events of one round that walks the ring, in chunks.
	roundChunks = 8
)

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

// resync is one round. It returns false if no watcher waits.
func (r *resyncer) resync() bool {
	fromRing := r.take()
	if len(r.parts) == 0 {
		return false
	}
	if fromRing {
		r.readRing()
	} else if err := r.readHistory(&r.parts[0]); err != nil {
		r.cancel(&r.parts[0], err)
		r.parts[0].forget()
		return true
	}
	for i := range r.parts {
		p := &r.parts[i]
		if p.group.options.prevKV {
			r.findPrevs(p)
		}
		if len(p.events) > 0 {
			p.deliver()
		}
		r.place(p)
		p.forget()
	}
	return true
}

// forget lets go of what p points to. It keeps a little memory for the next cohort.
func (p *part) forget() {
	const kept = 64
	if cap(p.events) > kept {
		p.events = nil
	}
	if cap(p.served) > kept {
		p.served = nil
	}
	clear(p.events)
	clear(p.served)
	*p = part{events: p.events[:0], served: p.served[:0]}
}

// take fills r.parts from the queue: with its first cohort, and, if the ring has all that this one lacks, with those
// after it of which that is true as well.
func (r *resyncer) take() (fromRing bool) {
	h := r.hub
	oldest := h.ring.oldest()
	h.mu.Lock()
	defer h.mu.Unlock()
	r.parts = r.parts[:0]
	for c := h.queue.first; c != nil && len(r.parts) < roundCohorts; c = h.queue.first {
		inRing := c.next >= oldest
		if len(r.parts) > 0 && (!inRing || !fromRing) {
			break
		}
		fromRing = inRing
		h.queue.drop(c)
		r.add(c)
	}
	return fromRing
}

// add makes c a part. h.mu is held.
func (r *resyncer) add(c *cohort) {
	if len(r.parts) < cap(r.parts) {
		r.parts = r.parts[:len(r.parts)+1]
	} else {
		r.parts = append(r.parts, part{})
	}
	p := &r.parts[len(r.parts)-1]
	*p = part{cohortKey: c.cohortKey, served: p.served, events: p.events, next: c.cohortKey.next, sibling: -1}
	for w := c.watchers.first; w != nil; w = c.watchers.first {
		w.unlist()
		w.stream.enter(w, reading)
		p.served = append(p.served, serving{watcher: w})
	}
}

// readRing walks the ring from the first revision that any part lacks. If the ring has moved on from there
// meanwhile, nothing is read, and the queue will be told.
func (r *resyncer) readRing() {
	next := r.parts[0].next
	x := newIndex()
	for i := range r.parts {
		p := &r.parts[i]
		next = min(next, p.next)
		g := x.group([]byte(p.group.key), []byte(p.group.end), p.group.options)
		if g.turn == 1 {
			p.sibling = g.slot
		}
		g.turn, g.slot = 1, i
	}
	for size, full := 0, false; !full; {
		batches, after, ok := r.hub.ring.read(next, r.batches, r.hub.chunk)
		if !ok || after == next {
			break
		}
		for i := range batches {
			added, chunk := r.match(&x, &batches[i])
			if size += added; chunk || size >= roundChunks*r.hub.chunk {
				after, full = batches[i].Revision+1, true
				break
			}
		}
		clear(batches)
		next = after
	}
	for i := range r.parts {
		r.parts[i].next = max(r.parts[i].next, next)
	}
}

// match gives the events of b to the parts that lack them. It returns their size, and whether a part has a chunk now.
func (r *resyncer) match(x *index, b *Batch) (size int, chunk bool) {
	for i := range b.Events {
		e := &b.Events[i]
		r.groups = x.match(e, r.groups[:0])
		for _, g := range r.groups {
			for at := g.slot; at >= 0; at = r.parts[at].sibling {
				if p := &r.parts[at]; b.Revision >= p.next {
					size += p.add(e)
					chunk = chunk || p.size >= r.hub.chunk
				}
			}
		}
	}
	return size, chunk
}

func (p *part) add(e *wire.Event) (size int) {
	p.events = append(p.events, *e)
	n := eventBytes(e)
	p.size += n
	return n
}

func (r *resyncer) readHistory(p *part) error {
	h, last := r.hub, int64(0)
	next, err := h.source.History(h.ctx, []byte(p.group.key), []byte(p.group.end), p.next, func(b Batch) bool {
		for i := range b.Events {
			if e := &b.Events[i]; !p.group.options.skips(e) {
				p.add(e)
			}
		}
		last = b.Revision
		return p.size < h.chunk
	})
	if err != nil {
		return err
	}
	if next <= p.next || next <= last {
		return fmt.Errorf("history from revision %d to %d says to go on at %d", p.next, last, next)
	}
	p.next = next
	return nil
}

// findPrevs fills in previous values, until they make a chunk. The rest of the events is left for the next round.
func (r *resyncer) findPrevs(p *part) {
	size := 0
	for i := range p.events {
		if r.hub.isChunk(size, p.events, i) {
			p.next = p.events[i].ModRev
			clear(p.events[i:])
			p.events = p.events[:i]
			return
		}
		e := &p.events[i]
		if e.Prev == nil && !e.Create {
			e.Prev = r.hub.source.Prev(e.Key, e.ModRev)
		}
		size += eventBytes(e)
	}
}

func (p *part) deliver() {
	m := &Message{Revision: p.next - 1, Events: p.events, PrevKV: p.group.options.prevKV}
	for i := range p.served {
		s := &p.served[i]
		stream := s.watcher.stream
		s.drained = stream.drained.Load()
		s.refused = !stream.sink.Deliver(s.watcher, m)
		s.watcher.busy = s.watcher.busy || !s.refused
	}
}

// place gives the watchers of a cohort to who is to serve them next, now that all who did not refuse have what is
// before p.next.
func (r *resyncer) place(p *part) {
	h := r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range p.served {
		w := s.watcher
		if w.state != reading {
			continue // ended meanwhile
		}
		if s.refused {
			w.stream.refuse(s.drained)
		} else {
			w.next = p.next
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

// cancel ends a cohort. Watchers whose history could not be read because the hub closes are left to Close. Until a sink
// knows of the end the watcher counts as behind, or the stream could be told a progress first that it never had.
func (r *resyncer) cancel(p *part, reason error) {
	h := r.hub
	if h.ctx.Err() != nil {
		return
	}
	for _, s := range p.served {
		h.mu.Lock()
		over := s.watcher.state == ended // its client was faster
		h.mu.Unlock()
		if !over {
			s.watcher.stream.sink.Canceled(s.watcher, reason)
		}
		h.mu.Lock()
		h.end(s.watcher)
		h.mu.Unlock()
	}
}
