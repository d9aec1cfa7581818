package grpcapi

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

func registerCluster(s grpc.ServiceRegistrar, b Backend) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: pb.Cluster_ServiceDesc.ServiceName,
		Methods: []grpc.MethodDesc{
			method("MemberList", b, b.MemberList),
			method("MemberAdd", b, b.MemberAdd),
			method("MemberRemove", b, b.MemberRemove),
			method("MemberUpdate", b, b.MemberUpdate),
			method("MemberPromote", b, b.MemberPromote),
		},
	}, nil)
}

type defragmentation func(context.Context, *pb.DefragmentRequest) (*pb.DefragmentResponse, error)

func registerMaintenance(s grpc.ServiceRegistrar, b Backend, defragment defragmentation) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: pb.Maintenance_ServiceDesc.ServiceName,
		Methods: []grpc.MethodDesc{
			method("Alarm", b, func(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
				if r.Action == pb.AlarmRequest_GET {
					if err := b.PermitKnown(ctx); err != nil {
						return nil, err
					}
				}
				return b.Alarm(ctx, r)
			}),
			method("Status", b, func(ctx context.Context, r *pb.StatusRequest) (*pb.StatusResponse, error) {
				if err := b.PermitKnown(ctx); err != nil {
					return nil, err
				}
				return b.Status(ctx, r)
			}),
			method("Defragment", b, defragment),
			method("Hash", b, b.Hash),
			method("HashKV", b, b.HashKV),
			method("MoveLeader", b, b.MoveLeader),
			method("Downgrade", b, b.Downgrade),
		},
		Streams: []grpc.StreamDesc{stream("Snapshot", false, b, func(s grpc.ServerStream) error {
			if err := s.RecvMsg(&pb.SnapshotRequest{}); err != nil {
				return err
			}
			return b.Snapshot(s.Context(), func(r *pb.SnapshotResponse) error { return s.SendMsg(r) })
		})},
	}, nil)
}
