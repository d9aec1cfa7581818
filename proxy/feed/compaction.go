package feed

import (
	"context"
	"fmt"

	"weir/grpcapi/wire"
)

// oldestKept is the oldest revision from which on a watch would be served, or at which a read would be answered, without
// asking upstream; or 0 if there is none before the newest.
func (s *Set) oldestKept() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	oldest := int64(0)
	for f := range s.feeds {
		if f.isOpen() {
			if from := f.out.Oldest(); from <= f.out.Revision() && (oldest == 0 || from < oldest) {
				oldest = from
			}
		}
	}
	if kept := s.reads.kept.Load(); kept > 0 && (oldest == 0 || kept < oldest) {
		oldest = kept
	}
	if oldest > 0 {
		oldest = max(oldest, s.compacted)
	}
	return oldest
}

// lookUpCompaction has the compact revision found out, beside the probes.
func (s *Set) lookUpCompaction(m Member, rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.lookingUp {
		s.lookingUp = s.tasks.start(func() {
			err := s.findCompaction(s.ctx, m, rev)
			s.log.Debug("looked up the compact revision", "error", err)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.lookingUp = false
		})
	}
}

// findCompaction learns the compact revision, which is above rev: a watch from there is cancelled with it.
func (s *Set) findCompaction(ctx context.Context, m Member, rev int64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stream, err := m.Watch(uncached(ctx), false) // a proxy that is upstream might not know yet
	if err != nil {
		return fmt.Errorf("ask for the compact revision: %w", err)
	}
	if err := stream.Send(wire.AppendWatchCreate(nil, wire.WatchCreate{Key: s.anyKey, StartRevision: rev})); err != nil {
		return fmt.Errorf("ask for the compact revision: %w", err)
	}
	for {
		raw, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("ask for the compact revision: %w", err)
		}
		var r wire.WatchResponse
		if err := r.Unmarshal(raw); err != nil {
			return err
		}
		switch {
		case r.CompactRevision > 0 && r.CancelReason == "":
			s.Compacted(r.CompactRevision)
			return nil
		case r.Canceled:
			return &canceledError{r.CancelReason}
		}
	}
}

// Compacted tells that upstream has compacted revisions before rev. The Set finds out by itself, but only within a second.
func (s *Set) Compacted(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sawCompaction(s.session, rev)
}

// sawCompaction takes what a session has learnt, if it is the current one. s.mu is held.
func (s *Set) sawCompaction(x *session, rev int64) {
	if x == nil || s.session != x {
		return
	}
	s.compacted = max(s.compacted, rev)
	s.reads.compacted.Store(s.compacted)
	s.hub.Compacted(rev)
	x.wantProgress(max(rev, s.seen.revision)) // quiet feeds have to get past it, or could not go on after a lost session
}
