package grpcapi

import (
	"context"
	"os"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/grpcapi/wire"
)

// registerForward gives every unary method of etcd a unary handler, because forwarding one call costs a third of
// what forwarding a stream of one message costs. All else, streams and what etcd may grow, reaches forwardStream. Reads
// are k's; nil forwards them too. A URL that is advertised is the answer to MemberList.
func registerForward(s grpc.ServiceRegistrar, f Forwarder, k *sharedReads, advertised string) {
	for _, d := range etcdServices() {
		if len(d.Methods) == 0 {
			continue // a service of streams may be registered by who serves them
		}
		fd := grpc.ServiceDesc{ServiceName: d.ServiceName}
		for _, m := range d.Methods {
			full := "/" + d.ServiceName + "/" + m.MethodName
			h := forwardUnary(f, full)
			if full == pb.Cluster_MemberList_FullMethodName && advertised != "" {
				h = advertise(advertised)
			}
			fd.Methods = append(fd.Methods, grpc.MethodDesc{MethodName: m.MethodName, Handler: h})
		}
		if k != nil && d.ServiceName == pb.KV_ServiceDesc.ServiceName {
			k.takeOver(&fd)
		}
		s.RegisterService(&fd, nil)
	}
}

// advertise answers MemberList with one member, which has this server's host for a name. It has no header, as at etcd.
func advertise(url string) grpc.MethodHandler {
	return handleRaw(func(context.Context, wire.Raw) (any, error) {
		name, _ := os.Hostname() // without one the member has no name
		return &pb.MemberListResponse{Members: []*pb.Member{{Name: name, ClientURLs: []string{url}}}}, nil
	})
}

func forwardUnary(f Forwarder, method string) grpc.MethodHandler {
	return handleRaw(func(ctx context.Context, req wire.Raw) (any, error) { return forwardRaw(ctx, f, method, req) })
}

func forwardRaw(ctx context.Context, f Forwarder, method string, req wire.Raw) (any, error) {
	resp, err := f.Unary(ctx, method, req, sessionOf(ctx))
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// handleRaw makes a handler that is given the encoded request and returns the encoded response, or a status error.
func handleRaw(handle func(ctx context.Context, req wire.Raw) (any, error)) grpc.MethodHandler {
	return func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var req wire.Raw
		if err := decode(&req); err != nil {
			return nil, err
		}
		return handle(ctx, req)
	}
}

func forwardStream(f Forwarder) grpc.StreamHandler {
	return func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		return f.Stream(method, s, sessionOf(s.Context()))
	}
}
