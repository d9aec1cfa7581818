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

// probeInterval is how often upstream is asked who may read, and what it has compacted. Both are to be known within a
// second.
const probeInterval = 500 * time.Millisecond

var (
	// errAuthOn says that the proxy may not read all that is to be shared, or has not been able to show yet that it may.
	errAuthOn = errors.New("authentication is on upstream, and the proxy has not shown, with a user or a certificate of its own, that it may read every key there")
	// errIdentity ends a session of which upstream does not accept who the proxy is any more, as after a restart that has made
	// tokens void. The next one finds out under which regime upstream is.
	errIdentity = errors.New("upstream no longer accepts the token or the rights of the proxy")
	// errRegime ends what was shared among other clients than it may be now.
	errRegime = errors.New("authentication was switched upstream")
)

// probe asks who may be given what the feeds bring, and ends all sharing if nobody may. Then it asks for compaction.
func (s *Set) probe(ctx context.Context, m Member) (Regime, error) {
	asked := time.Now()
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := m.Regime(call)
	switch {
	case err != nil:
		return r, fmt.Errorf("probe who may read: %w", err)
	case r == Closed:
		s.unshare(errAuthOn)
		return r, errAuthOn
	}
	s.confirm(asked, r)
	return r, s.probeCompaction(ctx, m)
}

// probeCompaction asks whether the oldest revision that is kept can still be read upstream.
func (s *Set) probeCompaction(ctx context.Context, m Member) error {
	oldest := s.oldestKept()
	h, err := read(uncached(ctx), m.Call, &wire.RangeRequest{Key: s.anyKey, Serializable: true, CountOnly: true, Revision: oldest})
	switch {
	case err == nil:
		s.mu.Lock()
		defer s.mu.Unlock()
		if x := s.session; x != nil && x.member == m {
			s.sawHeader(x, h) // else quiet feeds would not be asked for progress
		}
		return nil
	case hasText(err, rpctypes.ErrGRPCCompacted):
		s.lookUpCompaction(m, oldest)
		return nil
	case hasText(err, rpctypes.ErrGRPCFutureRev): // the member lags behind
		return nil
	}
	return fmt.Errorf("probe for compaction: %w", err)
}

// probeAlways asks what upstream does not tell by itself: who may read, that it has compacted.
func (s *Set) probeAlways(ctx context.Context, x *session) {
	for sleep(ctx, probeInterval) == nil {
		switch r, err := s.probe(ctx, x.member); {
		case errors.Is(err, errAuthOn):
			x.cancel(err)
			return
		case err == nil && r != x.under:
			s.unshare(errRegime)
			x.cancel(errRegime)
			return
		}
	}
}

// trust is for how long after an answer no other is needed. A watch that comes later waits for the next one, or it
// could be given what has been forbidden meanwhile and is still in memory.
const trust = time.Second

// isConfirmed is called with s.mu held.
func (s *Set) isConfirmed() bool { return elapsed(s.confirmed) <= trust }

// confirm records that upstream, asked at `asked`, allows what is shared under a regime.
func (s *Set) confirm(asked time.Time, under Regime) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sharing != unknown && s.sharing != sharingUnder(under) {
		return
	}
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

// isRefusal tells the same of an error.
func isRefusal(err error) bool { return err != nil && isIdentityText(status.Convert(err).Message()) }

// hasText tells whether err came from upstream as that error of etcd's.
func hasText(err, etcd error) bool {
	return err != nil && status.Convert(err).Message() == status.Convert(etcd).Message()
}
