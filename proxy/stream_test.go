package proxy

import (
	"context"
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/cache"
	"weir/grpcapi/wire"
)

// refusingStream is a client's stream of which the second message is refused before it is forwarded, as by a limit.
type refusingStream struct {
	ctx      context.Context
	received int
	why      error
}

func (s *refusingStream) RecvMsg(m any) error {
	if s.received++; s.received > 1 {
		return s.why
	}
	*(m.(*wire.Raw)) = wire.AppendPing(nil, 1)
	return nil
}

func (s *refusingStream) Context() context.Context     { return s.ctx }
func (*refusingStream) SendMsg(any) error              { return nil }
func (*refusingStream) SetHeader(metadata.MD) error    { return nil }
func (*refusingStream) SendHeader(metadata.MD) error   { return nil }
func (*refusingStream) SetTrailer(trailer metadata.MD) {}

func TestClientWhoseMessageIsRefusedIsToldWhy(t *testing.T) {
	p := before(t, map[string]func(grpc.ServerStream) error{
		pb.Lease_LeaseKeepAlive_FullMethodName: func(s grpc.ServerStream) error {
			<-s.Context().Done()
			return s.Context().Err()
		},
	})
	s := &refusingStream{ctx: t.Context(), why: status.Error(codes.ResourceExhausted, "too much")}
	if err := p.Stream(pb.Lease_LeaseKeepAlive_FullMethodName, s, new(cache.Session)); !errors.Is(err, s.why) {
		t.Errorf("got %v", err)
	}
}
