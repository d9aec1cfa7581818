package feed

import (
	"cmp"
	"slices"

	"weir/coalesce"
)

// Listed is a feed as one sees it who looks at all of them.
type Listed struct {
	Span     coalesce.Range
	Fixed    bool  // by configuration
	Open     bool  // upstream has begun it
	Revision int64 // up to which it has everything
	coalesce.FeedStats
}

// List returns the feeds with the most watchers, at most limit, and how many there are.
func (s *Set) List(limit int) (most []Listed, all int) {
	s.mu.Lock()
	for f := range s.feeds {
		l := Listed{Span: f.span, Fixed: f.fixed}
		if f.isOpen() {
			l.Open, l.Revision, l.FeedStats = true, f.out.Revision(), f.out.Stats()
		}
		most = append(most, l)
	}
	s.mu.Unlock()
	slices.SortFunc(most, func(a, b Listed) int {
		return cmp.Or(cmp.Compare(b.Watchers, a.Watchers), cmp.Compare(string(a.Span.Key), string(b.Span.Key)))
	})
	return most[:min(limit, len(most))], len(most)
}
