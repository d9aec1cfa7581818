package coalesce

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"weir/grpcapi/wire"
)

// resyncer brings waiting watchers up to date. In one round it serves cohorts of one feed: many that only need the ring,
// which is then walked once for all of them (when ten thousand clients come back after a broken connection, it matters
// that the ring is not walked ten thousand times), or those that need history: one, or many where the feed says that
// one read for all of them is cheaper. A round ends when one of the cohorts has a chunk. Watchers that lack what is
// compacted are cancelled without being read for.
//
// A resyncer is the memory for one round; between two it keeps nothing.
type resyncer struct {
	hub     *Hub
	feed    *Feed
	parts   []part
	batches []Batch
	groups  []*group
	closed  []*Watcher // their feed was closed meanwhile

	lost      []*Watcher // they lack what is compacted
	compacted int64      // revision, for those
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
	// ringCohorts bounds the cohorts of one round from the ring.
	ringCohorts = 512
	// mergedCohorts bounds those of one round from merged history: each round may wait for a network.
	mergedCohorts = 4096
	// roundChunks bounds the events of one round that are for anybody, in chunks.
	roundChunks = 8
	// roundWaste bounds all that is read of history in one round, in chunks: the cohorts wait until it is over.
	roundWaste = 64
)

func newResyncer(h *Hub) *resyncer {
	return &resyncer{hub: h, batches: make([]Batch, 0, turnBatches)}
}

// resync is one round. It returns false if no watcher waits.
func (h *Hub) resync(l lag) bool {
	r := h.resyncers.Get().(*resyncer)
	defer h.resyncers.Put(r)
	if !r.take(l) {
		return false
	}
	r.cancelLost()
	switch {
	case len(r.parts) == 0:
	case l == fromRing:
		r.readRing()
	default:
		if err := r.readHistory(); err != nil {
			r.fail(err)
		}
	}
	for i := range r.parts {
		p := &r.parts[i]
		if p.group.options.prevKV {
			r.findPrevs(p)
		}
		if len(p.events) > 0 {
			p.deliver(r.hub)
		}
		r.place(p)
		p.forget()
	}
	if r.feed = nil; cap(r.parts) > 2*ringCohorts {
		r.parts = nil
	}
	return true
}

