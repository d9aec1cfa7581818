// Package lockpb is the messages, clients and JSON gateway of etcd's lock and election services, generated from
// lock.proto and election.proto.
//
// etcd has them only in the module of its whole server. They are written anew here, equal on the wire, in protobuf
// packages of the same names; so no program can contain both. import/ has what the generator must know of etcd's own
// messages, gateway.yaml the paths of the gateway.
//
// Callers: package grpcapi serves both services, and the gateway of both kinds of server.
package lockpb

// "make generate" installs the three plugins and then runs this; protoc itself must be there.
//go:generate protoc -I weir/grpcapi/lockpb=. -I import --go_out=. --go_opt=module=weir/grpcapi/lockpb --go-grpc_out=. --go-grpc_opt=module=weir/grpcapi/lockpb --grpc-gateway_out=. --grpc-gateway_opt=module=weir/grpcapi/lockpb,grpc_api_configuration=gateway.yaml weir/grpcapi/lockpb/lock.proto weir/grpcapi/lockpb/election.proto
