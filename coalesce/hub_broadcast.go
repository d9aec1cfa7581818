package coalesce

import (
	"slices"

	"weir/grpcapi/wire"
)

// broadcaster serves the live watchers. It goes in turns: it takes what the ring has for it, finds the groups that
// want it and their watchers, and then, without a lock, gives each of them its message. What happens to a watcher
// during a turn (it is cancelled, or another joins) concerns the next turn.
//
// All fields belong to its goroutine and are kept only so that their memory is used again.
type broadcaster struct {
	turn       uint64
	batches    []Batch
	events     []wire.Event // of batches
	asked      []bool       // whether events[i].Prev has been asked for
	groups     []*group
	deliveries []delivery
	matched    []wire.Event // of the delivery that is being made
	message    Message      // of it
	refused    []refusal
	answers    []answer
}

// delivery is one turn of one group.
type delivery struct {
	group   *group
	events  []int32 // indices of broadcaster.events
	members []*Watcher
}

// refusal is a live watcher whose stream took no more.
type refusal struct {
	watcher *Watcher
	next    int64  // the first revision that it has not been sent
	drained uint32 // of its stream, before it refused
}

// turnBatches bounds the revisions of one turn, beside their size.
const turnBatches = 512

func (h *Hub) runBroadcaster() {
	for {
		select {
		case <-h.wake:
		case <-h.ctx.Done():
			return
		}
		for h.broadcast() && h.ctx.Err() == nil {
		}
	}
}

// broadcast is one turn. It returns false when there was nothing new.
func (h *Hub) broadcast() bool {
	c := &h.caster
	if c.batches == nil {
		c.batches = make([]Batch, 0, turnBatches)
	}
	from := h.pos + 1 // nobody else writes pos
	batches, next, ok := h.ring.read(from, c.batches[:0], h.chunk)
	switch {
	case !ok:
		h.overtaken()
	case next > from:
		h.match(batches, next)
		for i := range c.deliveries {
			h.deliver(&c.deliveries[i], next-1)
		}
		h.forget(batches)
	}
	h.answerProgress()
	return next > from || !ok
}

// overtaken makes all live watchers resync: the publisher is ahead of the broadcaster by more than the ring holds.
func (h *Hub) overtaken() {
	h.mu.Lock()
	defer h.mu.Unlock()
	from := h.pos + 1
	h.pos = h.ring.revision()
	for s := range h.streams {
		for _, w := range s.watchers {
			if w.state == live {
				h.unplace(w)
				w.next = max(w.next, from)
				h.place(w)
			}
		}
	}
}

// match fills c.deliveries for batches, and moves the broadcaster's position behind them: whoever becomes live from
// now on must have been sent them.
func (h *Hub) match(batches []Batch, next int64) {
	c := &h.caster
	c.turn++
	c.events = c.events[:0]
	for i := range batches {
		c.events = append(c.events, batches[i].Events...)
	}
	c.asked = append(c.asked[:0], make([]bool, len(c.events))...)

	h.mu.Lock()
	defer h.mu.Unlock()
	c.deliveries = c.deliveries[:cap(c.deliveries)]
	used := 0
	for i := range c.events {
		c.groups = h.index.match(&c.events[i], c.groups[:0])
		for _, g := range c.groups {
			if len(g.live) == 0 {
				continue
			}
			if g.turn != c.turn {
				g.turn, g.slot = c.turn, used
				if used == len(c.deliveries) {
					c.deliveries = append(c.deliveries, delivery{})
				}
				d := &c.deliveries[used]
				d.group, d.events = g, d.events[:0]
				d.members = append(d.members[:0], g.live...)
				used++
			}
			d := &c.deliveries[g.slot]
			d.events = append(d.events, int32(i))
		}
	}
	c.deliveries = c.deliveries[:used]
	h.pos = next - 1
}

// deliver gives the watchers of one group their events of this turn, which is up to rev: in one message, or in
// several if previous values make them large.
func (h *Hub) deliver(d *delivery, rev int64) {
	c := &h.caster
	prevKV := d.group.options.prevKV
	events := c.matched[:0]
	for _, at := range d.events {
		events = append(events, c.events[at])
	}
	c.matched = events
	for done := 0; done < len(events); {
		rest, size, n := events[done:], 0, 0
		for n < len(rest) && !h.isChunk(size, rest, n) {
			if prevKV {
				rest[n].Prev = h.findPrev(d.events[done+n])
			}
			size += eventBytes(&rest[n])
			n++
		}
		done += n
		upTo := rev
		if done < len(events) {
			upTo = events[done].ModRev - 1
		}
		c.message = Message{Revision: upTo, Events: rest[:n], PrevKV: prevKV}
		d.members = h.send(&c.message, d.members)
	}
	clear(events)
}

// isChunk tells whether events[:n], of the given size, are to be one message.
func (h *Hub) isChunk(size int, events []wire.Event, n int) bool {
	return size >= h.chunk && events[n].ModRev != events[n-1].ModRev
}

// send gives m to the members and returns those that did not refuse, in the same memory.
func (h *Hub) send(m *Message, members []*Watcher) []*Watcher {
	c := &h.caster
	kept := members[:0]
	for _, w := range members {
		part := m
		if w.next > m.Events[0].ModRev {
			part = m.from(w.next)
		}
		if part != nil {
			drained := w.stream.drained.Load()
			if !w.stream.sink.Deliver(w, part) {
				c.refused = append(c.refused, refusal{watcher: w, next: part.Events[0].ModRev, drained: drained})
				continue
			}
			w.busy = true
		}
		kept = append(kept, w)
	}
	clear(members[len(kept):])
	return kept
}

// from is the part of m from revision rev on; nil if there is none.
func (m *Message) from(rev int64) *Message {
	i := slices.IndexFunc(m.Events, func(e wire.Event) bool { return e.ModRev >= rev })
	if i < 0 {
		return nil
	}
	return &Message{Revision: m.Revision, Events: m.Events[i:], PrevKV: m.PrevKV}
}

// findPrev is the value before an event of this turn. The source is asked for it at most once.
func (h *Hub) findPrev(at int32) []byte {
	e := &h.caster.events[at]
	if e.Prev == nil && !e.Create && !h.caster.asked[at] {
		h.caster.asked[at] = true
		e.Prev = h.source.Prev(e.Key, e.ModRev)
	}
	return e.Prev
}

// forget ends a turn: watchers that were refused are no longer live, and nothing is kept that the ring may drop.
func (h *Hub) forget(batches []Batch) {
	c := &h.caster
	h.mu.Lock()
	for _, r := range c.refused {
		if r.watcher.state != live {
			continue // ended meanwhile
		}
		h.unplace(r.watcher)
		r.watcher.next = r.next
		r.watcher.stream.refuse(r.drained)
		h.place(r.watcher)
	}
	h.mu.Unlock()
	clear(batches)
	clear(c.events)
	c.message = Message{}
	clear(c.refused)
	c.refused = c.refused[:0]
	const kept = 64 // a slot serves a group of any size at the next turn
	for i := range c.deliveries {
		d := &c.deliveries[i]
		clear(d.members)
		d.group = nil
		if cap(d.members) > kept {
			d.members = nil
		}
		if cap(d.events) > kept {
			d.events = nil
		}
	}
}
