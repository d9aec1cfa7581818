package grpcapi

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/soheilhy/cmux"
	"google.golang.org/grpc/credentials"
)

// port divides the connections of one listener between gRPC and HTTP/1.
type port struct {
	grpc, http net.Listener
	run        func() error // accepts until the listener fails; returns its error
}

// newPlainPort divides by the first bytes: the preface of HTTP/2 means gRPC, as at etcd. (Deciding by content-type
// would need the first headers, for which an idle gRPC client makes us wait.)
func newPlainPort(ctx context.Context, l net.Listener, timeout time.Duration) port {
	mux := cmux.New(&pendingListener{Listener: l, ctx: ctx})
	mux.SetReadTimeout(timeout) // a silent connection would hold its goroutine forever
	return port{
		grpc: grpcListener{mux.Match(cmux.HTTP2())},
		http: httpListener{mux.Match(cmux.HTTP1Fast())},
		run:  mux.Serve,
	}
}

// pendingListener closes connections that are still being sniffed when ctx ends, and waits out transient failures
// of Accept, on which cmux would spin.
type pendingListener struct {
	net.Listener
	ctx context.Context
}

func (l *pendingListener) Accept() (net.Conn, error) {
	c, err := accept(l.ctx, l.Listener)
	if err != nil {
		return nil, err
	}
	return &pendingConn{Conn: c, settle: context.AfterFunc(l.ctx, func() { c.Close() })}, nil
}

type pendingConn struct {
	net.Conn
	settle func() bool
}

func (c *pendingConn) Close() error {
	c.settle()
	return c.Conn.Close()
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

// unwrap returns what cmux sniffed and the connection below it.
func unwrap(c net.Conn) (*cmux.MuxConn, net.Conn) {
	m := c.(*cmux.MuxConn)
	p := m.Conn.(*pendingConn)
	p.settle()
	return m, p.Conn
}

// grpcListener gives grpc connections that remember the preface, not cmux's, which hide the descriptor for good.
type grpcListener struct{ net.Listener }

func (l grpcListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newPrefacedConn(unwrap(c))
}

type httpListener struct{ net.Listener }

func (l httpListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	unwrap(c)
	return c, nil
}

// newTLSPort does the handshakes and divides by what the client offered in ALPN: only h2 means gRPC; all others go
// to net/http, which speaks both. The finished connections keep their TLS state, so that gRPC sees client
// certificates.
func newTLSPort(ctx context.Context, l net.Listener, cfg *tls.Config, timeout time.Duration, log *slog.Logger) port {
	cfg = cfg.Clone()
	cfg.NextProtos = []string{"h2", "http/1.1"}
	inner := cfg.GetConfigForClient
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		hello.Conn.(*helloConn).onlyH2 = len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == "h2"
		if inner == nil {
			return nil, nil
		}
		return inner(hello)
	}
	grpcl, httpl := newQueue(ctx, l.Addr()), newQueue(ctx, l.Addr())
	shake := func(raw net.Conn) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		hello := &helloConn{Conn: raw}
		c := tls.Server(hello, cfg)
		if err := c.HandshakeContext(ctx); err != nil {
			log.Warn("rejected connection", "remote-addr", raw.RemoteAddr().String(), "error", err.Error())
			raw.Close()
			return
		}
		if hello.onlyH2 {
			grpcl.push(c)
		} else {
			httpl.push(c)
		}
	}
	run := func() error {
		var shaking sync.WaitGroup
		defer shaking.Wait()
		for {
			raw, err := accept(ctx, l)
			if err != nil {
				return err
			}
			shaking.Go(func() { shake(raw) })
		}
	}
	return port{grpc: grpcl, http: httpl, run: run}
}

// helloConn carries what a client offered from the handshake to the code that divides.
type helloConn struct {
	net.Conn
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

// handshaken are grpc credentials for connections whose handshake is over: they only report its result.
type handshaken struct{}

func (handshaken) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	t, ok := c.(*tls.Conn)
	if !ok {
		return c, nil, nil
	}
	return c, credentials.TLSInfo{
		State:          t.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

func (handshaken) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("grpcapi: these credentials are for servers")
}

func (handshaken) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (handshaken) Clone() credentials.TransportCredentials { return handshaken{} }

func (handshaken) OverrideServerName(string) error { return nil }

func isGRPC(contentType string) bool { return strings.HasPrefix(contentType, "application/grpc") }
