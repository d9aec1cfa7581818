package feed

import (
	"slices"
	"strings"
	"time"

	"weir/coalesce"
)

// tendInterval is between two looks at all feeds.
const tendInterval = 500 * time.Millisecond

// tend keeps the feeds few: it moves the watchers of retired ones, closes those without watchers, and divides those
// that are not worth what they cost. It is one goroutine, because all of this is a change of who serves whom.
func (s *Set) tend() {
	ticks := time.NewTicker(tendInterval)
	defer ticks.Stop()
	for {
		tick := false
		select {
		case <-s.poke:
		case <-ticks.C:
			tick = true
		case <-s.ctx.Done():
			return
		}
		if tick {
			s.cursors.closeIdle()
			s.review()
		}
		s.rehome(tick)
	}
}

// review looks at each feed.
func (s *Set) review() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != nil {
		s.session.wantProgress(s.seen.revision) // feeds in whose range nothing happens would be overtaken by compaction
	}
	for p, b := range s.setbacks {
		if b.isForgotten() {
			delete(s.setbacks, p)
		}
	}
	stats := make(map[*feed]coalesce.FeedStats, len(s.feeds))
	for f := range s.feeds {
		switch {
		case f.isOpen():
			stats[f] = f.out.Stats()
		case s.session != nil && f.id == 0: // a fixed one that upstream has ended
			s.session.create(f)
		}
	}
	budget := ringBudget(s.history, stats)
	for f, now := range stats {
		f.out.SetRingBytes(budget)
		if _, retired := s.retired[f]; retired || f.fixed {
			continue
		}
		wasIdle := f.idle
		f.idle = now.Watchers == 0
		switch {
		case wasIdle && f.idle && f.out.CloseIdle():
			s.drop(f)
		case f.waste.exceeds(now) && !s.isCrowded() && f.canBeDivided():
			s.log.Info("a watch brings too many events that nobody wants, and is divided", "range", rangeText(f.span))
			s.setBack(f)
			s.retire(f)
		}
	}
}

// ringBudget is how much each ring may take, so that all together take no more than total: those that take less than
// their share leave the rest to the others.
func ringBudget(total int, stats map[*feed]coalesce.FeedStats) int {
	left, many := total, 0
	share := total / max(1, len(stats))
	for _, now := range stats {
		if now.RingBytes <= share {
			left -= now.RingBytes
		} else {
			many++
		}
	}
	return left / max(1, many)
}

const (
	// rehomeInterval is between two looks at the watchers of a retired feed, of which there may be many.
	rehomeInterval = 50 * time.Millisecond
	// fewRanges is for how many of them the lock is held at a time.
	fewRanges = 256
)

// rehome moves the watchers of retired feeds to others, which are opened if need be. What is not possible yet is left for
// later; always is at a tick.
func (s *Set) rehome(always bool) {
	s.mu.Lock()
	var all []*feed
	for f := range s.retired {
		if f.isOpen() && (always || time.Since(f.rehomed) >= rehomeInterval) {
			f.rehomed = time.Now()
			all = append(all, f)
		}
	}
	s.mu.Unlock()
	for _, f := range all {
		ranges := []coalesce.Range{f.span}
		if !s.isWithinOne(f) {
			ranges = f.out.Ranges()
		}
		for few := range slices.Chunk(ranges, fewRanges) {
			s.moveAll(f, few)
		}
		s.mu.Lock()
		if _, ok := s.feeds[f]; ok && f.out.CloseIdle() {
			s.drop(f)
		}
		s.mu.Unlock()
	}
}

// isWithinOne tells whether all watchers of a feed can go to the same other one.
func (s *Set) isWithinOne(f *feed) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.catalog.find(f.span) != nil
}

func (s *Set) moveAll(f *feed, ranges []coalesce.Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.feeds[f]; !ok || !s.sharing.isShared() {
		return
	}
	for _, r := range ranges {
		to := s.catalog.find(r)
		if to == nil {
			to = s.open(r)
		}
		s.move(f, r, to)
	}
}

