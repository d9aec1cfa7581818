package coalesce

// The functions below are called with hub.mu held. They are the only ones that change a watcher's state.

// place gives a watcher that nobody serves to who is to serve it next.
func (h *Hub) place(w *Watcher) {
	s, f := w.stream, w.group.feed
	switch {
	case w.next > f.pos:
		s.enter(w, live)
		w.group.join(w)
		if w.next > f.pos+1 || s.pending() > 0 {
			s.early.push(w)
		}
		h.ask(s)
	default:
		l := h.lagOf(f, w.next)
		if !s.hasRoom(f, l) {
			s.enter(w, held)
			s.held[l].push(w)
			return
		}
		w.source = l
		s.enter(w, waiting)
		h.enqueue(w)
	}
}

// unplace takes a watcher away from who serves it, but for a resyncer that is reading for it, which will notice.
func (h *Hub) unplace(w *Watcher) {
	w.unlist()
	switch w.state {
	case live:
		w.group.leave(w)
	case waiting:
		h.prune(w)
	}
}

// release lets held watchers of a stream go on while it has room.
func (h *Hub) release(s *Stream) {
	for l := range s.held {
		held := &s.held[l]
		for w := held.first; w != nil && s.hasRoom(w.group.feed, lag(l)); w = held.first {
			w.unlist()
			h.place(w)
		}
	}
}

// hasRoom tells whether one more watcher of the stream may be resynced from there.
func (s *Stream) hasRoom(f *Feed, l lag) bool {
	window := s.hub.window
	if l == fromHistory && f.mergeHistory {
		window = s.window
	}
	return !s.full && s.served[l] < window
}

// refuse records that a stream took no more when its drained count was `drained`. If it has drained since, nobody
// would tell so again, and it counts as having room.
func (s *Stream) refuse(drained uint32) {
	if s.drained.Load() == drained && !s.full {
		s.full = true
		s.window = max(s.window/2, s.hub.window)
	}
}

// take records that a watcher that was resynced has been sent a message.
func (s *Stream) take() { s.window = min(s.window+1, s.hub.round) }

// end takes a watcher out of the hub, if it still is in it. One that has not come yet will not.
func (h *Hub) end(w *Watcher) {
	switch w.state {
	case ended:
		return
	case fresh:
		w.state = ended
		return
	}
	s := w.stream
	h.unplace(w)
	s.enter(w, ended)
	s.remove(w)
	w.group.feed.remove(w)
	h.release(s)
	h.ask(s)
}

// group returns the feed's group of a range and options.
func (f *Feed) group(key, end []byte, o options) *group {
	g := f.index.group(key, end, o)
	g.feed = f
	return g
}

// add puts a watcher on the feed, in a group of it.
func (f *Feed) add(w *Watcher, g *group) {
	w.group = g
	g.add(w)
	f.watchers++
	w.stream.countOn(f)
}

// remove takes a watcher that is not live off the feed. It keeps pointing to its group.
func (f *Feed) remove(w *Watcher) {
	g := w.group
	g.remove(w)
	if len(g.members) == 0 {
		f.index.remove(g)
	}
	f.watchers--
	w.stream.countOff(f)
}

// cancelWatcher ends a watcher in state reading that the caller serves. Until its sink knows of the end it counts as
// behind, or the stream could be told a progress first that the watcher never had. h.mu is not held.
func (h *Hub) cancelWatcher(w *Watcher, reason error) {
	h.mu.Lock()
	over := w.state == ended || w.stream.closed // its client was faster
	h.mu.Unlock()
	if !over {
		w.stream.sink.Canceled(w, reason)
	}
	h.mu.Lock()
	h.end(w)
	h.mu.Unlock()
}
