package grpcapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// watchService is the Watch service over a Hub: it speaks the protocol, and the hub does the watching. Requests are
// read here, in a goroutine for each RPC; what they ask is done in watchrequests.go, and watchStream sends what is to
// be sent.
//
// What clients can observe is as in etcd 3.7's v3rpc/watch.go, with these differences: several revisions may come in
// one response; the header's revision of an event response is never ahead of what the watcher has been sent;
// RequestProgress is answered when the watchers are up to date, where etcd drops it if they are not; and a watch ends when
// its user loses the right to it, see WatchPermits.
type watchService struct {
	hub    *coalesce.Hub
	header func() wire.Header // its revision may be behind the hub's
	cfg    watchConfig
	marker []byte // empty; see outgoing
	slow   *slowClients

	watchBytes   atomic.Int64   // of the watches of all streams
	requestBytes atomic.Int64   // of the queues of all streams
	tasks        sync.WaitGroup // goroutines of streams, which end soon after their RPC
}

// watchConfig says how a watchService behaves. Fields must be set unless they say what zero means.
type watchConfig struct {
	// maxResponseBytes is the size from which a response is sent in fragments to watchers that ask for it.
	maxResponseBytes int
	// progressInterval is after how long without events a watcher with progress_notify is told its progress. Up to
	// a tenth is added, so that streams opened together do not all come at once.
	progressInterval time.Duration
	// slowTimeout is Config.SlowClientTimeout; 0 is never.
	slowTimeout time.Duration
	// waits tells that it may take long to find out where a watch is served from, as it does when upstream is asked.
	waits bool
	// permits is nil for a server that permits all.
	permits WatchPermits
	// standing is Config.Standing.
	standing Standing
	// era is WatchSharer.Era. nil for a server whose clients have no sessions: all that it says is of one store.
	era func() uint64
	// after calls f once after d, in a goroutine of its own, unless it is stopped before.
	after func(d time.Duration, f func()) (stop func() bool)
	log   *slog.Logger
}

// etcd's default, and the least that it accepts.
const (
	defaultProgressInterval = 10 * time.Minute
	minProgressInterval     = 100 * time.Millisecond
)

// afterFunc is watchConfig.after on the system's clock.
func afterFunc(d time.Duration, f func()) (stop func() bool) { return time.AfterFunc(d, f).Stop }

func newWatchService(hub *coalesce.Hub, header func() wire.Header, cfg watchConfig) *watchService {
	w := &watchService{hub: hub, header: header, cfg: cfg, marker: make([]byte, 0, markerCap)}
	if cfg.slowTimeout > 0 {
		w.slow = newSlowClients(cfg)
	}
	return w
}

// register adds the service to gs.
func (w *watchService) register(gs grpc.ServiceRegistrar, b Maintenance) {
	gs.RegisterService(watchDesc(stream("Watch", true, b, func(gs grpc.ServerStream) error {
		return newWatchStream(w, gs, nil).serve(w.led(gs))
	})), nil)
}

// led ends with the leader if the client requires one.
func (w *watchService) led(gs grpc.ServerStream) context.Context {
	if w.cfg.standing != nil && requiresLeader(incomingMetadata(gs.Context())) {
		return w.cfg.standing.Led()
	}
	return context.Background()
}

func watchDesc(watch grpc.StreamDesc) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: pb.Watch_ServiceDesc.ServiceName,
		Metadata:    pb.Watch_ServiceDesc.Metadata,
		Streams:     []grpc.StreamDesc{watch},
	}
}

// wait returns when nothing is left of RPCs that have ended.
func (w *watchService) wait() { w.tasks.Wait() }

// serve is one Watch RPC. It ends when the client or the transport ends it, when the stream is ended from within, with the
// cause of led when that ends, or with its connection, when that is retired.
//
// It only waits, because grpc has no other way to end an RPC than to return from its handler, while RecvMsg returns only
// when the RPC has ended. Two goroutines so, whose stacks together are no larger than that of one that did both.
func (s *watchStream) serve(led context.Context) error {
	defer s.close()
	ctx := s.grpc.Context()
	// A compressed message is freed before it is sent, and what is in flight could not be counted.
	if err := grpc.SetSendCompressor(ctx, encoding.Identity); err != nil {
		return err
	}
	s.service.tasks.Go(s.receive)
	select {
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.Canceled) {
			return rpctypes.ErrGRPCWatchCanceled
		}
		return ctx.Err()
	case err := <-s.over:
		return err
	case <-led.Done():
		return context.Cause(led)
	case <-retiredOf(ctx).Done():
		return errRetired
	}
}

// receive takes the client's requests until the RPC ends, or until the client closes its sending side. Then the client
// goes on receiving, as at etcd.
func (s *watchStream) receive() {
	for s.await(s.mayRead) {
		var raw wire.Raw
		if err := s.grpc.RecvMsg(&raw); err != nil {
			if !errors.Is(err, io.EOF) {
				s.end(err)
			}
			return
		}
		r := watchRequest{raw: raw, since: s.service.hub.Arrive()}
		if s.service.cfg.waits {
			s.queueRequest(r)
		} else {
			s.handle(r)
		}
	}
}
