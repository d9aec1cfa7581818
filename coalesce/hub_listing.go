package coalesce

import (
	"cmp"
	"slices"
)

// Listed is a watch as one sees it who looks at all of them.
type Listed struct {
	Stream   uint64 // its number; later ones have higher numbers
	Sink     Sink
	ID       int64
	Key, End string // as in Watch
	Reached  int64  // the revision up to which it has been sent everything
	Missing  int64  // how many revisions its feed is beyond that, of which it may want none
}

// listedAtOnce bounds for how many watches the lock is held by who lists them.
const listedAtOnce = 1024

// List returns the first watches that fit, at most limit, in the order of their streams' numbers and their ids, beginning after
// those of `after`. The next ones come after the last of them. Of watches that come or go meanwhile some may be missing.
//
// It looks at every watch of every stream that it passes, a few at a time.
func (h *Hub) List(after Listed, limit int, fits func(*Listed) bool) []Listed {
	h.mu.Lock()
	streams := slices.Clone(h.streams)
	h.mu.Unlock()
	streams = slices.DeleteFunc(streams, func(s *Stream) bool { return s.number < after.Stream })
	slices.SortFunc(streams, func(a, b *Stream) int { return cmp.Compare(a.number, b.number) })
	var found []Listed
	for _, s := range streams {
		room := limit - len(found)
		if room <= 0 {
			break
		}
		found = append(found, s.list(room, func(l *Listed) bool {
			return (l.Stream > after.Stream || l.ID > after.ID) && fits(l)
		})...)
	}
	return found
}

// list returns the watches with the lowest ids that fit.
func (s *Stream) list(limit int, fits func(*Listed) bool) []Listed {
	byID := func(a, b Listed) int { return cmp.Compare(a.ID, b.ID) }
	same := func(a, b Listed) bool { return a.ID == b.ID }
	var found []Listed
	// From the end, because a watch that goes leaves its place to the last one: that is then seen twice, and none is missed.
	for end := -1; end != 0; {
		found, end = s.listSome(end, found, fits)
		if len(found) > limit {
			slices.SortFunc(found, byID)
			found = slices.CompactFunc(found, same)
			found = found[:min(len(found), limit)]
		}
	}
	slices.SortFunc(found, byID)
	return slices.CompactFunc(found, same)
}

// listSome looks at those before end, which is -1 for all. It returns the end of those that are left.
func (s *Stream) listSome(end int, found []Listed, fits func(*Listed) bool) ([]Listed, int) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if end < 0 || end > len(s.watchers) {
		end = len(s.watchers)
	}
	from := max(0, end-listedAtOnce)
	for _, w := range s.watchers[from:end] {
		if l := w.listed(); fits(&l) {
			found = append(found, l)
		}
	}
	return found, from
}

// Slowest returns the watches of some sinks that lack most of what others of their feed have been sent, at most limit. It looks
// at those of every such stream that is behind.
func (h *Hub) Slowest(limit int, of func(Sink) bool) []Listed {
	h.mu.Lock()
	behind := slices.DeleteFunc(slices.Clone(h.streams), func(s *Stream) bool { return s.behind == 0 || !of(s.sink) })
	h.mu.Unlock()
	var slowest []Listed
	for _, s := range behind {
		for end := -1; end != 0; {
			slowest, end = s.listSome(end, slowest, func(l *Listed) bool { return l.Missing > 0 })
			slices.SortStableFunc(slowest, func(a, b Listed) int { return cmp.Compare(b.Missing, a.Missing) })
			slowest = slices.CompactFunc(slowest, func(a, b Listed) bool { return a.Stream == b.Stream && a.ID == b.ID })
			slowest = slowest[:min(len(slowest), limit)]
		}
	}
	return slowest
}

// listed is called with hub.mu held.
func (w *Watcher) listed() Listed {
	l := Listed{Stream: w.stream.number, Sink: w.stream.sink, ID: w.ID, Reached: w.next - 1}
	if w.group == nil {
		return l
	}
	f := w.group.feed
	l.Key, l.End = w.group.key, w.group.end
	if w.state == live {
		l.Reached = max(l.Reached, f.delivered)
	}
	l.Missing = max(0, f.delivered-l.Reached)
	return l
}
