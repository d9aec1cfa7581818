package feed

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// probeInterval is how often upstream is asked whether it has authentication on, and has compacted. Both are to be
// known within a second.
const probeInterval = 500 * time.Millisecond

// errAuthOn says that requests without identity are refused, so that nothing may be shared.
var errAuthOn = errors.New("authentication is on upstream")

// probe asks whether upstream has authentication on, and ends all sharing if so. In the same request it learns of a
// compaction.
func (s *Set) probe(ctx context.Context, m Member) error {
	oldest, asked := s.oldestKept(), time.Now()
	h, err := s.read(uncached(ctx), m, &wire.RangeRequest{Key: anyKey, Serializable: true, CountOnly: true, Revision: oldest})
	switch {
	case err == nil:
		s.confirm(asked)
		s.mu.Lock()
		defer s.mu.Unlock()
		if x := s.session; x != nil && x.member == m {
			s.sawHeader(x, h) // else quiet feeds would not be asked for progress
		}
		return nil
	case isIdentityText(status.Convert(err).Message()):
		s.unshare(errAuthOn)
		return errAuthOn
	case hasText(err, rpctypes.ErrGRPCCompacted):
		s.confirm(asked)
		s.lookUpCompaction(m, oldest)
		return nil
	case hasText(err, rpctypes.ErrGRPCFutureRev): // the member lags behind
		s.confirm(asked)
		return nil
	}
	return fmt.Errorf("probe: %w", err)
}

// probeAlways asks what upstream does not tell by itself: that it has authentication on, that it has compacted.
func (s *Set) probeAlways(ctx context.Context, x *session) {
	for sleep(ctx, probeInterval) == nil {
		if err := s.probe(ctx, x.member); errors.Is(err, errAuthOn) {
			x.cancel(err)
			return
		}
	}
}

// trust is for how long after an answer no other is needed. A watch that comes later waits for the next one, or it
// could be given what has been forbidden meanwhile and is still in memory.
const trust = time.Second

// isConfirmed is called with s.mu held.
func (s *Set) isConfirmed() bool { return elapsed(s.confirmed) <= trust }

// confirm records that a request without an identity, sent at `asked`, was allowed.
func (s *Set) confirm(asked time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.isConfirmed()
	if asked.After(s.confirmed) {
		s.confirmed = asked
		s.tellStanding()
	}
	if !was && s.isConfirmed() {
		s.tellChange()
	}
}

// isIdentityText tells whether upstream refused a request for having no identity, or none that is allowed to do what
// is asked.
func isIdentityText(text string) bool {
	for _, err := range []error{
		rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision,
	} {
		if etcd := status.Convert(err).Message(); text == etcd || text == err.Error() {
			return true
		}
	}
	return false
}

// hasText tells whether err came from upstream as that error of etcd's.
func hasText(err, etcd error) bool {
	return err != nil && status.Convert(err).Message() == status.Convert(etcd).Message()
}
