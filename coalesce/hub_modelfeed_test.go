package coalesce

import (
	"bytes"
	"context"

	"weir/grpcapi/wire"
)

// modelFeed is a feed over a range, which has published up to its own position. It is the Source of it, too.
type modelFeed struct {
	m      *model
	feed   *Feed
	span   Range
	store  int   // whose revisions it has
	at     int64 // published
	cut    bool  // publishes nothing for a while
	closed bool
	// movedTo is true if watchers may have come here from another feed.
	movedTo bool
	// inline has previous values come with the events, as from an upstream watch, and not from Prev.
	inline bool
}

// feed is any that is open, or nil.
func (m *model) feed() *modelFeed {
	var open []*modelFeed
	for _, f := range m.feeds {
		if !f.closed {
			open = append(open, f)
		}
	}
	if len(open) == 0 {
		return nil
	}
	return open[m.rnd.IntN(len(open))]
}

// openFeed opens one that covers r, and maybe more.
func (m *model) openFeed(r Range) *modelFeed {
	span := r
	for range m.rnd.IntN(20) {
		if wider := m.aRange(); wider.Contains(r) {
			span = wider
		}
	}
	f := &modelFeed{m: m, span: span, store: m.store, at: max(1, m.head-m.rnd.Int64N(8)), inline: m.rnd.IntN(2) == 0}
	f.feed = m.hub.NewFeed(FeedConfig{
		Source: f, Revision: f.at, RingBytes: m.ring, MergeHistory: m.rnd.IntN(2) == 0,
	})
	m.feeds = append(m.feeds, f)
	return f
}

// modelOf finds the model of a feed.
func (m *model) modelOf(feed *Feed) *modelFeed {
	for _, f := range m.feeds {
		if f.feed == feed {
			return f
		}
	}
	m.t.Fatal("a feed that nobody has opened")
	return nil
}

// publish lets the feed go on by some of the revisions that it does not have yet.
func (f *modelFeed) publish(revisions int) {
	if f.closed {
		return
	}
	var batches []Batch
	for _, b := range f.m.history {
		if b.Revision <= f.at {
			continue
		}
		if revisions--; revisions < 0 {
			break
		}
		f.at = b.Revision
		if in := f.in(b, f.span); len(in.Events) > 0 {
			batches = append(batches, in)
		}
	}
	if revisions >= 0 {
		f.at = f.m.head
	}
	f.feed.Publish(append(batches, Batch{Revision: f.at})...)
}

// jump lets the feed go on without publishing what is in between, which may have been compacted just before.
func (f *modelFeed) jump() {
	m := f.m
	if f.at = min(f.at+m.rnd.Int64N(12), m.head); m.rnd.IntN(6) == 0 {
		m.compacted = max(m.compacted, f.at-m.rnd.Int64N(6))
		m.hub.Compacted(m.compacted)
	}
	f.feed.Jump(f.at)
}

func (f *modelFeed) publishAll() { f.publish(1 << 30) }

// publishEvents is publishAll without telling that there is no event after the last.
func (f *modelFeed) publishEvents() {
	for i := len(f.m.history) - 1; i >= 0 && !f.closed; i-- {
		if b := f.m.history[i]; len(f.in(b, f.span).Events) > 0 {
			if head := f.m.head; f.at < b.Revision {
				f.m.head = b.Revision
				f.publishAll()
				f.m.head = head
			}
			return
		}
	}
}

// in is the part of b in a range.
func (f *modelFeed) in(b Batch, r Range) Batch {
	in := Batch{Revision: b.Revision}
	for _, e := range b.Events {
		if r.Contains(Range{Key: e.Key}) {
			if f.inline && r.PrevKV {
				e.Prev = prevIn(f.m.history, e.Key, e.ModRev)
			}
			in.Events = append(in.Events, e)
		}
	}
	return in
}

// Prev is part of Source.
func (f *modelFeed) Prev(key []byte, rev int64) []byte {
	history := f.m.history
	f.m.meanwhile()
	if f.inline || f.store != f.m.store {
		return nil
	}
	return prevIn(history, key, rev)
}

