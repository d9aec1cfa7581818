package feed

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// anyKey is read when only the header matters.
var anyKey = []byte{0}

// read does a Range and returns the header of its answer.
func (s *Set) read(ctx context.Context, m Member, r *wire.RangeRequest) (wire.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := m.Call(ctx, pb.KV_Range_FullMethodName, wire.AppendRangeRequest(nil, r))
	if err != nil {
		return wire.Header{}, err
	}
	return wire.UnmarshalHeader(resp)
}

func (s *Set) linearizable(ctx context.Context, m Member) (wire.Header, error) {
	return s.read(ctx, m, &wire.RangeRequest{Key: anyKey, CountOnly: true})
}

// askRevision is one request of s.now: a serializable read on the member that the feeds are on. Another member
// may be ahead of it, and the feeds would be waited for. When it fails, it is asked again after a while.
func (s *Set) askRevision(ctx context.Context) (int64, error) {
	s.mu.Lock()
	x, changed := s.session, s.changed
	s.mu.Unlock()
	if x == nil {
		select {
		case <-changed:
		case <-ctx.Done():
		}
		return 0, errNoSession
	}
	seen, asked := s.identity(), time.Now()
	h, err := s.read(ctx, x.member, &wire.RangeRequest{Key: anyKey, Serializable: true, CountOnly: true})
	switch {
	case err != nil && isIdentityText(status.Convert(err).Message()):
		s.unshare(errAuthOn)
		x.cancel(errAuthOn)
		return 0, err
	case err != nil:
		return 0, errors.Join(err, sleep(ctx, retryInterval))
	case h.ClusterID != seen.cluster || h.Revision < seen.revision:
		x.cancel(errSuspect)
		return 0, errors.Join(errSuspect, sleep(ctx, retryInterval))
	}
	s.confirm(asked)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != x { // it may no longer be the same cluster
		return 0, errNoSession
	}
	s.sawHeader(x, h)
	return h.Revision, nil
}

var errNoSession = errors.New("no session upstream")
