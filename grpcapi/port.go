package grpcapi

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/soheilhy/cmux"
)

// Port says what a listener of a Server carries. The zero value: gRPC and HTTP/1 in plaintext.
type Port struct {
	// TLS is how clients are met; nil is plaintext. NextProtos is set here; configurations that come from GetConfigForClient
	// must have h2 and http/1.1 in it already.
	TLS *tls.Config
	// Plaintext lets clients in without TLS too, as etcd does at an address that has both an http and an https URL.
	Plaintext bool
	// Only leaves other traffic out. Its connections are closed, but for HTTP/2 over TLS, which does not show what it is for:
	// there gRPC without a port for it is HTTP like any other.
	Only Traffic
}

// Traffic is a kind of requests.
type Traffic uint8

// The kinds of traffic.
const (
	Both     Traffic = iota // gRPC and HTTP
	OnlyGRPC                // as on etcd's --listen-client-urls beside --listen-client-http-urls
	OnlyHTTP                // as on these
	// OnlyMonitoring is HTTP for monitors: /metrics, /health and what is like them, as on etcd's --listen-metrics-urls.
	// A browser's rules, see Config.CORS and Config.HostWhitelist, do not hold there.
	OnlyMonitoring
)

func (t Traffic) hasGRPC() bool { return t == Both || t == OnlyGRPC }

func (t Traffic) hasHTTP() bool { return t != OnlyGRPC }

// divided is a listener whose connections are divided between gRPC and HTTP.
type divided struct {
	grpc, http []net.Listener
	run        func() error // accepts until the listener fails; returns its error
}

func divide(l net.Listener, p Port, life lifetimes, log *slog.Logger) divided {
	if p.TLS != nil && !p.Plaintext {
		return divideTLS(l, p, life, log)
	}
	return divideSniffed(l, p, life, log)
}

func (d divided) close() {
	for _, l := range slices.Concat(d.grpc, d.http) {
		l.Close()
	}
}

// divideSniffed divides by the first bytes: the preface of HTTP/2 means gRPC, as at etcd. (Deciding by content-type
// would need the first headers, for which an idle gRPC client makes us wait.)
func divideSniffed(l net.Listener, p Port, life lifetimes, log *slog.Logger) divided {
	mux := cmux.New(&heldListener{Listener: l, life: life})
	mux.SetReadTimeout(life.sniff) // a silent connection would hold its goroutine forever
	var d divided
	if p.Only.hasGRPC() {
		d.grpc = append(d.grpc, grpcListener{mux.Match(cmux.HTTP2()), life})
	}
	if p.Only.hasHTTP() {
		d.http = append(d.http, httpListener{plainListener{mux.Match(cmux.HTTP1Fast())}, p.Only})
	}
	if p.TLS == nil {
		d.run = mux.Serve
		return d
	}
	secure := divideTLS(plainListener{mux.Match(cmux.TLS())}, p, life, log)
	return divided{
		grpc: append(d.grpc, secure.grpc...),
		http: append(d.http, secure.http...),
		run: func() error {
			var shaking sync.WaitGroup
			defer shaking.Wait()
			shaking.Go(func() { _ = secure.run() }) // ends when mux.Serve does
			return mux.Serve()
		},
	}
}

// lifetimes bound connections that neither gRPC nor net/http can end.
type lifetimes struct {
	sniff     time.Duration   // for what comes before it is known what a connection speaks
	undivided context.Context // ends that too
	// cut ends the connections of gRPC, which for those that have not sent their SETTINGS it does not do itself.
	cut context.Context
}

// heldConn is closed when a context ends. One goroutine has it at a time, until it is given to gRPC or net/http.
type heldConn struct {
	net.Conn
	release func() bool
}

func hold(ctx context.Context, c net.Conn) *heldConn {
	return &heldConn{Conn: c, release: context.AfterFunc(ctx, func() { c.Close() })}
}

// until calls f once, when the connection is released or closed.
func (c *heldConn) until(f func()) {
	release, once := c.release, sync.OnceFunc(f)
	c.release = func() bool {
		defer once()
		return release()
	}
}

// holdBy lets another context close the connection.
func (c *heldConn) holdBy(ctx context.Context) {
	c.release()
	c.release = context.AfterFunc(ctx, func() { c.Conn.Close() })
}

func (c *heldConn) Close() error {
	c.release()
	return c.Conn.Close()
}

