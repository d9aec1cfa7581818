package differential

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// rpc is one unary RPC: where its requests go over gRPC, and over the JSON gateway.
type rpc struct {
	method   string // as in /etcdserverpb.KV/Range
	path     string // as in /v3/kv/range
	response protoreflect.MessageType
}

// unaryRPCs are all unary RPCs of etcd by the type of their requests, of which each has its own. They come from etcd's
// own descriptors, so none is forgotten.
func unaryRPCs() (map[protoreflect.FullName]rpc, error) {
	all := map[protoreflect.FullName]rpc{}
	for _, file := range []protoreflect.FileDescriptor{
		pb.File_rpc_proto, v3lockpb.File_v3lock_proto, v3electionpb.File_v3election_proto,
	} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				if m.IsStreamingClient() || m.IsStreamingServer() {
					continue
				}
				response, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
				if err != nil {
					return nil, fmt.Errorf("response of %s: %w", m.FullName(), err)
				}
				http, ok := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
				if !ok {
					return nil, fmt.Errorf("%s has no path at the gateway", m.FullName())
				}
				all[m.Input().FullName()] = rpc{
					method:   fmt.Sprintf("/%s/%s", service.FullName(), m.Name()),
					path:     http.GetPost(),
					response: response,
				}
			}
		}
	}
	return all, nil
}

// rpcOf is the RPC that a request is for.
func (s *side) rpcOf(req proto.Message) (rpc, error) {
	name := req.ProtoReflect().Descriptor().FullName()
	to, ok := s.rpcs[name]
	if !ok {
		return rpc{}, fmt.Errorf("no unary RPC takes a %s", name)
	}
	return to, nil
}

// call sends a request to its RPC over gRPC.
func (s *side) call(ctx context.Context, who *identity, req proto.Message) answer {
	to, err := s.rpcOf(req)
	if err != nil {
		return answer{err: err}
	}
	resp := to.response.New().Interface()
	if err := s.conn.Invoke(s.as(ctx, who), to.method, req, resp); err != nil {
		return answer{err: err}
	}
	return answer{resp: resp}
}
