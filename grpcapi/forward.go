package grpcapi

import (
	"context"

	"google.golang.org/grpc"

	"weir/grpcapi/wire"
)

// registerForward gives every unary method of etcd a unary handler, because forwarding one call costs a third of
// what forwarding a stream of one message costs. All else, streams and what etcd may grow, reaches forwardStream.
func registerForward(s *grpc.Server, f Forwarder) {
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
		s.RegisterService(&fd, nil)
	}
}

func forwardUnary(f Forwarder, method string) grpc.MethodHandler {
	return func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var req wire.Raw
		if err := decode(&req); err != nil {
			return nil, err
		}
		resp, err := f.Unary(ctx, method, req)
		if err != nil {
			return nil, err
		}
		return resp, nil
	}
}

func forwardStream(f Forwarder) grpc.StreamHandler {
	return func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		return f.Stream(method, s)
	}
}
