package grpcapi

import (
	"context"
	"errors"
	"unicode/utf8"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// toStatus turns an error of a Backend into the status that etcd answers for it. Clients match on the text, so what
// a caller wrapped around a status or one of rpctypes' errors is dropped.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Err()
	}
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return status.Error(e.Code(), e.Error())
	}
	for _, cause := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, cause) {
			return status.FromContextError(cause).Err()
		}
	}
	return status.Error(codes.Unknown, err.Error())
}

// errUndecodable is what etcd answers when a message is not the protobuf it should be. It is not told what is wrong.
var errUndecodable = status.Error(codes.Internal,
	"grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data")

// admit checks what etcd checks of an RPC's metadata before it looks at the request.
func admit(ctx context.Context, b Maintenance) error {
	md := incomingMetadata(ctx)
	if err := checkAPIVersion(md); err != nil {
		return err
	}
	if requiresLeader(md) {
		s, err := b.Status(ctx, &pb.StatusRequest{})
		if err != nil {
			return toStatus(err)
		}
		if s.Leader == 0 {
			return rpctypes.ErrGRPCNoLeader
		}
	}
	return nil
}

func checkAPIVersion(md metadata.MD) error {
	if v := md[rpctypes.MetadataClientAPIVersionKey]; len(v) > 0 && !utf8.ValidString(v[0]) {
		return rpctypes.ErrGRPCInvalidClientAPIVersion
	}
	return nil
}

func requiresLeader(md metadata.MD) bool {
	v := md[rpctypes.MetadataRequireLeaderKey]
	return len(v) > 0 && v[0] == rpctypes.MetadataHasLeader
}

// header is h as the generated type.
func header(h wire.Header) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: h.ClusterID, MemberId: h.MemberID, Revision: h.Revision, RaftTerm: h.RaftTerm}
}
