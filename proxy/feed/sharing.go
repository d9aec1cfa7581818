package feed

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// sharing tells whether watches may be served from feeds, and to whom.
type sharing int

const (
	unknown  sharing = iota
	open             // to everybody
	guarded          // to whom upstream would give what is asked for
	unshared         // to nobody, because upstream lets the proxy read nothing for others, or is too old; every watch is to be forwarded
)

// sharingUnder is what a regime makes possible.
func sharingUnder(r Regime) sharing {
	switch r {
	case Open:
		return open
	case Guarded:
		return guarded
	}
	return unshared
}

func (s sharing) isShared() bool { return s == open || s == guarded }

var (
	// errNotShared is why a watch finds no feed, or a client's stream of watches ends.
	errNotShared = status.Error(codes.Unavailable, "weir: watches are no longer shared, connect again")
	// errShared is why a client's stream of watches ends that was forwarded.
	errShared = status.Error(codes.Unavailable, "weir: watches are shared from now on, connect again")
)

// Share tells whether watches may be served from the hub, once that is known: then apart is nil. If not, they must be
// forwarded until apart ends, whose cause is then for their clients. It fails when no member can be reached that could tell.
func (s *Set) Share(ctx context.Context) (apart context.Context, err error) {
	for {
		s.mu.Lock()
		known, changed := s.sharing != unknown, s.changed
		apart = s.apart
		s.mu.Unlock()
		if known {
			return apart, nil
		}
		if _, err := s.upstream.Member(ctx); err != nil {
			return nil, err
		}
		patience, cancel := context.WithTimeout(ctx, shareTimeout)
		select {
		case <-changed:
		case <-patience.Done():
		}
		late := patience.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil, status.FromContextError(ctx.Err()).Err()
		case late:
			return nil, status.Error(codes.Unavailable, "weir: upstream does not answer")
		}
	}
}

// shareTimeout is how long a client's watch waits to be told whether it can be shared.
const shareTimeout = 7 * time.Second

// share lets watches be served from feeds as the regime allows. What was shared under another one is ended first, and then
// what was forwarded: upstream may go on with it when the right to it has gone, and clients would share nothing.
func (s *Set) share(r Regime) {
	s.mu.Lock()
	was, now := s.sharing, sharingUnder(r)
	s.mu.Unlock()
	if was == now {
		return
	}
	if was.isShared() {
		s.unshare(errRegime)
	}
	s.mu.Lock()
	s.sharing = now
	rejoin := s.rejoin
	s.apart, s.rejoin = nil, nil
	s.tellStanding()
	s.tellChange()
	s.mu.Unlock()
	if rejoin != nil {
		rejoin(errShared)
	}
	s.log.Info("watches and reads are shared", "each-is-authorised", now == guarded)
}

// isShared tells whether anything is shared under a regime.
func (s *Set) isShared(under Regime) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sharing.isShared() && s.sharing == sharingUnder(under)
}

func (s *Set) isUnshared() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sharing == unshared
}

// unshare ends everything that is shared. Watches are forwarded from now on.
func (s *Set) unshare(why error) {
	s.mu.Lock()
	was := s.sharing
	if was != unshared {
		s.apart, s.rejoin = context.WithCancelCause(context.Background())
	}
	s.sharing = unshared // those who wait are told only when their streams have been ended: they are not refused
	s.tellStanding()
	s.mu.Unlock()
	if was == unshared {
		return
	}
	s.log.Warn("watches and reads are forwarded from now on, and watches that were shared are ended", "reason", why, "watches", s.watchers())
	s.hub.End(errNotShared)
	s.reset(errNotShared)
}

// reset forgets all feeds. Their watchers are cancelled with the reason.
func (s *Set) reset(why error) {
	s.mu.Lock()
	for f := range s.feeds {
		if !f.isOpen() {
			f.err = why
			close(f.opened)
		}
	}
	fixed := s.catalog.fixed
	s.catalog = newCatalog()
	clear(s.feeds)
	clear(s.retired)
	if s.session != nil { // it ends
		clear(s.session.feeds)
		s.session = nil
	}
	s.seen, s.compacted = identity{}, 0
	s.reads.compacted.Store(0)
	s.reads.proofs.Store(nil)
	s.era++
	s.tellStanding()
	for _, f := range fixed {
		again := s.newFeed(f.span)
		again.fixed = true
		s.catalog.fixed = append(s.catalog.fixed, again)
	}
	s.tellChange()
	s.mu.Unlock()
	s.now.reset()
	s.agreed.reset()
	s.cursors.closeAll()
	s.hub.Reset(why)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tellChange() // again: feeds are closed now
}

// watchers counts those of all feeds.
func (s *Set) watchers() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.feeds {
		if f.isOpen() {
			n += f.out.Stats().Watchers
		}
	}
	return n
}
