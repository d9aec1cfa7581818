package grpcapi

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/grpcapi/wire"
)

// registerForward gives every unary method of etcd a unary handler, because forwarding one call costs a third of
// what forwarding a stream of one message costs. All else, streams and what etcd may grow, reaches forwardStream. Reads
// are k's and keepalives p's; nil forwards them too. MemberList is for members to answer.
func registerForward(s grpc.ServiceRegistrar, d door, f Forwarder, k *sharedReads, p *sharedPings, members grpc.MethodHandler) {
	for _, service := range etcdServices() {
		if len(service.Methods) == 0 {
			continue // a service of streams may be registered by who serves them
		}
		fd := grpc.ServiceDesc{ServiceName: service.ServiceName}
		for _, m := range service.Methods {
			full := "/" + service.ServiceName + "/" + m.MethodName
			h := forwardUnary(d, f, full)
			if full == pb.Cluster_MemberList_FullMethodName {
				h = members
			}
			fd.Methods = append(fd.Methods, grpc.MethodDesc{MethodName: m.MethodName, Handler: h})
		}
		if k != nil && service.ServiceName == pb.KV_ServiceDesc.ServiceName {
			k.takeOver(&fd)
		}
		if p != nil && service.ServiceName == pb.Lease_ServiceDesc.ServiceName {
			p.takeOver(&fd)
		}
		s.RegisterService(&fd, nil)
	}
}

func forwardUnary(d door, f Forwarder, method string) grpc.MethodHandler {
	return d.unary(method, func(ctx context.Context, req wire.Raw) (any, error) { return forwardRaw(ctx, f, method, req) })
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

func forwardStream(d door, f Forwarder) grpc.StreamHandler {
	return func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		return d.forward(f, method, s)
	}
}
