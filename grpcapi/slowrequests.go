package grpcapi

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// slowRequests logs unary RPCs that take longer than a limit, as etcd's --warning-unary-request-duration has it.
//
// It looks at a clock that goes on a few times in the limit, and so costs an RPC two loads of a shared word; two looks at
// the time would cost a hundred times as much. What it says is therefore true to an eighth of the limit, by which an RPC
// may also exceed it unnoticed.
type slowRequests struct {
	limit time.Duration
	log   *slog.Logger
	now   atomic.Int64 // ns since the start
	stop  context.CancelFunc
	ended chan struct{}
}

// newSlowRequests must be closed.
func newSlowRequests(limit time.Duration, log *slog.Logger) *slowRequests {
	ctx, stop := context.WithCancel(context.Background())
	s := &slowRequests{limit: limit, log: log, stop: stop, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		start := time.Now()
		ticks := time.NewTicker(max(limit/8, time.Millisecond))
		defer ticks.Stop()
		for {
			select {
			case now := <-ticks.C:
				s.now.Store(int64(now.Sub(start)))
			case <-ctx.Done():
				return
			}
		}
	}()
	return s
}

// close may be called on nil.
func (s *slowRequests) close() {
	if s != nil {
		s.stop()
		<-s.ended
	}
}

// registrar returns what services are registered with, so that their unary RPCs are watched. s may be nil.
func (s *slowRequests) registrar(r grpc.ServiceRegistrar) grpc.ServiceRegistrar {
	if s == nil {
		return r
	}
	return watchedServices{r, s}
}

type watchedServices struct {
	grpc.ServiceRegistrar
	slow *slowRequests
}

// RegisterService is part of grpc.ServiceRegistrar.
func (r watchedServices) RegisterService(d *grpc.ServiceDesc, impl any) {
	c := *d
	c.Methods = make([]grpc.MethodDesc, len(d.Methods))
	for i, method := range d.Methods {
		handle := method.Handler
		method.Handler = func(srv any, ctx context.Context, decode func(any) error, i grpc.UnaryServerInterceptor) (any, error) {
			began := r.slow.now.Load()
			resp, err := handle(srv, ctx, decode, i)
			if took := time.Duration(r.slow.now.Load() - began); took > r.slow.limit+r.slow.limit/16 { // not by one tick that is late
				r.slow.warn(ctx, d.ServiceName+"/"+method.MethodName, took, err)
			}
			return resp, err
		}
		c.Methods[i] = method
	}
	r.ServiceRegistrar.RegisterService(&c, impl)
}

func (s *slowRequests) warn(ctx context.Context, method string, took time.Duration, err error) {
	remote := ""
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr.String()
	}
	s.log.Warn("request stats", "method", method, "time spent", took.Round(time.Millisecond), "expected-duration", s.limit, "remote", remote, "code", codeOf(err).String())
}
