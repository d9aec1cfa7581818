package coalesce

import (
	"bytes"
	"context"
	"net"
	"sync"
)

// relay passes TCP connections on to a server, until it is told to lose them.
type relay struct {
	addr string // where it listens
	to   string

	mu      sync.Mutex // guards all below
	down    bool       // new connections are refused
	cutFrom string     // those of this member of an etcd cluster are, if it is not ""
	conns   map[*relayed]struct{}

	tasks sync.WaitGroup
}

// relayed is one connection, its two sides.
type relayed struct {
	sides  [2]net.Conn
	from   string        // the id of the member of an etcd cluster that opened it, once it is known
	frozen chan struct{} // nil, or what passing on waits for
}

// relayTo starts a relay that ends with the test.
func (s *site) relayTo(addr string) *relay {
	s.Helper()
	l, err := new(net.ListenConfig).Listen(s.ctx, "tcp", "127.0.0.1:0")
	s.must(err)
	r := &relay{addr: l.Addr().String(), to: addr, conns: map[*relayed]struct{}{}}
	r.tasks.Go(func() { r.accept(s.ctx, l) })
	s.Cleanup(func() {
		_ = l.Close()
		r.cut()
		r.tasks.Wait()
	})
	return r
}

func (r *relay) accept(ctx context.Context, l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		server, err := new(net.Dialer).DialContext(ctx, "tcp", r.to)
		if err != nil {
			_ = client.Close()
			continue
		}
		c := &relayed{sides: [2]net.Conn{client, server}}
		r.mu.Lock()
		if r.down {
			c.close()
		} else {
			r.conns[c] = struct{}{}
			r.tasks.Go(func() { r.pass(c, client, server) })
			r.tasks.Go(func() { r.pass(c, server, client) })
		}
		r.mu.Unlock()
	}
}

func (c *relayed) close() {
	for _, side := range c.sides {
		_ = side.Close()
	}
}

// pass passes on what comes from one side.
func (r *relay) pass(c *relayed, from, to net.Conn) {
	defer c.close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		if c.from == "" {
			c.from = sender(buf[:n])
		}
		refused := c.from != "" && c.from == r.cutFrom
		frozen := c.frozen
		r.mu.Unlock()
		if refused {
			return
		}
		if frozen != nil {
			<-frozen
		}
		if _, writeErr := to.Write(buf[:n]); writeErr != nil || err != nil {
			return
		}
	}
}

// cut closes all connections and refuses new ones.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = true
	for c := range r.conns {
		c.close()
		if c.frozen != nil {
			close(c.frozen)
		}
	}
	r.conns = map[*relayed]struct{}{}
}

// sender is the member of an etcd cluster that sends the request which begins so; "" if it does not say, or this begins
// no request.
func sender(request []byte) string {
	_, rest, found := bytes.Cut(request, []byte("\r\nX-Server-From: "))
	if !found {
		return ""
	}
	id, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return string(id)
}

// cutOff refuses and closes the connections of a member of an etcd cluster, by its id; "" is none.
func (r *relay) cutOff(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cutFrom = id
	for c := range r.conns {
		if id != "" && c.from == id {
			c.close()
		}
	}
}

// mend takes new connections again.
func (r *relay) mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = false
}

// freeze lets the connections that are there now stay open and pass on nothing any more, as one does whose other end has
// lost its power. New ones work.
func (r *relay) freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		if c.frozen == nil {
			c.frozen = make(chan struct{})
		}
	}
}
