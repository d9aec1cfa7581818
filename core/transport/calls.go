package transport

import (
	"context"
	"fmt"
	"net"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// calls is the connection to a peer for what is not raft's messages. gRPC makes it again when it breaks, with the URL that is
// thought good then.
type calls struct {
	conn   *grpc.ClientConn
	socket socket
}

func newCalls(p *peer) *calls {
	c, t := new(calls), p.t
	dial := func(ctx context.Context) (net.Conn, error) {
		url := p.urls.pick()
		conn, err := p.dial(ctx, url)
		if err != nil {
			p.urls.failed(url)
			return nil, fmt.Errorf("dial %s at %s: %w", peerName(p.id), url, err)
		}
		return conn, c.socket.set(conn)
	}
	unary := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		var trailer metadata.MD
		err := invoke(t.outgoing(ctx, p.id), method, req, reply, cc, append(slices.Clip(opts), grpc.Trailer(&trailer))...)
		if name := one(trailer, keyRefusal); err != nil && name != "" {
			return &refusedError{refusal(name), status.Convert(err).Message()}
		}
		return err
	}
	stream := func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return open(t.outgoing(ctx, p.id), desc, cc, method, opts...)
	}
	conn, err := t.newConn(smallWindow, dial, grpc.WithUnaryInterceptor(unary), grpc.WithStreamInterceptor(stream))
	if err != nil {
		panic(fmt.Sprintf("transport: gRPC refuses constant options: %v", err))
	}
	c.conn = conn
	return c
}

func (c *calls) close() {
	c.socket.close()
	c.conn.Close()
}
