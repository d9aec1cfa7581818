package coalesce

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"weir/grpcapi/wire"
)

// Batch is all events of one revision, in the order in which they were made. Without events it says that the revision
// has been reached.
type Batch struct {
	Revision int64
	Events   []wire.Event
}

// Feeder knows which feed serves a watch, and what is now: the store itself (NewStoreHub), or who opens feeds on
// demand. Its methods are called concurrently, without locks held.
type Feeder interface {
	// Arrive marks the moment at which a request arrived. It never waits.
	Arrive() Arrival
	// Find waits for the feed that serves w, and for a revision ("now") that the store had reached when the request
	// arrived or later. A watch with a Start can do with the newest that is known. Error: there is no feed
	// and why (the watch is refused with its text), or ctx's. A feed that was closed before the call is not
	// returned; one that is closed after it is asked for again.
	Find(ctx context.Context, w Watch, since Arrival) (f *Feed, now int64, err error)
	// Now returns a revision that the store had reached when the request arrived or later; or, if the store cannot tell
	// soon, the newest that is known.
	Now(ctx context.Context, since Arrival) int64
	// Sync waits until f has been published up to rev, which the store has reached, and to a revision that the store had
	// reached at `since` or later, and returns the higher of the two. It fails only when ctx ends or f is closed.
	Sync(ctx context.Context, f *Feed, since Arrival, rev int64) (int64, error)
}

// Arrival is a moment, in a Feeder's own measure. Later moments are not smaller.
type Arrival uint64

// Known is the Arrival of who knows already what revision the store has reached, and does not want it asked.
const Known = Arrival(math.MaxUint64)

// Source is where a feed's watchers are resynced from that need what is older than its ring, and where previous
// values are found. Its methods are called concurrently, without locks held.
type Source interface {
	// History calls yield with each revision from `from` on, in order, that touched r, whole and with only the events
	// of that range, until yield returns false, the feed's ring has the rest, or the newest is reached. It may wait for a
	// network, and returns when ctx ends. It returns the next revision to ask from, which is above `from`: everything
	// before it has been yielded. Below the compact revision it returns a *CompactedError, also when compaction
	// overtakes it. Any other error is the end of the watchers that needed the history.
	History(ctx context.Context, r Range, from int64, yield func(Batch) bool) (next int64, err error)
	// Prev returns the encoded KeyValue that key had just before revision rev, or nil when there was none or it is compacted.
	Prev(key []byte, rev int64) []byte
}

// CompactedError says that history was asked for which is no longer there.
type CompactedError struct {
	CompactRevision int64
	Reason          string // if it is another one than a compaction
}

func (e *CompactedError) Error() string {
	if e.Reason != "" {
		return e.Reason
	}
	return "required revision has been compacted"
}

// ErrHubClosed is why watchers are cancelled when their hub is closed.
var ErrHubClosed = errors.New("watch hub is closed")

// chunkBytes is from where on a message is not given more revisions.
const chunkBytes = 128 << 10

// Hub fans ordered streams of revisions, its feeds, out to watchers.
//
// The idea: the newest revisions of a feed are in a ring, and every watcher owns the next revision that it is to be
// sent. Feed.Publish appends to the ring and is done. One goroutine a feed, the broadcaster, walks the ring behind the
// publisher and serves all watchers of the feed that are exactly where it is: those are live, and cost nothing while
// nothing happens to them. A watcher that starts in the past, or whose client did not take a message, is not live. It
// keeps its next revision, and one of a few resyncers sends it what it lacks, from the ring or from the feed's Source,
// until it is where the broadcaster is. A watcher has only one of them serving it at a time, so that it is sent every
// event once and in order. Nothing but its next revision is taken along when it changes to another feed.
//
// Clients are reached through their Sink, which never waits. Nobody holds a lock meanwhile. Whatever has to be done is
// done by a goroutine that is started when there is something to do; a few stay when there is nothing, however many
// feeds there are.
//
// Tried by others and rejected: a goroutine and a channel for each watcher (costs more than the sending itself, and
// a full channel has to be waited for or dropped), and sending under the lock of the store (a slow client is then
// everybody's). A lock for each feed was rejected too: a watcher changes feeds and a stream has watchers on several,
// so that most of what is done would take two or more of them in some order, and the lock is held for so short that
// it is not what anybody waits for.
//
// All methods may be called concurrently.
type Hub struct {
	feeder Feeder
	store  *storeFeeder // the feeder, if it is the one that never waits
	chunk  int          // chunkBytes, and smaller in tests
	window int          // streamWindow, and smaller in tests
	round  int          // mergedCohorts, and smaller in tests, but not than window
	few    int          // fewWatchers, and smaller in tests

	// start has step called in a goroutine of its own until it returns false, and pause is called in long work when
	// the lock is free. They are fields so that a test can take all steps one by one.
	start func(step func() bool)
	pause func()

	broadcasters sync.Pool     // their memory
	resyncers    sync.Pool     // theirs
	newest       atomic.Int64  // published to any feed; changed with the lock of the feed's ring held
	delivered    atomic.Uint64 // see HubStats
	shared       atomic.Uint64 // likewise

	starting sync.Mutex       // guards that no goroutine starts once ctx has ended
	spare    chan func() bool // to a goroutine that has nothing to do
	spares   atomic.Int32     // of these
	ctx      context.Context
	cancel   context.CancelFunc
	tasks    sync.WaitGroup

	mu        sync.Mutex // guards the fields below, and those of feeds, groups, streams and watchers
	feeds     []*Feed    // open ones
	streams   []*Stream  // open ones
	opened    uint64     // streams, ever
	cohorts   map[cohortKey]*cohort
	lagging   [2]feedQueue // feeds with cohorts that wait, by where these are served from
	resyncing [2]int       // resyncers that run, likewise
	compacted int64
	reached   int64 // by the store, as somebody said who has not published it
	epoch     int   // calls of Reset
	reset     error // the reason of the last
	closed    bool
}

