package coalesce

import (
	"slices"

	"weir/grpcapi/wire"
)

// broadcaster serves the live watchers of a feed. It goes in turns: it takes what the ring has for it, finds the groups
// that want it and their watchers, and then, without a lock, gives each of them its message. What happens to a watcher
// during a turn (it is cancelled, or another joins) concerns the next turn.
//
// A broadcaster is the memory for one turn; between two it keeps nothing, and may serve another feed. Which feed is at
// which position is the feed's own.
type broadcaster struct {
	hub        *Hub
	feed       *Feed
	batches    []Batch
	events     []wire.Event // of batches
	asked      []bool       // whether events[i].Prev has been asked for
	groups     []*group
	deliveries []delivery
	matched    []wire.Event // of the delivery that is being made
	message    Message      // of it
	refused    []refusal
	streams    []*Stream
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

func newBroadcaster(h *Hub) *broadcaster {
	return &broadcaster{hub: h, batches: make([]Batch, 0, turnBatches)}
}

// turn is one turn of the feed's broadcaster. It returns false when there was nothing new.
func (f *Feed) turn() (more bool) {
	c := f.hub.broadcasters.Get().(*broadcaster)
	c.feed = f
	more = c.turn()
	c.feed = nil
	f.hub.broadcasters.Put(c)
	return more
}

func (c *broadcaster) turn() bool {
	from := c.feed.pos + 1 // nobody else writes pos
	batches, next, ok := c.feed.ring.read(from, c.batches[:0], c.hub.chunk)
	switch {
	case !ok:
		c.overtaken()
	case next > from:
		c.match(batches, next)
		for i := range c.deliveries {
			c.deliver(&c.deliveries[i], next-1)
		}
	}
	c.finish()
	clear(batches)
	c.tell()
	return next > from || !ok
}

// overtaken makes all live watchers resync: the publisher is ahead of the broadcaster by more than the ring holds. It
// is not the end of the turn until all of them know, so that no progress is told meanwhile.
func (c *broadcaster) overtaken() {
	h, f := c.hub, c.feed
	h.mu.Lock()
	defer h.mu.Unlock()
	from, steps := f.pos+1, 0
	f.pos = f.ring.revision()
	f.visit(nil, func(g *group) {
		for i := g.live - 1; i >= 0; i-- {
			if i = min(i, g.live-1); i < 0 {
				return
			}
			w := g.members[i]
			h.unplace(w)
			w.next = max(w.next, from)
			h.place(w)
			h.rest(&steps, nil)
		}
	})
}

// match fills c.deliveries for batches, and moves the feed's position behind them: whoever becomes live from now on
// must have been sent them.
func (c *broadcaster) match(batches []Batch, next int64) {
	f := c.feed
	f.turns++
	c.events = c.events[:0]
	for i := range batches {
		c.events = append(c.events, batches[i].Events...)
	}
	c.asked = append(c.asked[:0], make([]bool, len(c.events))...)

	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	c.deliveries = c.deliveries[:cap(c.deliveries)]
	used := 0
	for i := range c.events {
		e := &c.events[i]
		c.groups = f.index.match(e, c.groups[:0])
		if len(c.groups) == 0 {
			f.stats.Unwanted++
			f.stats.UnwantedBytes += uint64(len(e.Data) + len(e.Prev))
		}
		for _, g := range c.groups {
			if g.live == 0 {
				continue
			}
			if g.turn != f.turns {
				g.turn, g.slot = f.turns, int32(used)
				if used == len(c.deliveries) {
					c.deliveries = append(c.deliveries, delivery{})
				}
				d := &c.deliveries[used]
				d.group, d.events = g, d.events[:0]
				g.sortLive()
				d.members = append(d.members[:0], g.members[:g.live]...)
				used++
			}
			d := &c.deliveries[g.slot]
			d.events = append(d.events, int32(i))
		}
	}
	f.stats.Events += uint64(len(c.events))
	c.deliveries = c.deliveries[:used]
	f.pos = next - 1
}

// deliver gives the watchers of one group their events of this turn, which is up to rev: in one message, or in
// several if previous values make them large.
func (c *broadcaster) deliver(d *delivery, rev int64) {
	prevKV := d.group.options.prevKV
	events := c.matched[:0]
	for _, at := range d.events {
		events = append(events, c.events[at])
	}
	c.matched = events
	for done := 0; done < len(events); {
		rest, size, n := events[done:], 0, 0
		for n < len(rest) && !c.hub.isChunk(size, rest, n) {
			if prevKV {
				rest[n].Prev = c.findPrev(d.events[done+n])
			}
			size += eventBytes(&rest[n])
			n++
		}
		done += n
		upTo := rev
		if done < len(events) {
			upTo = events[done].ModRev - 1
		}
		c.message = Message{Revision: upTo, Events: rest[:n], PrevKV: prevKV, Fanout: len(d.members)}
		d.members = c.send(&c.message, d.members)
	}
	clear(events)
}

// isChunk tells whether events[:n], of the given size, are to be one message.
func (h *Hub) isChunk(size int, events []wire.Event, n int) bool {
	return size >= h.chunk && events[n].ModRev != events[n-1].ModRev
}

// send gives m to the members and returns those that did not refuse, in the same memory.
func (c *broadcaster) send(m *Message, members []*Watcher) []*Watcher {
	kept := members[:0]
	all, one := 0, 0
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
			all, one = all+len(part.Events), max(one, len(part.Events))
		}
		kept = append(kept, w)
	}
	c.hub.count(all, one)
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
func (c *broadcaster) findPrev(at int32) []byte {
	e := &c.events[at]
	if e.Prev == nil && !e.Create && !c.asked[at] {
		c.asked[at] = true
		e.Prev = c.feed.source.Prev(e.Key, e.ModRev)
	}
	return e.Prev
}

// finish ends a turn: watchers that were refused are no longer live, so that all who are have been given everything up
// to the feed's position, and whoever waits for that is told. Nothing is kept that the ring may drop.
func (c *broadcaster) finish() {
	h, f := c.hub, c.feed
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
	f.delivered = f.pos
	c.answer()
	h.mu.Unlock()
	f.ring.trim(f.pos)
	c.forget()
}

func (c *broadcaster) forget() {
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
	c.deliveries = c.deliveries[:0]
}
