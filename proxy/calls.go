package proxy

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// calls counts the RPCs of one connection, so that it can be closed when the last of them has ended: gRPC's own Close cuts
// them off. An interceptor on the connection sees all of them, whoever makes them. Once calls are over there are no more.
type calls struct {
	n       atomic.Int64  // those under way, and one for who may make new ones; it stays 0
	over    chan struct{} // closed when n is 0
	timings timings       // of short ones
}

func newCalls() *calls {
	c := &calls{over: make(chan struct{})}
	c.n.Store(1)
	return c
}

// errLetGo is of calls that come too late. It is like that of a connection which is lost: nothing was sent.
var errLetGo = status.Error(codes.Unavailable, "upstream member is no endpoint any more")

// begin counts one more, unless calls are over.
func (c *calls) begin() bool {
	for n := c.n.Load(); n > 0; n = c.n.Load() {
		if c.n.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

// end counts one less.
func (c *calls) end() {
	if c.n.Add(-1) == 0 {
		close(c.over)
	}
}

func (c *calls) unary(
	ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	if !c.begin() {
		return errLetGo
	}
	defer c.end()
	if !isShort(method) {
		return invoke(ctx, method, req, reply, conn, opts...)
	}
	began := time.Now()
	err := invoke(ctx, method, req, reply, conn, opts...)
	c.timings.add(began, time.Now(), err)
	return err
}

func (c *calls) stream(
	ctx context.Context, d *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	if !c.begin() {
		return nil, errLetGo
	}
	return open(ctx, d, conn, method, append(slices.Clip(opts), grpc.OnFinish(func(error) { c.end() }))...)
}
