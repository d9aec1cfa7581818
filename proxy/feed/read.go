package feed

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// uncached has a proxy that is upstream answer like the member behind it: not from memory, which may be a little behind.
func uncached(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "weir-uncached", "true")
}

// caller is Member.Call, or CallAsNobody.
type caller = func(ctx context.Context, method string, req []byte) (wire.Raw, error)

// read does a Range and returns the header of its answer.
func read(ctx context.Context, do caller, r *wire.RangeRequest) (wire.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := do(ctx, pb.KV_Range_FullMethodName, wire.AppendRangeRequest(nil, r))
	if err != nil {
		return wire.Header{}, err
	}
	return wire.UnmarshalHeader(resp)
}

func (s *Set) linearizable(ctx context.Context, m Member) (wire.Header, error) {
	return read(uncached(ctx), m.Call, &wire.RangeRequest{Key: s.anyKey, CountOnly: true})
}

// askNow is one request of s.now: a serializable read on the member that the feeds are on. Another member may be ahead of
// it, and the feeds would be waited for. When it fails, it is asked again after a while.
func (s *Set) askNow(ctx context.Context) (int64, error) {
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
	rev, err := s.askRevision(ctx, x, true)
	if err != nil {
		err = errors.Join(err, sleep(ctx, retryInterval))
	}
	return rev, err
}

// askRevision asks the member of a session for its revision. An answer that cannot be that of the cluster which is known
// ends the session.
//
// While authentication is off it asks as nobody, so that an answer shows that it still is. In the proxy's own name it would be
// answered after it has been switched on, too.
func (s *Set) askRevision(ctx context.Context, x *session, serializable bool) (int64, error) {
	seen, asked := s.identity(), time.Now()
	if serializable { // a linearizable answer is as good from a proxy's memory, and cheaper
		ctx = uncached(ctx)
	}
	do := x.member.Call
	if x.under == Open {
		do = x.member.CallAsNobody
	}
	h, err := read(ctx, do, &wire.RangeRequest{Key: s.anyKey, Serializable: serializable, CountOnly: true})
	switch {
	case err != nil && isIdentityText(status.Convert(err).Message()):
		if s.isShared(x.under) { // else the answer is late
			s.unshare(errAuthOn)
		}
		x.cancel(errAuthOn)
		return 0, err
	case err != nil:
		return 0, err
	case h.ClusterID != seen.cluster || h.Revision < seen.revision:
		x.cancel(errSuspect)
		return 0, errSuspect
	}
	if x.under == Open {
		s.confirm(asked, Open)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != x { // it may no longer be the same cluster
		return 0, errNoSession
	}
	s.sawHeader(x, h)
	if !serializable {
		s.prove(asked, h.Revision)
	}
	return h.Revision, nil
}

var errNoSession = status.Error(codes.Unavailable, "weir: no member of upstream is at hand")
