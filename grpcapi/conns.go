package grpcapi

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// conns are the connections of a Server's clients. Each can be retired by itself: its client is told GOAWAY, or `Connection:
// close` with net/http, and when it has had time to go elsewhere the streams end that have no end of their own. What is in
// progress goes on, and the connection ends when nothing is.
type conns struct {
	tasks sync.WaitGroup                             // retirements that are going on
	own   *connection                                // of all loopbacks, which are told nothing: what is said of them is said of their streams alone
	pause func(ctx context.Context, d time.Duration) // waits until ctx ends, at most for d, and as late as timers are

	mu   sync.Mutex               // guards the fields below
	over bool                     // those that come are retired
	grpc map[*connection]struct{} // those of grpc's transport, until they are closed or retired
	http map[net.Conn]*connection // those of net/http, likewise, but for those that a WebSocket has taken over
}

func newConns() *conns {
	return &conns{own: newConnection(nil), pause: pause, grpc: map[*connection]struct{}{}, http: map[net.Conn]*connection{}}
}

// clientListener is what grpc accepts its clients from.
type clientListener struct {
	net.Listener
	conns *conns
}

func (l clientListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	n := newConnection(c)
	conn, told := newGoAwayConn(c, func() { l.conns.forget(n) })
	told.of, n.goAway = n, told.goAway
	l.conns.mu.Lock()
	defer l.conns.mu.Unlock()
	if l.conns.over {
		n.retire()
	} else {
		l.conns.grpc[n] = struct{}{}
	}
	return conn, nil
}

func (c *conns) forget(n *connection) {
	n.retire() // which frees what waits for it
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.grpc, n)
}

// ConnContext is http.Server's.
func (c *conns) ConnContext(ctx context.Context, conn net.Conn) context.Context {
	n := newConnection(nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		n.retire()
	} else {
		c.http[conn] = n
	}
	return context.WithValue(ctx, connectionKey{}, n)
}

// ConnState is http.Server's.
func (c *conns) ConnState(conn net.Conn, state http.ConnState) {
	if state != http.StateClosed && state != http.StateHijacked {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.http, conn)
}

// count is how many clients' connections to gRPC there are that have not been retired.
func (c *conns) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.grpc)
}

// take returns up to most connections that have not been retired, whichever they are, and forgets them. withHTTP also takes all
// of net/http's.
func (c *conns) take(most int, withHTTP bool) []*connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	var taken []*connection
	for n := range c.grpc {
		if len(taken) == most {
			break
		}
		delete(c.grpc, n)
		taken = append(taken, n)
	}
	if withHTTP {
		for conn, n := range c.http {
			delete(c.http, conn)
			taken = append(taken, n)
		}
	}
	rand.Shuffle(len(taken), func(i, j int) { taken[i], taken[j] = taken[j], taken[i] })
	return taken
}

// takeLast takes all connections, and retires those that come.
func (c *conns) takeLast() []*connection {
	c.mu.Lock()
	c.over = true
	c.mu.Unlock()
	return append(c.take(math.MaxInt, true), c.own)
}

const (
	// retireStep is the longest time from one retirement to the next, on average: a few connections need not wait for moments
	// that are meant for many.
	retireStep = 10 * time.Millisecond
	// retireGrace is from when a client is told to when its streams end: time to connect elsewhere.
	retireGrace = 250 * time.Millisecond
)

// retire retires connections at moments spread over a time, or until ctx ends all the others at once, and returns when the
// streams of the last one have ended.
func (c *conns) retire(ctx context.Context, leaving []*connection, spread time.Duration) {
	c.retireUnless(ctx, leaving, spread, func(*connection) bool { return false })
}

// move is retire of up to most connections. Those that have not been told when ctx ends stay: who ends it gives each a moment of
// its own.
func (c *conns) move(ctx context.Context, most int, spread time.Duration) {
	c.retireUnless(ctx, c.take(most, false), spread, func(n *connection) bool { return ctx.Err() != nil && c.stay(n) })
}

// stay takes a connection of gRPC's back, unless it is to be retired, and returns whether it has.
func (c *conns) stay(n *connection) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over && n.retired.Err() == nil { // else it may have been closed
		c.grpc[n] = struct{}{}
	}
	return !c.over
}

// retireUnless leaves out those of which stays says so.
func (c *conns) retireUnless(ctx context.Context, leaving []*connection, spread time.Duration, stays func(*connection) bool) {
	if len(leaving) == 0 {
		return
	}
	step := min(spread/time.Duration(len(leaving)), retireStep)
	var ending sync.WaitGroup
	defer ending.Wait()
	// Moments are counted from the beginning. A timer is late by up to a millisecond, in which many may have to leave: from one to
	// the next that would add up to several times the spread, and who has not been told by its end is cut.
	begin, moment := time.Now(), time.Duration(0)
	for i, n := range leaving {
		if i > 0 && step > 0 {
			moment += rand.N(2 * step)
			if early := moment - time.Since(begin); early > 0 {
				c.pause(ctx, early)
			}
		}
		if stays(n) {
			continue
		}
		c.tasks.Go(n.goAway) // which may block
		ending.Go(func() {
			c.pause(ctx, min(retireGrace, spread))
			n.retire()
		})
	}
}

// pause waits until ctx ends, at most for d.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// handshaken are grpc credentials for connections whose handshake is over: they only report its result.
type handshaken struct{ conns *conns }

func (h handshaken) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	switch c := c.(type) {
	case *goAwayConn:
		return c, c.of, nil
	case *readyGoAwayConn:
		return c, c.of, nil
	}
	loopback := newConnection(c)
	loopback.retired, loopback.retire = h.conns.own.retired, h.conns.own.retire
	return c, loopback, nil
}

func (handshaken) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("grpcapi: these credentials are for servers")
}

func (handshaken) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (h handshaken) Clone() credentials.TransportCredentials { return h }

func (handshaken) OverrideServerName(string) error { return nil }
