package targettest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Relay passes TCP connections on to a server, until it is told to lose them. It may be slow: then what is sent arrives
// later, by a random time, in order. A proxy at its end is told of writes after clients elsewhere have been, which leaves
// far more time to be wrong in than the loopback does. Its methods may be called concurrently.
type Relay struct {
	Addr string // where it listens

	to   string
	late time.Duration // at most

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

// RelayTo starts a relay that ends with the test. What it passes on is late by less than that; 0 is at once.
func (s *Site) RelayTo(addr string, late time.Duration) *Relay {
	s.Helper()
	l, err := new(net.ListenConfig).Listen(s.Ctx, "tcp", "127.0.0.1:0")
	s.Must(err)
	r := &Relay{Addr: l.Addr().String(), to: addr, late: late, conns: map[*relayed]struct{}{}}
	r.tasks.Go(func() { r.accept(s.Ctx, l) })
	s.Cleanup(func() {
		_ = l.Close()
		r.Cut()
		r.tasks.Wait()
	})
	return r
}

func (r *Relay) accept(ctx context.Context, l net.Listener) {
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
func (r *Relay) pass(c *relayed, from, to net.Conn) {
	defer c.close()
	write := to.Write
	if r.late > 0 {
		d := r.delay(c, to)
		defer d.end()
		write = d.write
	}
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
		if _, writeErr := write(buf[:n]); writeErr != nil || err != nil {
			return
		}
	}
}

// delayed passes on one way of a connection, late.
type delayed struct {
	on   *relayed
	to   net.Conn
	late time.Duration
	sent chan piece
	done chan struct{} // closed when nothing is passed on any more
}

// piece is what is on its way.
type piece struct {
	data []byte
	due  time.Time
}

func (r *Relay) delay(c *relayed, to net.Conn) *delayed {
	d := &delayed{on: c, to: to, late: r.late, sent: make(chan piece, 1024), done: make(chan struct{})}
	r.tasks.Go(d.give)
	return d
}

func (d *delayed) write(data []byte) (int, error) {
	select {
	case d.sent <- piece{bytes.Clone(data), time.Now().Add(rand.N(d.late))}:
		return len(data), nil
	case <-d.done:
		return 0, net.ErrClosed
	}
}

func (d *delayed) give() {
	defer close(d.done)
	for p := range d.sent {
		time.Sleep(time.Until(p.due)) // how long the way is
		if _, err := d.to.Write(p.data); err != nil {
			d.on.close()
			return
		}
	}
}

// end waits until all that was written has been passed on, or cannot be.
func (d *delayed) end() {
	close(d.sent)
	<-d.done
}

// Break closes all connections. New ones work.
func (r *Relay) Break() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.close()
		if c.frozen != nil {
			close(c.frozen)
		}
	}
	r.conns = map[*relayed]struct{}{}
}

// Cut closes all connections and refuses new ones.
func (r *Relay) Cut() {
	r.mu.Lock()
	r.down = true
	r.mu.Unlock()
	r.Break()
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

// CutOff refuses and closes the connections of a member of an etcd cluster, by its id; "" is none.
func (r *Relay) CutOff(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cutFrom = id
	for c := range r.conns {
		if id != "" && c.from == id {
			c.close()
		}
	}
}

// Mend takes new connections again.
func (r *Relay) Mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = false
}

// Freeze lets the connections that are there now stay open and pass on nothing any more, as one does whose other end has
// lost its power. New ones work.
func (r *Relay) Freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		if c.frozen == nil {
			c.frozen = make(chan struct{})
		}
	}
}
