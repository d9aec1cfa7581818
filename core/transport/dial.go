package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"weir/grpcapi/wire"
)

// urlPicker goes round the URLs of a peer: it stays with one until that fails.
type urlPicker struct {
	mu      sync.Mutex // guards all below
	urls    []string
	current int
	hosts   map[string]netip.Prefix // by URL: where it led when it was last dialled
}

// set says which URLs there are, and tells whether that is a change.
func (p *urlPicker) set(urls []string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Equal(p.urls, urls) {
		return false
	}
	p.urls, p.current = slices.Clone(urls), 0
	maps.DeleteFunc(p.hosts, func(url string, _ netip.Prefix) bool { return !slices.Contains(urls, url) })
	return true
}

// led notes that a URL leads to a host.
func (p *urlPicker) led(url string, host netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !host.IsValid() || !slices.Contains(p.urls, url) {
		return
	}
	if p.hosts == nil {
		p.hosts = map[string]netip.Prefix{}
	}
	p.hosts[url] = host
}

// leadTo tells whether one of the URLs is known to lead to a host.
func (p *urlPicker) leadTo(host netip.Prefix) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, known := range p.hosts {
		if known == host {
			return true
		}
	}
	return false
}

// pick returns the URL to try, "" if there is none.
func (p *urlPicker) pick() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.urls) == 0 {
		return ""
	}
	return p.urls[p.current]
}

// failed moves on to the next URL, unless somebody has done so already.
func (p *urlPicker) failed(url string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.urls) > 0 && p.urls[p.current] == url {
		p.current = (p.current + 1) % len(p.urls)
	}
}

var errNoURL = errors.New("its URL is not known")

// dial connects to one of the peer's URLs.
func (p *peer) dial(ctx context.Context, url string) (net.Conn, error) {
	conn, err := p.t.dial(ctx, url)
	if err == nil {
		p.urls.led(url, hostOf(conn.RemoteAddr()))
	}
	return conn, err
}

// dial connects to a peer URL, TLS included: http, https, unix or unixs, as etcd has them.
//
// The handshake is made here and not by gRPC's credentials, because the URLs of one member, between which a gRPC connection
// may change, need not have the same scheme.
func (t *Transport) dial(ctx context.Context, peerURL string) (net.Conn, error) {
	if peerURL == "" {
		return nil, errNoURL
	}
	u, err := url.Parse(peerURL)
	if err != nil {
		return nil, fmt.Errorf("parse peer URL: %w", err)
	}
	network, address, secure := "tcp", u.Host, false
	switch u.Scheme {
	case "http":
	case "https":
		secure = true
	case "unix":
		network, address = "unix", u.Host+u.Path
	case "unixs":
		network, address, secure = "unix", u.Host+u.Path, true
	default:
		return nil, fmt.Errorf("peer URL %s: unknown scheme", peerURL)
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.timing.connect)
	defer cancel()
	conn, err := t.cfg.Dial(ctx, network, address)
	if err != nil || !secure {
		return conn, err
	}
	cfg := &tls.Config{}
	if t.cfg.TLS != nil {
		cfg = t.cfg.TLS()
	}
	if cfg.ServerName == "" {
		cfg.ServerName = u.Hostname()
	}
	cfg.NextProtos = []string{"h2"}
	secured := tls.Client(conn, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return secured, nil
}

// newConn returns a gRPC connection to a peer that is made by dial when it is first used.
func (t *Transport) newConn(window int32, dial func(context.Context) (net.Conn, error), more ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///weir-peer", append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), // see dial
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(wire.Codec{}),
			grpc.MaxCallSendMsgSize(partSize),
		),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: t.cfg.timing.minBackoff, Multiplier: 2, Jitter: 0.2, MaxDelay: t.cfg.timing.maxBackoff,
			},
			MinConnectTimeout: t.cfg.timing.connect,
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0), // stay connected
		grpc.WithStaticStreamWindowSize(window),
		grpc.WithStaticConnWindowSize(window),
	}, more...)...)
}

// socket is the network connection below a gRPC connection. It is kept to be broken: gRPC, when it closes one, first waits up to 5 s
// to say goodbye, which a peer that does not read never hears.
type socket struct {
	mu     sync.Mutex // guards all below
	conn   net.Conn   // the last one, or nil
	closed bool
}

// set takes a connection that was just made.
func (s *socket) set(conn net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return net.ErrClosed
	}
	s.conn = conn
	return nil
}

// cut breaks the connection.
func (s *socket) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.SetDeadline(time.Unix(1, 0)) // TLS's Close would write first
		_ = s.conn.Close()
		s.conn = nil
	}
}

// close breaks the connection, and any that is made later.
func (s *socket) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cut()
}
