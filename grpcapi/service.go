package grpcapi

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// The services are registered with descriptions of our own instead of the generated ones, because the generated
// handlers decode every request into a struct and take only a struct for an answer.

// rawMethod describes a unary method whose handler reads and writes encoded messages.
func rawMethod(name string, b Maintenance, handle func(context.Context, wire.Raw) (mem.BufferSlice, error)) grpc.MethodDesc {
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var req wire.Raw
			if err := decode(&req); err != nil {
				return nil, err
			}
			if err := admit(ctx, b); err != nil {
				return nil, err
			}
			resp, err := handle(ctx, req)
			if err != nil {
				return nil, toStatus(err)
			}
			return resp, nil
		},
	}
}

// method describes a unary method off the hot path, with protobuf messages.
func method[Req any, PReq interface {
	*Req
	proto.Message
}, Resp proto.Message](name string, b Maintenance, handle func(context.Context, PReq) (Resp, error)) grpc.MethodDesc {
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			req := PReq(new(Req))
			if err := decode(req); err != nil {
				return nil, err
			}
			if err := admit(ctx, b); err != nil {
				return nil, err
			}
			resp, err := handle(ctx, req)
			if err != nil {
				return nil, toStatus(err)
			}
			return resp, nil
		},
	}
}

// stream describes a streaming method.
func stream(name string, clientStreams bool, b Maintenance, handle func(grpc.ServerStream) error) grpc.StreamDesc {
	return grpc.StreamDesc{
		StreamName:    name,
		ServerStreams: true,
		ClientStreams: clientStreams,
		Handler: func(_ any, s grpc.ServerStream) error {
			if err := admit(s.Context(), b); err != nil {
				return err
			}
			return toStatus(handle(s))
		},
	}
}

// notThere answers RPCs that a backend server does not have, as grpc would.
func notThere(_ any, s grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(s)
	return errNotThere(full)
}

func errNotThere(full string) error {
	service, method, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	if isEtcdService(service) {
		return status.Errorf(codes.Unimplemented, "unknown method %s for service %s", method, service)
	}
	return status.Errorf(codes.Unimplemented, "unknown service %s", service)
}
