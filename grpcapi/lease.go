package grpcapi

import (
	"context"
	"errors"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"weir/grpcapi/wire"
)

// lease is the Lease service over a Backend, and that of weir's own for many pings at once.
type lease struct {
	b       Backend
	pinging *pingStreams // of many pings
}

func registerLease(s grpc.ServiceRegistrar, b Backend, pinging *pingStreams) {
	l := lease{b, pinging}
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: pb.Lease_ServiceDesc.ServiceName,
		Methods: []grpc.MethodDesc{
			method("LeaseGrant", b, b.LeaseGrant),
			method("LeaseRevoke", b, b.LeaseRevoke),
			method("LeaseTimeToLive", b, l.timeToLive),
			method("LeaseLeases", b, b.LeaseLeases),
		},
		Streams: []grpc.StreamDesc{stream("LeaseKeepAlive", true, b, l.keepAlive)},
	}, nil)
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: wire.PingsService,
		Streams:     []grpc.StreamDesc{stream("KeepAlive", true, b, l.keepAliveBatches)},
	}, nil)
}

// timeToLive answers TTL -1 for a lease that is not there.
func (l lease) timeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	resp, err := l.b.LeaseTimeToLive(ctx, r)
	if isLeaseNotFound(err) {
		return &pb.LeaseTimeToLiveResponse{Header: header(l.b.Header()), ID: r.ID, TTL: -1}, nil
	}
	return resp, err
}

// keepAlive answers pings one at a time in their order, TTL 0 for a lease that is not there. Any other error ends
// the stream.
func (l lease) keepAlive(s grpc.ServerStream) error {
	for {
		var r pb.LeaseKeepAliveRequest
		if err := s.RecvMsg(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		// Before the ping, so that the revision is not newer than what the ping saw: a lease revoked at revision 3
		// must not be reported alive at 4.
		h := header(l.b.Header())
		ttl, err := l.b.LeaseRenew(s.Context(), r.ID)
		if isLeaseNotFound(err) {
			ttl, err = 0, nil
		}
		if err != nil {
			return err
		}
		if err := s.SendMsg(&pb.LeaseKeepAliveResponse{Header: h, ID: r.ID, TTL: ttl}); err != nil {
			return err
		}
	}
}

func isLeaseNotFound(err error) bool {
	return err != nil && toStatus(err).Error() == rpctypes.ErrGRPCLeaseNotFound.Error()
}
