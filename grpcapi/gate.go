package grpcapi

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"weir/grpcapi/wire"
)

// Gate says what each client of a forwarding server may do, and how much of it. It comes first: before an RPC is looked at, and
// before its keys get the prefix of the client's namespace. proxy/tenants has one. Enter may be called concurrently.
//
// What somebody may do to which keys is upstream's to say, or Reads' and WatchSharer's, which know upstream's rules.
type Gate interface {
	// Enter admits an RPC of a method ("/etcdserverpb.KV/Put"), or returns the error to answer. req is the request of a unary
	// one, as it came, and nil for a stream.
	Enter(ctx context.Context, method string, req wire.Raw) (wire.Visit, error)
}

// door is where the RPCs of a forwarding server come in. Without a gate it is always open, and costs nothing.
type door struct{ gate Gate }

// unary lets in what handle does for one method, given the encoded request.
func (d door) unary(method string, handle func(context.Context, wire.Raw) (any, error)) grpc.MethodHandler {
	if d.gate == nil {
		return handleRaw(handle)
	}
	return handleRaw(func(ctx context.Context, req wire.Raw) (any, error) {
		visit, err := d.gate.Enter(ctx, method, req)
		if err != nil {
			return nil, toStatus(err)
		}
		within := ctx
		if until := visit.Context(); until != nil {
			within = until
		}
		resp, err := visitUnary(within, namespace(visit.Namespace()), method, req, handle)
		if err != nil {
			err = endedFor(ctx, within, err)
		}
		raw, isRaw := resp.(wire.Raw)
		if !isRaw {
			visit.Sent(sizeOf(resp))
		}
		visit.Leave(raw, err)
		if err != nil {
			return nil, err
		}
		return namespace(visit.Namespace()).response(method, resp)
	})
}

func visitUnary(ctx context.Context, n namespace, method string, req wire.Raw, handle func(context.Context, wire.Raw) (any, error)) (any, error) {
	req, err := n.request(method, req)
	if err != nil {
		return nil, err
	}
	return handle(ctx, req)
}

// stream lets in a stream of one method. handle is given the stream, and the visit that it belongs to, nil without a gate.
func (d door) stream(method string, gs grpc.ServerStream, handle func(grpc.ServerStream, wire.Visit) error) error {
	return d.enter(method, gs, func(gs grpc.ServerStream, visit wire.Visit) error { return handle(admitted(gs, visit), visit) })
}

// enter lets in a stream of one method, of which handle has the messages admitted, or sees to that in another way.
func (d door) enter(method string, gs grpc.ServerStream, handle func(grpc.ServerStream, wire.Visit) error) error {
	if d.gate == nil {
		return handle(gs, nil)
	}
	visit, err := d.gate.Enter(gs.Context(), method, nil)
	if err != nil {
		return toStatus(err)
	}
	within := gs
	if until := visit.Context(); until != nil {
		within = &boundedStream{gs, until}
	}
	err = handle(within, visit)
	err = endedFor(gs.Context(), within.Context(), err)
	visit.Leave(nil, err)
	return err
}

// endedFor is the error of an RPC that has ended with err within a context below its own: if that has ended before the RPC's, its cause.
func endedFor(ctx, within context.Context, err error) error {
	if within != ctx && within.Err() != nil && ctx.Err() == nil {
		return toStatus(context.Cause(within))
	}
	return err
}

// admitted is gs with its messages admitted.
func admitted(gs grpc.ServerStream, visit wire.Visit) grpc.ServerStream {
	if visit == nil {
		return gs
	}
	return &visitedStream{ServerStream: gs, visit: visit}
}

// forward lets in a stream that is forwarded as it is.
func (d door) forward(f Forwarder, method string, gs grpc.ServerStream) error {
	return d.stream(method, gs, func(gs grpc.ServerStream, visit wire.Visit) error {
		if visit != nil && method == pb.Watch_Watch_FullMethodName {
			gs = newPassedWatches(gs, visit)
		}
		return f.Stream(method, inNamespace(visit, method, gs), sessionOf(gs.Context()))
	})
}

// passedWatches is a stream of watches that is forwarded, and what of it counts for the client. Which watch an answer is about
// only upstream knows, so the stream ends with the first watch that is not admitted.
type passedWatches struct {
	grpc.ServerStream
	visit wire.Visit
	open  map[int64]struct{} // ids of watches; of who sends
}

func newPassedWatches(gs grpc.ServerStream, visit wire.Visit) *passedWatches {
	return &passedWatches{ServerStream: gs, visit: visit, open: map[int64]struct{}{}}
}

// RecvMsg is part of grpc.ServerStream.
func (s *passedWatches) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	var r wire.WatchRequest
	if raw, ok := m.(*wire.Raw); ok && r.Unmarshal(*raw) == nil && r.Kind == wire.WatchCreates {
		return toStatus(s.visit.Watch())
	}
	return nil
}

// SendMsg is part of grpc.ServerStream.
func (s *passedWatches) SendMsg(m any) error {
	var r wire.WatchResponse
	if raw, ok := m.(wire.Raw); ok && r.Unmarshal(raw) == nil {
		switch _, open := s.open[r.WatchID]; {
		case r.Created && !r.Canceled:
			s.open[r.WatchID] = struct{}{}
		case r.Created, r.Canceled && open: // etcd cancels a compacted watch once more when its client does
			delete(s.open, r.WatchID)
			s.visit.Unwatch()
		}
	}
	return s.ServerStream.SendMsg(m)
}

// inNamespace is gs with the keys that the visitor has as those that upstream has.
func inNamespace(visit wire.Visit, method string, gs grpc.ServerStream) grpc.ServerStream {
	if visit == nil || visit.Namespace() == "" {
		return gs
	}
	return namespace(visit.Namespace()).stream(method, gs)
}

// visitedStream is a client's stream whose messages are admitted one by one.
type visitedStream struct {
	grpc.ServerStream
	visit wire.Visit
}

// SendMsg is part of grpc.ServerStream.
func (s *visitedStream) SendMsg(m any) error {
	s.visit.Sent(sizeOf(m))
	return s.ServerStream.SendMsg(m)
}

// sizeOf is that of an encoded answer; 0 of others, which are small.
func sizeOf(m any) int {
	switch m := m.(type) {
	case wire.Raw:
		return len(m)
	case mem.BufferSlice:
		return m.Len()
	case *mem.BufferSlice:
		return m.Len()
	}
	return 0
}

// RecvMsg is part of grpc.ServerStream.
func (s *visitedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if raw, ok := m.(*wire.Raw); ok {
		return toStatus(s.visit.Message(*raw))
	}
	return nil
}
