package feed

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// Set is all feeds of a proxy.
//
// The idea: a watch is served by any feed whose range contains its own, so the first one opens a feed and the next
// thousands cost upstream nothing. Feeds stay few because narrow ones that lie below one prefix are replaced by one over
// the whole prefix (see catalog.wider), as long as the events that nobody wants are cheaper than the watches saved
// (see waste).
//
// The method: all feeds share one upstream Watch RPC, the session, on the member to which the proxy sends everything
// else too. A feed opens at "now", and what is older is fetched by a cursor when a watcher needs it. When the session
// is lost the feeds keep their watchers and their position, and a new session goes on from there.
//
// Rejected: opening a feed at the lowest revision that its first watcher asks for. A watch from the past silences
// RequestProgress on its whole stream until etcd has caught up with it, and would be read at full speed whatever the
// watchers can take.
//
// All methods may be called concurrently. A Set is the coalesce.Feeder of its hub.
type Set struct {
	upstream Upstream
	log      *slog.Logger
	hub      *coalesce.Hub
	now      check // what revision the member is at
	agreed   check // what revision the cluster is at, for linearizable reads
	history  int   // bytes for the rings of all feeds
	anyKey   []byte
	leader   leader
	cursors  cursors

	ctx    context.Context
	cancel context.CancelFunc
	tasks  tasks
	poke   chan struct{} // has an element when tend has work before its next turn

	header atomic.Pointer[wire.Header] // the newest of a verified member
	reads  reads

	mu        sync.Mutex    // guards the fields below, and those of feeds and the session where they say so
	changed   chan struct{} // closed and replaced when sharing, session or a feed's position changes without an event
	sharing   sharing
	apart     context.Context         // of what is forwarded; nil unless sharing is unshared
	rejoin    context.CancelCauseFunc // ends apart
	confirmed time.Time               // when upstream was last asked whether it allows what is shared, and did
	lookingUp bool                    // the compact revision
	catalog   catalog
	feeds     map[*feed]struct{} // all that have, or are to have, a watch upstream
	retired   map[*feed]struct{} // not in the catalog, with watchers that are to be moved to others
	session   *session           // nil while there is none
	seen      identity
	era       uint64              // calls of reset
	before37  bool                // the member is an etcd before 3.7
	compacted int64               // upstream's compact revision, as far as known
	setbacks  map[string]*setback // by prefix: where widening has not paid
}

// Config says what a Set feeds from. Upstream and Logger must be set.
type Config struct {
	Upstream Upstream
	// Fixed are prefixes for which there is always a feed; "" is the whole key space.
	Fixed []string
	// HistoryBytes bounds the recent events that all feeds together keep in memory.
	HistoryBytes int
	// CheckInterval is the least time between two checks for linearizable reads. Longer ones let more reads share a check.
	CheckInterval time.Duration
	// AnyKey is read when only the header matters; nil is the smallest key. The proxy must be allowed to read it.
	AnyKey []byte
	Logger *slog.Logger
}

