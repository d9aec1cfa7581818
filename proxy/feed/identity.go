package feed

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// identity is what upstream has shown to be. Only linearizable reads count for cluster and term: they cannot go back.
type identity struct {
	cluster  uint64
	revision int64
	term     uint64
}

// termPatience is how often a member is asked again whose term is below one that was seen: a member that stood for
// election in vain may have shown a term that the cluster reaches only later.
const termPatience = 10

// identity is what upstream has shown to be until now.
func (s *Set) identity() identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	seen.revision = max(seen.revision, s.hub.Revision())
	return seen
}

// errSuspect ends a session so that the next one looks at what upstream is.
var errSuspect = errors.New("upstream may not be what it was")

// errReplaced says that upstream is not what it was: another cluster, or this one restored from a backup.
var errReplaced = errors.New("weir: the cluster upstream has been replaced or restored from a backup")

// replacedAt is errReplaced for watchers: they have to read everything again, as after a compaction, and that is what
// they are told. A reason alone does not reach the users of client/v3, whose watch just ends.
func replacedAt(rev int64) error {
	return &coalesce.CompactedError{CompactRevision: rev, Reason: errReplaced.Error()}
}

// verify makes sure that a member belongs to the cluster that the feeds are of, and that nothing which was seen has
// been undone. A member that only lags behind cannot be mistaken for that, since a linearizable read makes it catch up.
func (s *Set) verify(ctx context.Context, m Member) error {
	for try := 0; ; try++ {
		asked := time.Now()
		h, err := s.linearizable(ctx, m)
		if err != nil {
			return fmt.Errorf("linearizable read: %w", err)
		}
		var what string
		switch seen := s.identity(); {
		case seen.cluster != 0 && h.ClusterID != seen.cluster:
			what = fmt.Sprintf("cluster id is %x and was %x", h.ClusterID, seen.cluster)
		case h.Revision < seen.revision:
			what = fmt.Sprintf("revision is %d and has been %d", h.Revision, seen.revision)
		case h.RaftTerm < seen.term && try < termPatience:
			if err := sleep(ctx, retryInterval); err != nil {
				return err
			}
			continue
		case h.RaftTerm < seen.term:
			what = fmt.Sprintf("raft term is %d and has been %d", h.RaftTerm, seen.term)
		default:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.seen = identity{cluster: h.ClusterID, revision: max(seen.revision, h.Revision), term: h.RaftTerm}
			s.header.Store(&h)
			s.prove(asked, h.Revision)
			return nil
		}
		s.log.Error("the cluster upstream has been replaced or restored from a backup; all watches are cancelled",
			"because", what, "watches", s.watchers())
		s.reset(replacedAt(h.Revision))
		return errReplaced
	}
}

// sawHeader takes the header of a response of the current session. s.mu is held.
func (s *Set) sawHeader(x *session, h wire.Header) {
	if s.session != x {
		return
	}
	s.seen.revision = max(s.seen.revision, h.Revision)
	h.RaftTerm = max(h.RaftTerm, s.header.Load().RaftTerm) // responses of several RPCs overtake each other
	s.header.Store(&h)
}
