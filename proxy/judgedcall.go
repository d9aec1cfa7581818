package proxy

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

// judgedCall is a unary call upstream for a client, in the name that the guard says. Whom upstream cannot judge is judged before
// it is sent, and again after it has taken long: the right to it may have been taken away meanwhile. One goroutine uses it.
type judgedCall struct {
	proxy  *Proxy
	method string
	req    wire.Raw
	client context.Context // of who asks, with what is to go upstream
	ctx    context.Context // for upstream, as it was judged
	at     time.Time       // when it was judged
}

const (
	// judgedFor is after how long it is judged anew what has not been sent yet: it had to wait for its turn, or for a member.
	judgedFor = 100 * time.Millisecond
	// answeredFor is after how long it is judged anew what was sent in the proxy's own name, before its client is answered.
	answeredFor = time.Second
)

// judge decides in whose name the call is made, or refuses the client.
func (c *judgedCall) judge() (err error) {
	c.ctx, err = c.proxy.guard.Outgoing(c.client, c.method, c.req)
	c.at = time.Now()
	return err
}

// do calls upstream. It calls again if the guard says so: what was refused has not been done.
func (c *judgedCall) do() (answer, error) {
	a, err := c.call()
	if err != nil && c.proxy.guard.Renew(c.ctx, err) {
		if err := c.judge(); err != nil {
			return answer{}, err
		}
		a, err = c.call()
	}
	if err == nil && c.proxy.guard.IsOwn(c.ctx) && time.Since(c.at) > answeredFor {
		if err := c.judge(); err != nil {
			return answer{}, c.refusal(err)
		}
	}
	return a, err
}

// call calls the current member. Metadata is there with an error too.
func (c *judgedCall) call() (a answer, err error) {
	err = c.proxy.upstream.try(c.client, func(t *tenure) (sent bool, err error) {
		if c.proxy.guard.HasIdentity() && time.Since(c.at) > judgedFor {
			if err := c.judge(); err != nil {
				return true, err // no member is asked
			}
		}
		var to peer.Peer // set only if a stream was made
		err = t.member.conn.Invoke(c.ctx, c.method, c.req, &a.resp, grpc.Header(&a.header), grpc.Trailer(&a.trailer), grpc.Peer(&to))
		if err == nil {
			a.revision = revisionOf(c.method, a.resp)
			t.show(a.revision)
		}
		return to.Addr != nil, err
	})
	a.header, a.trailer = returning(a.header), returning(a.trailer)
	return a, err
}

// errDone is of what has been done for a client who is not to have the answer any more. To say that it was refused would be to
// say that it has not been done.
var errDone = status.Error(codes.Unavailable, "weir: users or roles have changed upstream while this was done")

// refusal is the client's error for what upstream has done, and he may not do any more. Who waited for a lock is refused, as by
// etcd, which reads the key for him in the end; the key stays until its lease ends.
func (c *judgedCall) refusal(err error) error {
	switch c.method {
	case pb.KV_Range_FullMethodName, pb.Lease_LeaseTimeToLive_FullMethodName, pb.Lease_LeaseLeases_FullMethodName,
		lockpb.Lock_Lock_FullMethodName, lockpb.Election_Campaign_FullMethodName, lockpb.Election_Leader_FullMethodName:
		return err
	}
	return errDone
}