// History is part of Source.
func (f *modelFeed) History(ctx context.Context, r Range, from int64, yield func(Batch) bool) (int64, error) {
	m := f.m
	if !f.span.Contains(r) {
		m.t.Fatalf("history of %v is asked from a feed over %v", r, f.span)
	}
	if f.store != m.store {
		return 0, errModelHistory
	}
	if from < m.compacted {
		return 0, &CompactedError{CompactRevision: m.compacted}
	}
	history, newest := m.history, m.head
	for _, b := range history {
		m.meanwhile()
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if f.store != m.store || !m.settling && m.rnd.IntN(300) == 0 {
			return 0, errModelHistory
		}
		if from < m.compacted && m.rnd.IntN(2) == 0 {
			return 0, &CompactedError{CompactRevision: m.compacted}
		}
		in := f.in(b, r)
		if b.Revision >= from && len(in.Events) > 0 && !yield(in) {
			return b.Revision + 1, nil
		}
	}
	return newest + 1, nil
}

// The methods of model below are its being the Feeder, which routes at random.

// Arrive has nothing to do with revisions, which begin anew with another store.
func (m *model) Arrive() Arrival {
	m.arrivals = append(m.arrivals, modelArrival{store: m.store, head: m.head})
	return Arrival(len(m.arrivals) - 1)
}

type modelArrival struct {
	store int
	head  int64
}

// reached is what the store had reached at a moment.
func (m *model) reached(at Arrival) int64 {
	if at == Known {
		return 0
	}
	if a := m.arrivals[at]; a.store == m.store {
		return a.head
	}
	return 0
}

func (m *model) Find(ctx context.Context, w Watch, since Arrival) (*Feed, int64, error) {
	r := Range{Key: w.Key, End: w.End, PrevKV: w.PrevKV}
	m.meanwhile()
	if m.rnd.IntN(30) == 0 {
		return nil, 0, errModelRefused
	}
	var fit []*modelFeed
	for _, f := range m.feeds {
		if !f.closed && f.span.Contains(r) {
			fit = append(fit, f)
		}
	}
	var f *modelFeed
	if len(fit) == 0 || m.rnd.IntN(6) == 0 && len(m.feeds) < 12 {
		f = m.openFeed(r)
	} else {
		f = fit[m.rnd.IntN(len(fit))]
	}
	now := m.head
	if w.Start != 0 {
		now -= m.rnd.Int64N(10)
	}
	for range 2 {
		m.meanwhile() // the feed may be closed, and the store replaced
	}
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	return f.feed, now, nil
}

func (m *model) Now(context.Context, Arrival) int64 { return m.head }

func (m *model) Sync(ctx context.Context, feed *Feed, since Arrival, rev int64) (int64, error) {
	f := m.modelOf(feed)
	for range 3 {
		m.meanwhile()
	}
	store := m.store
	target := func() int64 {
		if store != m.store {
			return 0
		}
		if since == Known {
			return rev
		}
		return max(rev, m.reached(since))
	}
	for !f.closed && f.at < target() {
		f.publish(1 + m.rnd.IntN(5))
		m.meanwhile()
	}
	reached := f.at
	if m.rnd.IntN(2) == 0 {
		reached = max(min(reached, 1), target())
	}
	m.meanwhile()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if f.closed {
		return 0, errModelFeed
	}
	return reached, nil
}

// wanted is what w must have been sent when it has been sent everything up to rev.
func (m *model) wanted(w *modelWatcher, rev int64) (events []wire.Event) {
	r := Range{Key: w.watch.Key, End: w.watch.End}
	for _, b := range m.history {
		for _, e := range b.Events {
			in := b.Revision >= w.watch.Start && b.Revision <= rev && r.Contains(Range{Key: e.Key})
			if in && !(e.Delete && w.watch.NoDelete) && !(!e.Delete && w.watch.NoPut) {
				events = append(events, e)
			}
		}
	}
	return events
}

func isSameEvent(a, b wire.Event) bool { return bytes.Equal(a.Data, b.Data) && a.ModRev == b.ModRev }
