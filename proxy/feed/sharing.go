package feed

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// sharing tells whether watches may be served from feeds.
type sharing int

const (
	unknown sharing = iota
	shared
	unshared // upstream has authentication on, or is too old; every watch is to be forwarded
)

// errNotShared is why a watch finds no feed, or a client's stream of watches ends.
var errNotShared = status.Error(codes.Unavailable, "weir: watches are no longer shared, connect again")

// Share tells whether watches that carry no identity may be served from the hub, once that is known; if not, they must
// be forwarded. It fails when no member can be reached that could tell.
func (s *Set) Share(ctx context.Context) (bool, error) {
	for {
		s.mu.Lock()
		state, changed := s.sharing, s.changed
		s.mu.Unlock()
		if state != unknown {
			return state == shared, nil
		}
		if _, err := s.upstream.Member(ctx); err != nil {
			return false, err
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
			return false, status.FromContextError(ctx.Err()).Err()
		case late:
			return false, status.Error(codes.Unavailable, "weir: upstream does not answer")
		}
	}
}

// shareTimeout is how long a client's watch waits to be told whether it can be shared.
const shareTimeout = 7 * time.Second

// share lets watches be served from feeds.
func (s *Set) share() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sharing != shared {
		s.sharing = shared
		s.tellStanding()
		s.tellChange()
		s.log.Info("watches and reads without an identity are shared")
	}
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
