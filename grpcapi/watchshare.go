package grpcapi

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/grpcapi/wire"
)

// sharedWatches is the Watch method of a forwarding server whose watches share upstream's: a stream is served here while
// upstream lets that be, and else forwarded.
type sharedWatches struct {
	door    door
	service *watchService
	sharer  WatchSharer
	forward Forwarder
}

func (w *sharedWatches) register(gs grpc.ServiceRegistrar) {
	gs.RegisterService(watchDesc(grpc.StreamDesc{
		StreamName:    "Watch",
		ServerStreams: true,
		ClientStreams: true,
		Handler: func(_ any, gs grpc.ServerStream) error {
			return w.door.stream(pb.Watch_Watch_FullMethodName, gs, w.serve)
		},
	}), nil)
}

func (w *sharedWatches) serve(gs grpc.ServerStream, visit wire.Visit) error {
	if wantsUncached(gs.Context()) {
		return w.pass(gs, visit)
	}
	apart, err := w.share(gs, visit)
	if apart != nil {
		return w.passUntil(apart, gs, visit)
	}
	return toStatus(err)
}

// share serves a stream from the hub. If it may not be, nothing has been done, and apart is as WatchSharer.Share's.
func (w *sharedWatches) share(gs grpc.ServerStream, visit wire.Visit) (apart context.Context, err error) {
	w.sharer.Watching(1)
	defer w.sharer.Watching(-1)
	// The hub must know of the stream before it is asked whether watches are shared: when they no longer are, it ends
	// the streams that it knows.
	s := newWatchStream(w.service, gs, visit)
	apart, err = w.sharer.Share(gs.Context())
	if err != nil || apart != nil {
		s.close()
		return apart, err
	}
	led, err := w.admit(gs.Context())
	if err != nil {
		s.close()
		return nil, err
	}
	return nil, s.serve(led)
}

// passUntil forwards a stream until apart ends. It must not go on after that: upstream may not look at who watches again,
// where a watch from the hub ends with the right to it.
func (w *sharedWatches) passUntil(apart context.Context, gs grpc.ServerStream, visit wire.Visit) error {
	ctx, cancel := context.WithCancel(gs.Context())
	defer cancel()
	defer context.AfterFunc(apart, cancel)()
	err := w.pass(&boundedStream{gs, ctx}, visit)
	if apart.Err() != nil {
		return toStatus(context.Cause(apart))
	}
	return err
}

// boundedStream is a stream that is to end with ctx, which is below its own.
type boundedStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context is part of grpc.ServerStream.
func (s *boundedStream) Context() context.Context { return s.ctx }

func (w *sharedWatches) pass(gs grpc.ServerStream, visit wire.Visit) error {
	method := pb.Watch_Watch_FullMethodName
	if visit != nil {
		gs = newPassedWatches(gs, visit)
	}
	return w.forward.Stream(method, inNamespace(visit, method, gs), sessionOf(gs.Context()))
}

// admit checks what etcd checks of an RPC's metadata. led is as WatchSharer.Leader's, and never ends for a client that
// does not ask for a leader.
func (w *sharedWatches) admit(ctx context.Context) (led context.Context, err error) {
	md := incomingMetadata(ctx)
	if err := checkAPIVersion(md); err != nil {
		return nil, err
	}
	if !requiresLeader(md) {
		return context.Background(), nil
	}
	return w.sharer.Leader(ctx)
}
