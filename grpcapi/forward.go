package grpcapi

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/grpcapi/wire"
)

// registerForward gives every unary method of etcd a unary handler, because forwarding one call costs a third of
// what forwarding a stream of one message costs. All else, streams and what etcd may grow, reaches forwardStream. Reads
// are k's; nil forwards them too.
func registerForward(s *grpc.Server, f Forwarder, k *sharedReads) {
	for _, d := range etcdServices() {
		if len(d.Methods) == 0 {
			continue // a service of streams may be registered by who serves them
		}
		fd := grpc.ServiceDesc{ServiceName: d.ServiceName}
		for _, m := range d.Methods {
			fd.Methods = append(fd.Methods, grpc.MethodDesc{
				MethodName: m.MethodName,
				Handler:    forwardUnary(f, "/"+d.ServiceName+"/"+m.MethodName),
			})
		}
		if k != nil && d.ServiceName == pb.KV_ServiceDesc.ServiceName {
			k.takeOver(&fd)
		}
		s.RegisterService(&fd, nil)
	}
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