// heldListener is what cmux accepts from, which drops what it has accepted and not divided as soon as the listener has failed.
// So it is told of that when nothing is left to be divided.
type heldListener struct {
	net.Listener
	life     lifetimes
	dividing sync.WaitGroup
}

func (l *heldListener) Accept() (net.Conn, error) {
	c, err := accept(l.life.undivided, l.Listener)
	if err != nil {
		l.dividing.Wait() // at most for life.sniff
		return nil, err
	}
	held := hold(l.life.undivided, c)
	l.dividing.Add(1)
	held.until(l.dividing.Done)
	return held, nil
}

// accept is l.Accept without its passing errors (no file descriptors left, a client gone before it was accepted).
func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		c, err := l.Accept()
		var passing interface{ Temporary() bool }
		if err == nil || !errors.As(err, &passing) || !passing.Temporary() {
			return c, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, net.ErrClosed
		}
	}
}

// grpcListener gives grpc connections that remember the preface, not cmux's, which hide the descriptor for good.
type grpcListener struct {
	net.Listener
	life lifetimes
}

func (l grpcListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	sniffed := c.(*cmux.MuxConn)
	held := sniffed.Conn.(*heldConn)
	held.holdBy(l.life.cut)
	return newPrefacedConn(sniffed, held)
}

// plainListener gives cmux's connections as they are, to those who read them in their own way.
type plainListener struct{ net.Listener }

func (l plainListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.(*cmux.MuxConn).Conn.(*heldConn).release()
	return c, nil
}

// httpListener is what net/http accepts from. It tells what the port carries.
type httpListener struct {
	net.Listener
	only Traffic
}

// divideTLS does the handshakes and divides by what the client offered in ALPN: only h2 means gRPC; all others go
// to net/http, which speaks both. The finished connections keep their TLS state, so that gRPC sees client
// certificates. On a port of gRPC alone there is no net/http, and h2 means gRPC also for who offered more.
func divideTLS(l net.Listener, p Port, life lifetimes, log *slog.Logger) divided {
	cfg := p.TLS.Clone()
	cfg.NextProtos = []string{"h2", "http/1.1"}
	inner := cfg.GetConfigForClient
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		hello.Conn.(*helloConn).onlyH2 = len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == "h2"
		if inner == nil {
			return nil, nil
		}
		return inner(hello)
	}
	grpcl, httpl := newQueue(life.undivided, l.Addr()), newQueue(life.undivided, l.Addr())
	shake := func(raw net.Conn) {
		ctx, cancel := context.WithTimeout(life.undivided, life.sniff)
		defer cancel()
		hello := &helloConn{heldConn: hold(life.cut, raw)}
		c := tls.Server(hello, cfg)
		if err := c.HandshakeContext(ctx); err != nil {
			log.Warn("rejected connection", "remote-addr", raw.RemoteAddr().String(), "error", err.Error())
			hello.Close()
			return
		}
		switch {
		case p.Only == OnlyGRPC && c.ConnectionState().NegotiatedProtocol != "h2":
			log.Warn("rejected connection", "remote-addr", raw.RemoteAddr().String(), "error", "does not speak HTTP/2 on a port of gRPC")
			c.Close()
		case p.Only == OnlyGRPC || p.Only == Both && hello.onlyH2:
			grpcl.push(c)
		default:
			httpl.push(c)
		}
	}
	run := func() error {
		var shaking sync.WaitGroup
		defer shaking.Wait()
		for {
			raw, err := accept(life.undivided, l)
			if err != nil {
				return err
			}
			shaking.Go(func() { shake(raw) })
		}
	}
	return divided{grpc: []net.Listener{grpcl}, http: []net.Listener{httpListener{httpl, p.Only}}, run: run}
}

// helloConn carries what a client offered from the handshake to the code that divides.
type helloConn struct {
	*heldConn
	onlyH2 bool
}

// queue is a listener whose connections are pushed.
type queue struct {
	addr   net.Addr
	conns  chan net.Conn
	ctx    context.Context
	cancel context.CancelFunc
}

func newQueue(ctx context.Context, addr net.Addr) *queue {
	q := &queue{addr: addr, conns: make(chan net.Conn)}
	q.ctx, q.cancel = context.WithCancel(ctx)
	return q
}

func (q *queue) push(c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.ctx.Done():
		c.Close()
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.cancel()
	return nil
}

func (q *queue) Addr() net.Addr { return q.addr }

func isGRPC(contentType string) bool { return strings.HasPrefix(contentType, "application/grpc") }
