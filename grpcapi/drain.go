package grpcapi

import (
	"context"
	"errors"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"weir/cache"
	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

// A Server ends in three steps, so that no client sees an error that need not be: Unready has balancers send new clients
// elsewhere, Drain has those that are there leave, each at a moment of its own, and Stop, with which Drain ends, cuts what is
// left. All streams that have no end of their own end with errRetired, after which client/v3 goes on elsewhere by itself: a
// watch behind the last revision that it has been sent, a lease with its next ping.

// errRetired is etcd's for a server that stops. Clients take Unavailable for a reason to try elsewhere.
var errRetired = rpctypes.ErrGRPCStopped

// Unready has the server say, for that reason, that it should not be sent new clients: /readyz, /health and gRPC's health
// service do. It goes on serving, and /livez holds.
func (s *Server) Unready(reason string) {
	s.unready(errors.New(reason))
	if s.health != nil {
		s.health.Shutdown()
	}
}

// Ready tells whether Unready has not been called yet.
func (s *Server) Ready() bool { return s.ready.Err() == nil }

// Drain refuses new connections, but for those of monitors, retires every connection at a moment of its own within spread, lets
// requests in progress finish, and returns when all is over. When ctx ends the rest is cut.
func (s *Server) Drain(ctx context.Context, spread time.Duration) {
	s.refuse(func(carries Traffic) bool { return carries != OnlyMonitoring })
	s.conns.retire(ctx, s.conns.take(math.MaxInt, true), spread)
	s.Stop(ctx)
}

// Connections is how many connections clients have to gRPC, without those that are leaving.
func (s *Server) Connections() int { return s.conns.count() }

// Move retires up to n connections, whichever they are, at moments spread over a time, as Drain does with all, and returns when the
// streams of the last one have ended. The server goes on. Those that have not been told when ctx ends stay.
func (s *Server) Move(ctx context.Context, n int, spread time.Duration) { s.conns.move(ctx, n, spread) }

// refuse closes the listeners of some kinds of traffic.
func (s *Server) refuse(which func(carries Traffic) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for l, carries := range s.listeners {
		if which(carries) {
			l.Close()
		}
	}
}

// Stop refuses new connections, ends all streams that do not end by themselves, lets requests in progress finish until ctx ends,
// then cuts the rest, and returns when all is over.
func (s *Server) Stop(ctx context.Context) {
	s.refuse(func(Traffic) bool { return true })
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.stopping()
	s.Unready("stopping")

	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	s.conns.retire(ctx, s.conns.takeLast(), 0)
	_ = s.http.Shutdown(ctx)
	select {
	case <-done:
	case <-ctx.Done():
		s.cut()
		s.grpc.Stop()
		<-done
	}
	s.cut()
	s.http.Close()
	s.handling.Wait()
	s.conns.tasks.Wait()
	s.slow.close()
	s.loopback.close()
	s.serving.Wait()
	if s.watches != nil {
		s.watches.wait()
	}
	s.pinging.tasks.Wait()
	s.handlers.Wait()
}

// endless are the streams that have no end of their own.
var endless = map[string]bool{
	pb.Watch_Watch_FullMethodName:          true,
	pb.Lease_LeaseKeepAlive_FullMethodName: true,
	wire.PingsMethod:                       true,
	lockpb.Election_Observe_FullMethodName: true,
	healthpb.Health_Watch_FullMethodName:   true,
}

// retiring is an Upstream whose endless streams end when their connection is retired.
type retiring struct{ Upstream }

// Stream is part of Forwarder.
func (f retiring) Stream(method string, gs grpc.ServerStream, session *cache.Session) error {
	if !endless[method] {
		return f.Upstream.Stream(method, gs, session)
	}
	return until(retiredOf(gs.Context()), gs, func(gs grpc.ServerStream) error { return f.Upstream.Stream(method, gs, session) })
}

// until serves a stream by its context, which ends with over.
func until(over context.Context, gs grpc.ServerStream, serve func(grpc.ServerStream) error) error {
	ctx, cancel := context.WithCancel(gs.Context())
	defer cancel()
	defer context.AfterFunc(over, cancel)()
	err := serve(&boundedStream{gs, ctx})
	if over.Err() != nil && gs.Context().Err() == nil {
		return errRetired
	}
	return err
}

// unknownStreams are those of services that a server that forwards has not heard of, but for one: whether it is to be sent clients
// only the server knows.
type unknownStreams struct {
	forward grpc.StreamHandler
	ready   context.Context
}

func (u *unknownStreams) serve(srv any, gs grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(gs)
	watches := method == healthpb.Health_Watch_FullMethodName
	if !watches && method != healthpb.Health_Check_FullMethodName {
		return u.forward(srv, gs)
	}
	if u.ready.Err() == nil {
		if !watches {
			return u.forward(srv, gs)
		}
		// Who watches is told by the end of the stream, and asks again.
		return until(u.ready, gs, func(gs grpc.ServerStream) error { return u.forward(srv, gs) })
	}
	var r healthpb.HealthCheckRequest
	if err := gs.RecvMsg(&r); err != nil {
		return err
	}
	if err := gs.SendMsg(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}); err != nil || !watches {
		return err
	}
	select {
	case <-gs.Context().Done():
		return gs.Context().Err()
	case <-retiredOf(gs.Context()).Done():
		return errRetired
	}
}