// move moves watchers as soon as they have been sent what the other feed does not have any more. A feed that has lost
// something cannot go on: the other one then asks upstream for what they lack. s.mu is held.
func (s *Set) move(f *feed, r coalesce.Range, to *feed) {
	switch {
	case !to.isOpen():
	case f.lost || f.out.Revision() >= to.out.Oldest()-1:
		f.out.Move(r, to.out)
	case s.session != nil:
		s.session.wantProgress(to.out.Oldest() - 1)
	}
}

// canBeDivided tells whether nobody wants all of what the feed is over.
func (f *feed) canBeDivided() bool {
	for _, r := range f.out.Ranges() {
		if r.Contains(coalesce.Range{Key: f.span.Key, End: f.span.End}) {
			return false
		}
	}
	return true
}

// waste weighs the events that a feed brings and nobody wants against the upstream watches that it saves.
//
// Each range that is watched through it would be a watch upstream, and is worth a few unwanted events a second. What
// exceeds that is summed up, and is too much when it is more than a burst.
type waste struct {
	since     time.Time
	was       coalesce.FeedStats
	owed      float64 // events above the bound
	owedBytes float64
}

const (
	wasteEvents      = 100 // a second, for any feed,
	wastePerRange    = 10  // and for each range that it saves; besides as many as are wanted
	wasteBytes       = 256 << 10
	wasteRangeBytes  = 16 << 10
	wasteBurst       = 10 // seconds of the bound
	firstSetback     = time.Minute
	longestSetback   = time.Hour
	maxSetbackMemory = 1000
)

// exceeds takes the counts as of now, and tells whether the feed costs too much.
func (w *waste) exceeds(now coalesce.FeedStats) bool {
	was, since := w.was, w.since
	w.was, w.since = now, time.Now()
	if since.IsZero() {
		return false
	}
	seconds := w.since.Sub(since).Seconds()
	unwanted := float64(now.Unwanted - was.Unwanted)
	wanted := float64(now.Events-was.Events) - unwanted
	bound := float64(wasteEvents + wastePerRange*now.Ranges)
	boundBytes := float64(wasteBytes + wasteRangeBytes*now.Ranges)
	w.owed = max(0, w.owed+unwanted-wanted-bound*seconds)
	w.owedBytes = max(0, w.owedBytes+float64(now.UnwantedBytes-was.UnwantedBytes)-boundBytes*seconds)
	return w.owed > wasteBurst*bound || w.owedBytes > wasteBurst*boundBytes
}

// setback is for how long a prefix is not widened to again, because it cost too much. It doubles each time.
type setback struct {
	until    time.Time
	duration time.Duration
}

func (b *setback) isForgotten() bool { return time.Since(b.until) > b.duration }

// setBack is called with s.mu held.
func (s *Set) setBack(f *feed) {
	prefix := string(f.span.Key)
	b := s.setbacks[prefix]
	if b == nil {
		if len(s.setbacks) >= maxSetbackMemory {
			return
		}
		b = &setback{duration: firstSetback / 2}
		s.setbacks[prefix] = b
	}
	b.duration = min(2*b.duration, longestSetback)
	b.until = time.Now().Add(b.duration)
}

// isSetBack tells whether a prefix, or a longer one that it contains, is not to be widened to now. s.mu is held.
func (s *Set) isSetBack(prefix string) bool {
	now := time.Now()
	for p, b := range s.setbacks {
		if strings.HasPrefix(p, prefix) && now.Before(b.until) {
			return true
		}
	}
	return false
}

// rangeText is a range as it is written in the log.
func rangeText(r coalesce.Range) string {
	end := string(r.End)
	switch {
	case len(r.End) == 0:
		return string(r.Key)
	case end == "\x00":
		return "[" + string(r.Key) + ", end)"
	}
	return "[" + string(r.Key) + ", " + end + ")"
}
