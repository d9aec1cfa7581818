package grpcapi

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

func registerCluster(s *grpc.Server, b Backend) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: pb.Cluster_ServiceDesc.ServiceName,
		Methods:     []grpc.MethodDesc{method("MemberList", b, b.MemberList)},
	}, nil)
}

func registerMaintenance(s *grpc.Server, b Backend) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: pb.Maintenance_ServiceDesc.ServiceName,
		Methods: []grpc.MethodDesc{
			method("Alarm", b, b.Alarm),
			method("Status", b, b.Status),
			method("Defragment", b, b.Defragment),
			method("Hash", b, b.Hash),
			method("HashKV", b, b.HashKV),
		},
		Streams: []grpc.StreamDesc{stream("Snapshot", false, b, func(s grpc.ServerStream) error {
			if err := s.RecvMsg(&pb.SnapshotRequest{}); err != nil {
				return err
			}
			return b.Snapshot(s.Context(), func(r *pb.SnapshotResponse) error { return s.SendMsg(r) })
		})},
	}, nil)
}
