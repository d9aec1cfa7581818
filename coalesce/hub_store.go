package coalesce

import "context"

// storeFeeder is the Feeder of a store in the same process: one feed has everything, and what is committed is
// published without having to be asked for. An Arrival is the store's revision.
type storeFeeder struct {
	revision func() int64
	feed     *Feed
}

// NewStoreHub makes the hub of a store that publishes all it commits to the one feed. revision is the newest revision
// that anybody can have read from the store; it may be ahead of what is published by what is being published.
// ringBytes bounds the history kept in memory. Nothing waits in this hub: Stream.Watch returns at once.
func NewStoreHub(source Source, revision func() int64, ringBytes int) (*Hub, *Feed) {
	s := &storeFeeder{revision: revision}
	h := NewHub(s)
	s.feed = h.NewFeed(FeedConfig{Source: source, Revision: revision(), RingBytes: ringBytes})
	return h, s.feed
}

func (s *storeFeeder) Arrive() Arrival { return Arrival(s.now()) }

// now is the store's revision. Who publishes first and commits later is served too.
func (s *storeFeeder) now() int64 { return max(s.revision(), s.feed.Revision()) }

func (s *storeFeeder) Find(context.Context, Watch, Arrival) (*Feed, int64, error) {
	return s.feed, s.now(), nil
}

func (s *storeFeeder) Now(context.Context, Arrival) int64 { return s.now() }

// Sync does not wait for what was committed and is being published: who asked waits for its delivery anyway.
func (s *storeFeeder) Sync(_ context.Context, _ *Feed, since Arrival, rev int64) (int64, error) {
	if since == Known {
		return rev, nil
	}
	return max(int64(since), rev), nil
}
