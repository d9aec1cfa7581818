package proxy

import (
	"context"
	"errors"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// pingUpstream is where the pings of a principal go: to the member that leads, in the principal's name.
type pingUpstream struct {
	*pings
	of    principal
	asker asker
}

// answerPatience is how long a member may take for what it should have at hand: the header of a stream, its status. Who
// waits for it has a second in all.
const answerPatience = 250 * time.Millisecond

// errTokenRenewed ends a stream of the proxy's own so that it is opened with a new token.
var errTokenRenewed = status.Error(codes.Unavailable, "weir: the token that the proxy pings leases with is not good any more")

// named is ctx for a call in the principal's name.
func (u *pingUpstream) named(ctx context.Context) (context.Context, error) {
	switch u.of.kind {
	case tokenHolder:
		return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, u.of.token), nil
	case ownSelf:
		return u.identities.Own(ctx)
	}
	return ctx, nil
}

// failed is the error of a call with the context ctx, as the keeper is to take it.
func (u *pingUpstream) failed(ctx context.Context, err error) error {
	if u.of.kind == ownSelf && u.identities.Renew(ctx, err) {
		return errTokenRenewed
	}
	return err
}

// Open is part of coalesce.PingUpstream. Whether the member takes many pings at once it asks each time: members are
// upgraded, and streams are hardly ever opened.
func (u *pingUpstream) Open(ctx context.Context) (coalesce.PingStream, error) {
	ctx, err := u.named(ctx)
	if err != nil {
		return nil, err
	}
	m, err := u.leader.find(ctx, &u.asker)
	if err != nil {
		return nil, err
	}
	s := memberPings{from: u, member: m}
	if err = s.open(ctx, wire.PingsMethod); err == nil {
		return &weirPings{memberPings: s}, nil
	}
	if status.Code(err) == codes.Unimplemented { // at etcd
		if err = s.open(ctx, pb.Lease_LeaseKeepAlive_FullMethodName); err == nil {
			return &etcdPings{memberPings: s}, nil
		}
	}
	u.leader.doubt()
	return nil, u.failed(ctx, err)
}

// Remaining is part of coalesce.PingUpstream.
func (u *pingUpstream) Remaining(ctx context.Context, id int64) (ttl int64, h wire.Header, err error) {
	if ctx, err = u.named(ctx); err != nil {
		return 0, h, err
	}
	m, err := u.leader.find(ctx, &u.asker)
	if err != nil {
		return 0, h, err
	}
	req, err := proto.Marshal(&pb.LeaseTimeToLiveRequest{ID: id})
	if err != nil {
		return 0, h, status.Errorf(codes.Internal, "weir: encode a request for a time to live: %v", err)
	}
	raw, err := m.call(ctx, pb.Lease_LeaseTimeToLive_FullMethodName, req)
	if err != nil {
		return 0, h, u.failed(ctx, err)
	}
	var r pb.LeaseTimeToLiveResponse
	if err = proto.Unmarshal(raw, &r); err == nil {
		h, err = wire.UnmarshalHeader(raw)
	}
	if err != nil {
		return 0, h, status.Errorf(codes.Internal, "weir: decode a time to live: %v", err)
	}
	if r.GrantedTTL == 0 {
		return -1, h, nil
	}
	// etcd counts on below 0 while an expired lease is not revoked, and so comes by -1 too.
	return max(0, r.TTL), h, nil
}

// memberPings is what streams of pings to a member have in common.
type memberPings struct {
	grpc.ClientStream
	from   *pingUpstream
	member *member
	ctx    context.Context // of the stream, unlike Context() not ended by its end
	cancel context.CancelFunc
}

