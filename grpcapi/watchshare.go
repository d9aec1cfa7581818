package grpcapi

import (
	"context"

	"google.golang.org/grpc"
)

// sharedWatches is the Watch method of a forwarding server whose watches share upstream's: a stream without an identity
// is served here, while upstream lets that be, and every other is forwarded.
type sharedWatches struct {
	service *watchService
	sharer  WatchSharer
	forward Forwarder
}

func (w *sharedWatches) register(gs grpc.ServiceRegistrar) {
	gs.RegisterService(watchDesc(grpc.StreamDesc{
		StreamName:    "Watch",
		ServerStreams: true,
		ClientStreams: true,
		Handler:       func(_ any, gs grpc.ServerStream) error { return w.serve(gs) },
	}), nil)
}

func (w *sharedWatches) serve(gs grpc.ServerStream) error {
	ctx := gs.Context()
	if carriesIdentity(ctx) || wantsUncached(ctx) {
		return w.pass(gs)
	}
	// The hub must know of the stream before it is asked whether watches are shared: when they no longer are, it ends
	// the streams that it knows.
	s := newWatchStream(w.service, gs)
	shared, err := w.sharer.Share(ctx)
	if err != nil || !shared {
		s.close()
		if err != nil {
			return toStatus(err)
		}
		return w.pass(gs)
	}
	led, err := w.admit(ctx)
	if err != nil {
		s.close()
		return toStatus(err)
	}
	return toStatus(s.serve(led))
}

func (w *sharedWatches) pass(gs grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(gs)
	return w.forward.Stream(method, gs, sessionOf(gs.Context()))
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