// NewHub makes a hub without feeds.
func NewHub(feeder Feeder) *Hub {
	h := newHub(feeder, chunkBytes, streamWindow, fewWatchers)
	h.start, h.pause = h.run, runtime.Gosched
	return h
}

// newHub makes a hub that does nothing by itself, for tests that take its steps one by one.
func newHub(feeder Feeder, chunk, window, few int) *Hub {
	h := &Hub{
		feeder:  feeder,
		chunk:   chunk,
		window:  window,
		round:   mergedCohorts,
		few:     few,
		spare:   make(chan func() bool),
		cohorts: map[cohortKey]*cohort{},
	}
	h.store, _ = feeder.(*storeFeeder)
	h.broadcasters.New = func() any { return newBroadcaster(h) }
	h.resyncers.New = func() any { return newResyncer(h) }
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// maxSpares is how many goroutines are kept that have nothing to do. To wake one costs less than to start another, whose
// stack has to grow first.
const maxSpares = 4

// run is Hub.start outside of tests.
func (h *Hub) run(step func() bool) {
	select {
	case h.spare <- step:
		return
	default:
	}
	h.starting.Lock()
	defer h.starting.Unlock()
	if h.ctx.Err() == nil {
		h.tasks.Go(func() { h.work(step) })
	}
}

func (h *Hub) work(step func() bool) {
	for {
		for h.ctx.Err() == nil && step() {
		}
		if h.spares.Add(1) > maxSpares {
			h.spares.Add(-1)
			return
		}
		select {
		case step = <-h.spare:
			h.spares.Add(-1)
		case <-h.ctx.Done():
			return
		}
	}
}

// Arrive marks the moment at which a request arrived.
func (h *Hub) Arrive() Arrival { return h.feeder.Arrive() }

// Now is the revision to state in an answer to a request that arrived at `since`. It may wait for a moment.
func (h *Hub) Now(ctx context.Context, since Arrival) int64 {
	return max(h.feeder.Now(ctx, since), h.Revision())
}

// Revision is the newest revision published to any feed.
func (h *Hub) Revision() int64 { return h.newest.Load() }

// raise makes rev the newest revision, if it is newer.
func (h *Hub) raise(rev int64) {
	for newest := h.newest.Load(); rev > newest && !h.newest.CompareAndSwap(newest, rev); {
		newest = h.newest.Load()
	}
}

// Compacted tells that history before rev is gone. A Watch with a Start before it is cancelled. Any other watcher is
// cancelled only if what it lacks is no longer in its feed's ring either; the Source is not asked for it.
func (h *Hub) Compacted(rev int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.compacted = max(h.compacted, rev)
}

// Reset tells that the store was replaced by another, whose revisions mean something else: it closes every feed, and
// forgets the newest and the compact revision.
func (h *Hub) Reset(reason error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epoch++
	h.reset = reason
	for len(h.feeds) > 0 {
		h.close(h.feeds[len(h.feeds)-1], reason)
	}
	h.newest.Store(0)
	h.compacted, h.reached = 0, 0
	for _, s := range h.streams {
		h.askAgain(s)
	}
}

// Recheck has the Sink of every stream that there is now find out which of its watchers may go on, because who may watch
// what has changed. It returns when all have, so that what is published only then reaches nobody else.
func (h *Hub) Recheck() {
	h.mu.Lock()
	all := slices.Clone(h.streams)
	h.mu.Unlock()
	for _, s := range all {
		s.sink.Recheck()
	}
}

// End ends every stream that there is now: its Sink is told once, and its watchers leave without being cancelled.
// Streams opened later are not concerned. It returns when all have been told.
func (h *Hub) End(err error) {
	h.mu.Lock()
	all := h.streams
	h.streams = nil
	for _, s := range all {
		s.closed, s.reason = true, err
	}
	h.mu.Unlock()
	for _, s := range all {
		s.sink.Ended(err)
		s.Close()
	}
}

// Close cancels every watcher with ErrHubClosed and waits for what the hub started. Publish after Close is allowed
// and reaches nobody. A Stream.Watch that waits is for the Feeder to end.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.starting.Lock()
	h.cancel()
	h.starting.Unlock()
	h.tasks.Wait()

	for _, w := range h.endAll() {
		w.stream.sink.Canceled(w, ErrHubClosed)
	}
}

func (h *Hub) endAll() (all []*Watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.streams {
		all = append(all, s.watchers...)
	}
	for _, w := range all {
		h.end(w)
	}
	return all
}
