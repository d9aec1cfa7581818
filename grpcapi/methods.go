package grpcapi

import (
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/grpcapi/lockpb"
)

// etcdServices describes every service that an etcd 3.7 server has on its client port. Only names and kinds of
// methods are used.
func etcdServices() []grpc.ServiceDesc {
	return []grpc.ServiceDesc{
		pb.KV_ServiceDesc, pb.Watch_ServiceDesc, pb.Lease_ServiceDesc,
		pb.Cluster_ServiceDesc, pb.Maintenance_ServiceDesc, pb.Auth_ServiceDesc,
		lockpb.Lock_ServiceDesc, lockpb.Election_ServiceDesc,
	}
}

// isEtcdService tells whether etcd has the service ("etcdserverpb.KV").
func isEtcdService(name string) bool {
	return slices.ContainsFunc(etcdServices(), func(s grpc.ServiceDesc) bool { return s.ServiceName == name })
}