// NewSet starts connecting and returns without waiting.
func NewSet(cfg Config) *Set {
	s := &Set{
		upstream: cfg.Upstream,
		log:      cfg.Logger,
		history:  cfg.HistoryBytes,
		anyKey:   cfg.AnyKey,
		poke:     make(chan struct{}, 1),
		changed:  make(chan struct{}),
		catalog:  newCatalog(),
		feeds:    map[*feed]struct{}{},
		retired:  map[*feed]struct{}{},
		setbacks: map[string]*setback{},
	}
	if s.anyKey == nil {
		s.anyKey = []byte{0}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.header.Store(&wire.Header{})
	s.tellStanding()
	s.hub = coalesce.NewHub(s)
	s.now = check{ask: s.askNow, ctx: s.ctx, tasks: &s.tasks}
	s.agreed = check{ask: s.askAgreed, ctx: s.ctx, tasks: &s.tasks, once: true, pause: cfg.CheckInterval}
	s.leader = leader{upstream: s.upstream, ctx: s.ctx, tasks: &s.tasks, log: s.log, changed: make(chan struct{})}
	s.cursors.set = s
	prefixes := slices.Sorted(slices.Values(cfg.Fixed))
	for i, p := range prefixes {
		if !slices.ContainsFunc(prefixes[:i], func(shorter string) bool { return strings.HasPrefix(p, shorter) }) {
			f := s.newFeed(prefixRange(p))
			f.fixed = true
			s.catalog.fixed = append(s.catalog.fixed, f)
		}
	}
	s.tasks.start(s.connect)
	s.tasks.start(s.tend)
	return s
}

// Close ends all upstream watches and cancels all watchers.
func (s *Set) Close() {
	s.tasks.end(s.cancel)
	s.cursors.closeAll()
	s.hub.Close()
}

// Hub is what watches are served from, while Share says so.
func (s *Set) Hub() *coalesce.Hub { return s.hub }

// Header is that of the member which the feeds are on, as last seen. Its revision is not current.
func (s *Set) Header() wire.Header { return *s.header.Load() }

// Leader returns a context that ends when upstream has lost its leader, or cannot be reached any more, with the error to
// tell clients as its cause; or that error, if it is so now.
func (s *Set) Leader(ctx context.Context) (led context.Context, err error) { return s.leader.get(ctx) }

// Arrive is part of coalesce.Feeder.
func (s *Set) Arrive() coalesce.Arrival { return s.now.arrive() }

// Find is part of coalesce.Feeder. It waits while upstream cannot be reached.
func (s *Set) Find(ctx context.Context, w coalesce.Watch, since coalesce.Arrival) (*coalesce.Feed, int64, error) {
	s.now.begin(since) // while the feed opens
	out, err := s.find(ctx, coalesce.Range{Key: w.Key, End: w.End, PrevKV: w.PrevKV})
	if err != nil {
		return nil, 0, err
	}
	if w.Start != 0 {
		return out, max(s.Now(ctx, since), out.Revision()), nil
	}
	now, err := s.now.wait(ctx, since)
	if err != nil {
		return nil, 0, err
	}
	// A feed that has just opened knows nothing older, and the client has not been told yet what now is.
	return out, max(now, out.Oldest()-1), nil
}

// Now is part of coalesce.Feeder.
func (s *Set) Now(ctx context.Context, since coalesce.Arrival) int64 {
	s.mu.Lock()
	away := s.session == nil
	s.mu.Unlock()
	if !away && !s.now.isLate(nowPatience) { // else it would be waited for by one request after another
		ctx, cancel := context.WithTimeout(ctx, nowPatience)
		defer cancel()
		if rev, err := s.now.wait(ctx, since); err == nil {
			return rev
		}
	}
	return s.hub.Revision()
}

// nowPatience is how long an answer waits that need not know upstream's revision.
const nowPatience = 250 * time.Millisecond

func (s *Set) find(ctx context.Context, r coalesce.Range) (*coalesce.Feed, error) {
	for {
		var f *feed
		s.mu.Lock()
		known := s.changed // when sharing has ended the stream will be ended too: its watches are not refused
		if s.sharing.isShared() && s.isConfirmed() {
			if f = s.catalog.find(r); f == nil {
				f = s.open(r)
			}
			known = f.opened
		}
		s.mu.Unlock()
		select {
		case <-known:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		case <-s.ctx.Done():
			return nil, errNotShared
		}
		switch {
		case f == nil, f.widened && f.err != nil, isReset(f.err):
			// It is not this watch that was refused.
		case f.err != nil:
			return nil, f.err
		default:
			return f.out, nil
		}
	}
}

// isReset tells whether a feed was forgotten with all others, rather than refused.
func isReset(err error) bool {
	var replaced *coalesce.CompactedError
	return errors.Is(err, errNotShared) || errors.As(err, &replaced)
}

// open makes a feed for a range, or for a wider one. s.mu is held.
func (s *Set) open(r coalesce.Range) *feed {
	span, widened := s.catalog.wider(r, s.isSetBack)
	switch {
	case widened:
	default:
		span = r
		if wide := s.catalog.hull(r); s.isCrowded() && !s.isSetBack(string(wide.Key)) {
			span, widened = wide, true
		}
	}
	f := s.newFeed(span)
	f.widened = widened
	s.place(f)
	if s.session != nil {
		s.session.create(f)
	}
	return f
}

// maxFeeds is from how many feeds on new ones take in their neighbours at any price, which is the whole key space at
// worst.
const maxFeeds = 1000

func (s *Set) isCrowded() bool { return len(s.feeds) >= maxFeeds }

// newFeed is called with s.mu held, or before others know of s.
func (s *Set) newFeed(span coalesce.Range) *feed {
	f := &feed{set: s, span: span, opened: make(chan struct{})}
	s.feeds[f] = struct{}{}
	return f
}

// place puts a feed into the catalog. Feeds whose ranges it contains are no longer found there; they go on until it
// has opened, and are retired then. s.mu is held.
func (s *Set) place(f *feed) {
	if by := s.catalog.find(f.span); by != nil && !by.fixed {
		s.absorb(by, f)
		return
	}
	for _, d := range s.catalog.add(f) {
		s.absorb(f, d)
	}
}

// absorb is called with s.mu held.
func (s *Set) absorb(f, contained *feed) {
	if f.isOpen() {
		s.retire(contained)
	} else {
		f.absorbed = append(f.absorbed, contained)
	}
}

// retire takes a feed out of use. It goes on until tend has moved its watchers elsewhere. s.mu is held.
func (s *Set) retire(f *feed) {
	if _, ok := s.feeds[f]; ok {
		s.catalog.remove(f)
		s.retired[f] = struct{}{}
		s.pokeTend()
	}
}

// fail ends a feed that could not be opened. Those that it would have replaced are found again. s.mu is held.
func (s *Set) fail(f *feed, why error) {
	f.err = why
	close(f.opened)
	if f.widened {
		s.setBack(f)
	}
	s.drop(f)
	for _, a := range f.absorbed {
		if _, ok := s.feeds[a]; ok {
			s.place(a)
		}
	}
	f.absorbed = nil
}

// endFeed ends an open feed and tells its watchers why. s.mu is held.
func (s *Set) endFeed(f *feed, why error) {
	f.out.Close(why)
	s.drop(f)
}

// drop forgets a feed. A fixed one is opened again, after a while. s.mu is held.
func (s *Set) drop(f *feed) {
	delete(s.feeds, f)
	delete(s.retired, f)
	s.catalog.remove(f)
	if s.session != nil {
		s.session.end(f)
	}
	if f.fixed {
		s.refix(f)
	}
	s.tellChange()
}

// refix puts a new feed in the place of a fixed one. s.mu is held.
func (s *Set) refix(f *feed) *feed {
	f.fixed = false
	again := s.newFeed(f.span)
	again.fixed = true
	s.catalog.replaceFixed(f, again)
	return again
}

// Sync is part of coalesce.Feeder.
func (s *Set) Sync(ctx context.Context, f *coalesce.Feed, since coalesce.Arrival, rev int64) (int64, error) {
	if since != coalesce.Known {
		now, err := s.now.wait(ctx, since)
		if err != nil {
			return 0, err
		}
		rev = max(rev, now)
	}
	for {
		s.mu.Lock()
		changed := s.changed
		if s.session != nil && f.Revision() < rev {
			s.session.wantProgress(rev)
		}
		s.mu.Unlock()
		switch {
		case f.Revision() >= rev:
			return rev, nil
		case f.Closed():
			return 0, errFeedClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, status.FromContextError(ctx.Err()).Err()
		}
	}
}

// tellChange wakes those who wait for more than an event. s.mu is held.
func (s *Set) tellChange() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Set) pokeTend() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}
