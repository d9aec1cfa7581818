package coalesce

// move is one call of Feed.Move.
type move struct {
	in Range
	to *Feed
}

// Move has the watchers of the feed whose range is inside `in` go on at another feed, which must cover them. They are
// moved soon after it returns; each takes along its next revision and nothing else, and is sent what the other feed is
// ahead. Watchers that join meanwhile may be left where they are: call again. If the other feed is closed meanwhile
// the rest stays.
//
// It is the broadcaster that moves watchers, between two of its turns: a delivery of this feed that was still under
// way could else come after one of the other.
func (f *Feed) Move(in Range, to *Feed) {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	if f.closed != nil || to.closed != nil || to == f {
		return
	}
	to.incoming++
	f.moves = append(f.moves, move{in: in, to: to})
	f.chores.Store(true)
	f.poke()
}

// doChores is what the broadcaster does between two turns.
func (f *Feed) doChores() {
	h := f.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(f.moves) > 0 {
		m := f.moves[0]
		f.moves = f.moves[1:]
		f.move(m)
		m.to.incoming--
	}
	f.moves = nil
	if f.closed != nil {
		f.dismiss()
	}
}

// fewWatchers is how many watchers are moved, ended or looked at before others are given the lock.
const fewWatchers = 256

// rest gives others the lock, every now and then.
func (h *Hub) rest(steps *int, meanwhile func()) {
	if *steps++; *steps%h.few == 0 {
		h.mu.Unlock()
		h.pause()
		if meanwhile != nil {
			meanwhile()
		}
		h.mu.Lock()
	}
}

// The functions below are called with hub.mu held, and give it up now and then.

// visit calls do for the groups of the feed, or for those inside a range. Of groups that come or go meanwhile some are
// visited; one may be visited twice.
func (f *Feed) visit(in *Range, do func(*group)) {
	if in != nil && len(in.End) == 0 { // many of these come at once when a feed is divided
		var groups []*group
		for g := f.index.keys[string(in.Key)]; g != nil; g = g.sibling {
			groups = append(groups, g)
		}
		for _, g := range groups {
			if in.holds(g) {
				do(g)
			}
		}
		return
	}
	steps := 0
	for i := len(f.index.all) - 1; i >= 0; i-- {
		// Behind i is what has been visited: a group that leaves is replaced by the last one.
		if i = min(i, len(f.index.all)-1); i < 0 {
			return
		}
		if g := f.index.all[i]; in == nil || in.holds(g) {
			do(g)
		}
		f.hub.rest(&steps, nil)
	}
}

// move moves watchers, and takes turns meanwhile, so that the others do not wait until a hundred thousand have been
// moved.
func (f *Feed) move(m move) {
	steps := 0
	f.visit(&m.in, func(g *group) {
		for n := len(g.members); n > 0 && len(g.members) > 0; n-- {
			if f.closed != nil || m.to.closed != nil || f.hub.ctx.Err() != nil {
				return
			}
			f.hub.move(g.members[len(g.members)-1], m.to)
			f.hub.rest(&steps, func() { f.turn() })
		}
	})
}

// move changes the feed of a watcher. One that is being read for stays so; its resyncer still reads for the old feed,
// which is as true, and then places it at the new one.
func (h *Hub) move(w *Watcher, to *Feed) {
	g := w.group
	if w.state == live {
		w.next = max(w.next, g.feed.pos+1)
	}
	h.unplace(w)
	if w.state != reading {
		w.stream.enter(w, held) // it takes no part in resyncing while it is placed
	}
	g.feed.remove(w)
	to.add(w, to.group([]byte(g.key), []byte(g.end), g.options))
	if w.state != reading {
		h.place(w)
		h.release(w.stream)
	}
}

// dismiss cancels the watchers of a closed feed. Nobody joins it any more. Those that a resyncer is reading for it
// cancels itself.
func (f *Feed) dismiss() {
	h := f.hub
	var few []*Watcher
	cancel := func() {
		h.mu.Unlock()
		for _, w := range few {
			h.cancelWatcher(w, f.closed)
		}
		clear(few)
		few = few[:0]
		h.mu.Lock()
	}
	f.visit(nil, func(g *group) {
		for i := len(g.members) - 1; i >= 0; i-- {
			if i = min(i, len(g.members)-1); i < 0 || h.ctx.Err() != nil {
				return
			}
			w := g.members[i]
			if w.state == reading {
				continue
			}
			h.unplace(w)
			w.stream.enter(w, reading)
			if few = append(few, w); len(few) >= h.few {
				cancel()
			}
		}
	})
	cancel()
}