// open opens the stream, and returns when the member has it, or can be taken to.
func (s *memberPings) open(ctx context.Context, method string) (err error) {
	s.ctx, s.cancel = context.WithCancel(ctx)
	if s.ClientStream, err = s.member.conn.NewStream(s.ctx, &anyStream, method); err != nil {
		s.cancel()
		return err
	}
	if method != wire.PingsMethod {
		return nil // etcd says nothing before the first ping
	}
	hangs := time.AfterFunc(answerPatience, s.cancel)
	header, err := s.Header()
	if !hangs.Stop() {
		return status.Error(codes.Unavailable, "weir: upstream member does not answer")
	}
	if err == nil && header == nil { // it has ended
		var none wire.Raw
		if err = s.RecvMsg(&none); err == nil || errors.Is(err, io.EOF) {
			err = status.Error(codes.Unavailable, "weir: upstream member ended a stream of pings at once")
		}
	}
	if err == nil && len(header[wire.PingsHeader]) == 0 {
		err = status.Error(codes.Unimplemented, "weir: upstream member does not take pings in batches")
	}
	if err != nil {
		s.cancel()
	}
	return err
}

// check ends the stream if another member leads now.
func (s *memberPings) check() error {
	if s.from.leader.refresh(s.ctx, &s.from.asker) == s.member {
		return nil
	}
	s.cancel()
	return rpctypes.ErrGRPCLeaderChanged
}

// ended is the error of the stream.
func (s *memberPings) ended(err error) error {
	defer s.cancel()
	if s.ctx.Err() != nil {
		return rpctypes.ErrGRPCLeaderChanged // check ended it, or else nobody wants to know
	}
	if status.Code(err) != codes.PermissionDenied { // which is said of a lease
		s.from.leader.doubt()
	}
	return s.from.failed(s.ctx, err)
}

// etcdPings is etcd's own stream, one ping with each message.
type etcdPings struct {
	memberPings
	pongs [1]coalesce.Pong
}

// Ordered is part of coalesce.PingStream.
func (s *etcdPings) Ordered() bool { return true }

// Send is part of coalesce.PingStream.
func (s *etcdPings) Send(ids []int64) error {
	if err := s.check(); err != nil {
		return err
	}
	const pingSize = 1 + 10 // at most
	all := make([]byte, 0, len(ids)*pingSize)
	for _, id := range ids {
		begin := len(all)
		all = wire.AppendPing(all, id)
		if err := s.SendMsg(wire.Raw(all[begin:])); err != nil {
			return err
		}
	}
	return nil
}

// Recv is part of coalesce.PingStream.
func (s *etcdPings) Recv() ([]coalesce.Pong, error) {
	var raw wire.Raw
	if err := s.RecvMsg(&raw); err != nil {
		return nil, s.ended(err)
	}
	h, p, err := wire.UnmarshalPong(raw)
	if err != nil {
		return nil, s.ended(status.Errorf(codes.Internal, "weir: %v", err))
	}
	s.pongs[0] = coalesce.Pong{ID: p.ID, TTL: p.TTL, Header: h}
	return s.pongs[:], nil
}

// weirPings is weir's stream, many pings with each message.
type weirPings struct {
	memberPings
	batch wire.PongBatch
	pongs []coalesce.Pong
}

// Ordered is part of coalesce.PingStream.
func (s *weirPings) Ordered() bool { return false }

// Send is part of coalesce.PingStream.
func (s *weirPings) Send(ids []int64) error {
	if err := s.check(); err != nil {
		return err
	}
	return s.SendMsg(wire.Raw(wire.AppendPings(nil, ids)))
}

// Recv is part of coalesce.PingStream.
func (s *weirPings) Recv() ([]coalesce.Pong, error) {
	s.pongs = s.pongs[:0]
	for len(s.pongs) == 0 {
		var raw wire.Raw
		if err := s.RecvMsg(&raw); err != nil {
			return nil, s.ended(err)
		}
		if err := s.batch.Unmarshal(raw); err != nil {
			return nil, s.ended(status.Errorf(codes.Internal, "weir: %v", err))
		}
		for _, p := range s.batch.Pongs {
			s.pongs = append(s.pongs, coalesce.Pong{ID: p.ID, TTL: p.TTL, Header: s.batch.Header})
		}
		for _, f := range s.batch.Failures {
			err := s.from.failed(s.ctx, status.Error(codes.Code(f.Code), f.Text))
			if errors.Is(err, errTokenRenewed) {
				return nil, s.ended(err)
			}
			s.pongs = append(s.pongs, coalesce.Pong{ID: f.ID, Err: err})
		}
	}
	return s.pongs, nil
}
