package linearizable

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
)

// conns are the TCP connections of a site's clients. Each has a number, by which an answer tells over which it came: what
// a proxy promises to one connection, it does not promise to the next.
type conns struct {
	last atomic.Int64

	mu   sync.Mutex // guards open
	open map[connID]net.Conn
}

// connID is the local address of a connection, as far as gRPC is told.
type connID int64

func (connID) Network() string   { return "tcp" }
func (id connID) String() string { return fmt.Sprintf("connection %d", int64(id)) }

type numberedConn struct {
	net.Conn
	id connID
	of *conns
}

func (c *numberedConn) LocalAddr() net.Addr { return c.id }

func (c *numberedConn) Close() error {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	delete(c.of.open, c.id)
	return c.Conn.Close()
}

func (c *conns) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	n := &numberedConn{conn, connID(c.last.Add(1)), c}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[connID]net.Conn{}
	}
	c.open[n.id] = conn
	return n, nil
}

// reset breaks some of the connections, so that both ends notice at once.
func (c *conns) reset(rng *rand.Rand) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.open {
		if tcp, ok := conn.(*net.TCPConn); ok && chance(rng, 30) {
			_ = tcp.SetLinger(0) // close with a reset
			_ = tcp.Close()
		}
	}
}
