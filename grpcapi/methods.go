package grpcapi

import (
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// etcdServices describes every service that an etcd 3.7 server has on its client port. Only names and kinds of
// methods are used. Those of the lock and election services are written out, because their generated code comes
// only with etcd's whole server.
func etcdServices() []grpc.ServiceDesc {
	return []grpc.ServiceDesc{
		pb.KV_ServiceDesc, pb.Watch_ServiceDesc, pb.Lease_ServiceDesc,
		pb.Cluster_ServiceDesc, pb.Maintenance_ServiceDesc, pb.Auth_ServiceDesc,
		{
			ServiceName: "v3lockpb.Lock",
			Methods:     []grpc.MethodDesc{{MethodName: "Lock"}, {MethodName: "Unlock"}},
		},
		{
			ServiceName: "v3electionpb.Election",
			Methods: []grpc.MethodDesc{
				{MethodName: "Campaign"}, {MethodName: "Proclaim"}, {MethodName: "Leader"}, {MethodName: "Resign"},
			},
			Streams: []grpc.StreamDesc{{StreamName: "Observe", ServerStreams: true}},
		},
	}
}

// isEtcdService tells whether etcd has the service ("etcdserverpb.KV").
func isEtcdService(name string) bool {
	return slices.ContainsFunc(etcdServices(), func(s grpc.ServiceDesc) bool { return s.ServiceName == name })
}

// isEtcdMethod tells whether etcd has the method ("etcdserverpb.KV/Put").
func isEtcdMethod(full string) bool {
	service, name, _ := strings.Cut(full, "/")
	for _, s := range etcdServices() {
		if s.ServiceName != service {
			continue
		}
		for _, m := range s.Methods {
			if m.MethodName == name {
				return true
			}
		}
		for _, m := range s.Streams {
			if m.StreamName == name {
				return true
			}
		}
	}
	return false
}
