package coalesce

import (
	"errors"
	"sync/atomic"
)

// Feed is an ordered stream of the revisions that touch a range of keys, and the watchers that are served from it. It
// has the newest revisions in a ring, an index of its watchers, and a broadcaster, a goroutine that it has while there
// is something new. At rest a feed takes about 1 KiB and what is in its ring.
//
// The hub does not know a feed's range: its Feeder does, and only sends watchers here that it covers.
//
// All methods may be called concurrently, except Publish and Jump, whose calls are the order of revisions. None waits for a
// client, for history or for the network.
type Feed struct {
	hub          *Hub
	source       Source
	mergeHistory bool
	ring         ring
	turns        uint64        // of its broadcaster, which owns it
	casting      atomic.Uint32 // whether its broadcaster runs: idle, casting or poked
	chores       atomic.Bool   // moves or closed have something for the broadcaster

	// Guarded by hub.mu.
	index     index
	watchers  int           // on the feed, in whatever state
	pos       int64         // what live watchers are up to; of the broadcaster, which alone changes it
	delivered int64         // up to where all live watchers have been given everything: pos, but for the turn in progress
	waiting   [2]cohortList // by where they are served from
	lagging   [2]bool       // is in hub.lagging
	nextLag   [2]*Feed      // in hub.lagging
	reads     []*historyRead
	asking    []*Stream // progress of which was asked for, and this feed is what is waited for
	notifying []*Stream // whose watchers here are to be notified of progress
	moves     []move
	incoming  int   // moves into this feed that are under way
	closed    error // the reason
	place     int   // where it is in hub.feeds, until it is closed
	stats     FeedStats
}

// FeedConfig says how a feed behaves.
type FeedConfig struct {
	Source    Source
	Revision  int64 // the newest; the ring begins after it
	RingBytes int   // bounds the history kept in memory
	// MergeHistory has many watchers that lack history read it together, over one range that holds theirs: for a
	// Source where each call costs much (an upstream watch) and what is read too much costs little.
	MergeHistory bool
}

// FeedStats is a feed as of one moment. Counts of events begin with the feed, and do not have those that the ring had
// dropped before the broadcaster came to them.
type FeedStats struct {
	Watchers      int
	Ranges        int    // different ones, whatever their options
	Events        uint64 // published
	Unwanted      uint64 // events published that no watcher of the feed wanted
	UnwantedBytes uint64 // of keys and values
	RingBytes     int    // memory taken by the history that is kept
}

// errIdle closes a feed that has no watchers to be told.
var errIdle = errors.New("watch feed is not used any more")

// States of Feed.casting.
const (
	idle    uint32 = iota // no broadcaster runs
	casting               // it does, and has not been poked since it last looked for work
	poked                 // it does, and will look again
)

// NewFeed adds a feed. It must be closed.
func (h *Hub) NewFeed(cfg FeedConfig) *Feed {
	f := &Feed{
		hub: h, source: cfg.Source, mergeHistory: cfg.MergeHistory,
		ring: newRing(cfg.Revision, cfg.RingBytes),
		pos:  cfg.Revision, delivered: cfg.Revision,
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		f.closed = ErrHubClosed
		f.ring.close()
		return f
	}
	f.place = len(h.feeds)
	h.feeds = append(h.feeds, f)
	h.raise(cfg.Revision)
	return f
}

// Publish appends revisions. It never waits for a watcher. Revisions must ascend; gaps are revisions without events.
// A Batch without events moves the feed's newest revision, or is ignored if that has been reached. Whoever is told of
// a write (its client, or a reader of Revision) must be told after it is published, or a watcher that starts "now"
// could be sent it. What is published to a closed feed reaches nobody.
func (f *Feed) Publish(b ...Batch) {
	if f.ring.append(f.hub, b) {
		f.poke()
	}
}

// Jump tells that what is behind the feed has come to rev without the revisions before it being published: a store was
// replaced by a later state of itself. The ring has nothing any more. Watchers go on from where each of them is, with what the
// Source has, which must be the later state by now; who needs what is no longer there is cancelled with the compact revision.
// A call of Jump counts as one of Publish. It does nothing if rev has been published.
func (f *Feed) Jump(rev int64) {
	if f.ring.jump(f.hub, rev) {
		f.poke()
	}
}

// Revision is the newest revision published.
func (f *Feed) Revision() int64 { return f.ring.revision() }

// Oldest is the revision from which on the ring has everything.
func (f *Feed) Oldest() int64 { return f.ring.oldest() }

// SetRingBytes bounds the history kept in memory anew. If it is less than before, what is too much is dropped at once,
// except what the broadcaster has still to deliver.
func (f *Feed) SetRingBytes(n int) {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	f.ring.setLimit(n)
	f.ring.trim(f.delivered)
}

// Close cancels the feed's watchers with the reason, soon after it returns. A Stream.Watch that was about to join the
// feed asks the Feeder again. Watchers that are being moved to another feed are either moved or cancelled. A second
// Close does nothing.
func (f *Feed) Close(reason error) {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	f.hub.close(f, reason)
}

// CloseIdle closes the feed if no watcher is on it and no Move into it is under way. It tells whether the feed is
// closed now.
func (f *Feed) CloseIdle() bool {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	if f.watchers == 0 && f.incoming == 0 {
		f.hub.close(f, errIdle)
	}
	return f.closed != nil
}

// Closed tells whether the feed has been closed.
func (f *Feed) Closed() bool {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	return f.closed != nil
}

// close is Feed.Close. h.mu is held.
func (h *Hub) close(f *Feed, reason error) {
	if f.closed != nil {
		return
	}
	f.closed = reason
	f.ring.close()
	last := len(h.feeds) - 1
	moved := h.feeds[last]
	h.feeds[f.place], moved.place = moved, f.place
	h.feeds[last] = nil
	h.feeds = h.feeds[:last]
	for _, r := range f.reads {
		r.cancel()
	}
	f.chores.Store(true)
	f.poke()
}

// Stats counts.
func (f *Feed) Stats() FeedStats {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	s := f.stats
	s.Watchers, s.Ranges, s.RingBytes = f.watchers, f.index.heads, f.ring.size()
	return s
}

// Ranges lists the different ranges that are watched now, in no order. One is with previous values if any watcher of
// it is.
func (f *Feed) Ranges() []Range {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	ranges := make([]Range, 0, f.index.heads)
	f.visit(nil, func(g *group) {
		r := Range{Key: []byte(g.key), End: []byte(g.end)}
		head := f.index.head(r.Key, r.End)
		if head != g {
			return
		}
		for ; g != nil; g = g.sibling {
			r.PrevKV = r.PrevKV || g.options.prevKV
		}
		ranges = append(ranges, r)
	})
	return ranges
}

// poke makes the broadcaster look for work.
func (f *Feed) poke() {
	if f.casting.Swap(poked) == idle {
		f.hub.start(f.step)
	}
}

// step is what the broadcaster does over and over: one turn, and what there is to do between two turns. It returns
// false when there is nothing left, and another call of poke starts it again.
func (f *Feed) step() bool {
	f.casting.Store(casting)
	if f.chores.Swap(false) {
		f.doChores()
	}
	return f.turn() || !f.casting.CompareAndSwap(casting, idle)
}