func (r *resyncer) cancelLost() {
	for _, w := range r.lost {
		r.hub.cancelWatcher(w, &CompactedError{CompactRevision: r.compacted})
	}
	r.lost = nil
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

// take fills r.parts and r.lost from the queue of the feed whose turn it is. It returns false, and counts the resyncer
// out, if there is nothing to do.
func (r *resyncer) take(l lag) bool {
	h := r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	r.parts = r.parts[:0]
	for r.feed = h.lagging[l].pop(l); r.feed != nil; r.feed = h.lagging[l].pop(l) {
		most := ringCohorts
		switch {
		case l == fromHistory && r.feed.mergeHistory:
			most = h.round
		case l == fromHistory:
			most = 1
		}
		queue := &r.feed.waiting[l]
		steps := 0
		for c := queue.first; c != nil && steps < most; c = queue.first {
			h.drop(c)
			if h.isLost(r.feed, c.next) {
				r.lose(c)
			} else {
				r.add(c)
			}
			h.rest(&steps, nil)
		}
		if queue.first != nil {
			h.lagging[l].push(r.feed, l)
		}
		if steps > 0 {
			return true
		}
	}
	h.resyncing[l]--
	return false
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

// lose has the watchers of c cancelled. h.mu is held.
func (r *resyncer) lose(c *cohort) {
	for w := c.watchers.first; w != nil; w = c.watchers.first {
		w.unlist()
		w.stream.enter(w, reading)
		r.lost = append(r.lost, w)
	}
	r.compacted = r.hub.compacted
}

// readRing walks the ring from the first revision that any part lacks. If the ring has moved on from there
// meanwhile, nothing is read, and the parts are queued for history.
func (r *resyncer) readRing() {
	x, next := r.index()
	for size, full := 0, false; !full; {
		batches, after, ok := r.feed.ring.read(next, r.batches, r.hub.chunk)
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
	r.advance(next)
}

// index finds the parts that want an event, and the first revision that any of them lacks. groups in it have turn 1,
// and slot is the first part of theirs.
func (r *resyncer) index() (x index, next int64) {
	next = r.parts[0].next
	for i := range r.parts {
		p := &r.parts[i]
		next = min(next, p.next)
		g := x.group([]byte(p.group.key), []byte(p.group.end), p.group.options)
		if g.turn == 1 {
			p.sibling = int(g.slot)
		}
		g.turn, g.slot = 1, int32(i)
	}
	return x, next
}

// advance records that all parts have what is before next.
func (r *resyncer) advance(next int64) {
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
			for at := int(g.slot); at >= 0; at = r.parts[at].sibling {
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

// historyRead is a read of a feed's Source that is under way.
type historyRead struct{ cancel context.CancelFunc }

// readHistory reads one range that holds those of all parts, from the first revision that any of them lacks. Nothing is
// read, and the parts are placed again, if the feed is closed meanwhile.
func (r *resyncer) readHistory() error {
	h, f := r.hub, r.feed
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	read := &historyRead{cancel}
	f.beginRead(read)
	defer f.endRead(read)

	x, from := r.index()
	last, size, all := int64(0), 0, 0
	next, err := f.source.History(ctx, hull(r.parts), from, func(b Batch) bool {
		added, chunk := r.match(&x, &b)
		size += added
		all += batchBytes(&b)
		last = b.Revision
		return !chunk && size < roundChunks*h.chunk && all < roundWaste*h.chunk
	})
	switch {
	case ctx.Err() != nil:
		r.dropEvents()
		return nil
	case err != nil:
		return err
	case next <= from || next <= last:
		return fmt.Errorf("history from revision %d to %d says to go on at %d", from, last, next)
	}
	r.advance(next)
	return nil
}

func (f *Feed) beginRead(read *historyRead) {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	if f.reads = append(f.reads, read); f.closed != nil {
		read.cancel()
	}
}

func (f *Feed) endRead(read *historyRead) {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	f.reads = slices.DeleteFunc(f.reads, func(r *historyRead) bool { return r == read })
}

// dropEvents forgets what has been read for the parts.
func (r *resyncer) dropEvents() {
	for i := range r.parts {
		p := &r.parts[i]
		clear(p.events)
		p.events, p.size = p.events[:0], 0
	}
}

// fail cancels those whose history cannot be read. If it is compacted, these are the parts that need what is gone; the
// others were read for only from too early on, and are placed again.
func (r *resyncer) fail(err error) {
	r.dropEvents()
	_, from := r.index()
	var compacted *CompactedError
	if !errors.As(err, &compacted) {
		compacted = nil
	}
	for i := range r.parts {
		p := &r.parts[i]
		if compacted != nil && p.next >= compacted.CompactRevision && p.next > from {
			continue
		}
		for _, s := range p.served {
			r.hub.cancelWatcher(s.watcher, err)
		}
		clear(p.served)
		p.served = p.served[:0]
	}
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
			e.Prev = r.feed.source.Prev(e.Key, e.ModRev)
		}
		size += eventBytes(e)
	}
}

func (p *part) deliver(h *Hub) {
	m := &Message{Revision: p.next - 1, Events: p.events, PrevKV: p.group.options.prevKV, Fanout: len(p.served)}
	taken := 0
	for i := range p.served {
		s := &p.served[i]
		stream := s.watcher.stream
		s.drained = stream.drained.Load()
		if s.refused = !stream.sink.Deliver(s.watcher, m); !s.refused {
			s.watcher.busy = true
			taken++
		}
	}
	if taken > 0 {
		h.count(taken*len(p.events), len(p.events))
	}
}

// place gives the watchers of a cohort to who is to serve them next, now that all who did not refuse have what is
// before p.next. Some may have been moved to another feed meanwhile.
func (r *resyncer) place(p *part) {
	h := r.hub
	h.mu.Lock()
	if r.feed.closed == nil { // else the store may have been replaced
		h.reached = max(h.reached, p.next-1)
	}
	for _, s := range p.served {
		w := s.watcher
		if w.state != reading {
			continue // ended meanwhile
		}
		if s.refused {
			w.stream.refuse(s.drained)
		} else {
			w.next = p.next
			if len(p.events) > 0 {
				w.stream.take()
			}
		}
		f := w.group.feed
		switch {
		case f.closed != nil:
			r.closed = append(r.closed, w)
			continue
		case w.next > f.pos:
			h.place(w)
		default: // step back behind those of its stream that are held
			w.stream.enter(w, held)
			w.stream.held[h.lagOf(f, w.next)].push(w)
		}
		h.release(w.stream)
	}
	h.mu.Unlock()

	for _, w := range r.closed {
		h.cancelWatcher(w, w.group.feed.closed)
	}
	clear(r.closed)
	r.closed = r.closed[:0]
}
