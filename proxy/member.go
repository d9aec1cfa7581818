package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// member is one upstream endpoint.
type member struct {
	endpoint string // as configured, or found
	target   target
	conn     *grpc.ClientConn
	calls    *calls // on conn, however they are made
	url      string // for http, without a path
	http     *http.Client
	stop     context.CancelFunc        // lets go of it
	heard    atomic.Pointer[time.Time] // see hear

	// Guarded by upstream.mu.
	state   connectivity.State
	failed  bool // since it was last ready, or ever: do not wait for it
	leaving bool // it is to be let go
}

// endpoint is where a member is.
type endpoint struct {
	target
	name       string // what people know it by
	serverName string // in its certificate; "" is its host
}

// connectTimeout bounds one attempt to connect, TLS handshake included, and so how long an RPC waits for the first
// attempt; it is client/v3's default in etcd's own proxy.
const connectTimeout = 5 * time.Second

// What upstream may send ahead of what has been read, in bytes: on one stream, and on all of a connection together.
const (
	streamWindow = 128 << 10
	connWindow   = 16 << 20
)

// newMember does not connect yet.
func newMember(e endpoint, cfg Config) (*member, error) {
	creds, scheme := insecure.NewCredentials(), "http://"
	tlsConfig := cfg.tlsFor(e)
	if e.tls {
		scheme = "https://"
		creds = freshTLS{credentials.NewTLS(nil), tlsConfig}
	}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		if cfg.Dial != nil {
			return cfg.Dial(ctx, e.name)
		}
		return new(net.Dialer).DialContext(ctx, e.network, e.addr)
	}
	m := &member{endpoint: e.name, target: e.target, calls: newCalls(), url: scheme + e.authority, http: newHTTP(dial, tlsConfig)}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(wire.Codec{}),
			grpc.MaxCallRecvMsgSize(cfg.MaxRecvBytes),
			grpc.MaxCallSendMsgSize(1<<31-1), // bounded where the client's message was received
		),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second,
			},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithContextDialer(dial),
		grpc.WithAuthority(e.authority),
		grpc.WithUnaryInterceptor(m.calls.unary),
		grpc.WithStreamInterceptor(m.calls.stream),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0), // stay connected
		// gRPC would let a stream's window grow to 16 MiB, and every stream whose client does not read pins its window.
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
	}
	if cfg.KeepAliveTime > 0 {
		opts = append(opts, grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time:                cfg.KeepAliveTime,
			Timeout:             cfg.KeepAliveTimeout,
			PermitWithoutStream: cfg.PermitWithoutStream,
		}))
	}
	var err error
	if m.conn, err = grpc.NewClient("passthrough:///"+e.addr, opts...); err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", e.name, err)
	}
	return m, nil
}

// tlsFor returns what makes the configuration of each connection to e.
func (c Config) tlsFor(e endpoint) func() *tls.Config {
	return func() *tls.Config {
		made := &tls.Config{}
		if c.TLS != nil {
			made = c.TLS()
		}
		if e.serverName != "" {
			made = made.Clone()
			made.ServerName = e.serverName
		}
		return made
	}
}

// freshTLS makes its configuration anew for every connection, since crypto/tls reads the authorities only once.
type freshTLS struct {
	credentials.TransportCredentials
	config func() *tls.Config
}

func (f freshTLS) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	cfg := f.config()
	if cfg.ServerName != "" {
		authority = cfg.ServerName // gRPC goes by this alone
	}
	return credentials.NewTLS(cfg).ClientHandshake(ctx, authority, c)
}

func (f freshTLS) Clone() credentials.TransportCredentials {
	return freshTLS{f.TransportCredentials.Clone(), f.config}
}

// hear records that the member answers: it has said who may read, which it is asked twice a second while it is the current one,
// or has just become that.
func (m *member) hear() {
	now := time.Now()
	m.heard.Store(&now)
}

// cause returns why the member is not connected, or nil if it is.
func (m *member) cause(ctx context.Context) error {
	switch state := m.conn.GetState(); state {
	case connectivity.Ready:
		return nil
	case connectivity.TransientFailure:
		// gRPC tells the reason only to an RPC. In this state one fails at once.
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		var resp wire.Raw
		err := m.conn.Invoke(ctx, "/grpc.health.v1.Health/Check", wire.Raw(nil), &resp)
		if m.conn.GetState() == connectivity.Ready {
			return nil
		}
		if err == nil {
			return errors.New("reconnecting")
		}
		_, text, found := strings.Cut(status.Convert(err).Message(), `desc = "transport: `)
		if !found {
			return err
		}
		return errors.New(strings.TrimSuffix(text, `"`))
	default:
		return errors.New("connecting")
	}
}

// target is a parsed endpoint. Two that are equal are the same.
type target struct {
	network, addr string // for net.Dial
	authority     string // and the name in the certificate, less its port
	tls, bare     bool   // wants TLS; says nothing about it
}

// endpoint is what name means. What says nothing about TLS wants it if there is a configuration for it.
func (c Config) endpoint(name string) (endpoint, error) {
	t, err := parseEndpoint(name)
	t.tls, t.bare = t.tls || t.bare && c.TLS != nil, false
	return endpoint{target: t, name: name}, err
}

// WithoutUser is an endpoint as it may be shown: a user in it, which is not possible, may have a password.
func WithoutUser(endpoint string) string {
	at := strings.LastIndexByte(endpoint, '@')
	if at < 0 {
		return endpoint
	}
	scheme, _, ok := strings.Cut(endpoint[:at], "://")
	if ok {
		scheme += "://"
	} else {
		scheme = ""
	}
	return scheme + "…" + endpoint[at:]
}

func parseEndpoint(endpoint string) (target, error) {
	malformed := func(why string) (target, error) {
		return target{}, fmt.Errorf("endpoint %q: %s; write http://host:port, https://host:port, unix:///path or host:port", WithoutUser(endpoint), why)
	}
	scheme, rest, found := strings.Cut(endpoint, "://")
	if !found {
		if s, path, ok := strings.Cut(endpoint, ":"); ok && (s == "unix" || s == "unixs") {
			scheme, rest = s, path
		} else {
			scheme, rest = "", endpoint
		}
	}
	t := target{network: "tcp", addr: rest, authority: rest, bare: scheme == ""}
	switch scheme {
	case "", "http":
	case "https":
		t.tls = true
	case "unix", "unixs":
		if rest == "" {
			return malformed("the path is missing")
		}
		return target{network: "unix", addr: rest, authority: "localhost", tls: scheme == "unixs"}, nil
	default:
		return malformed(fmt.Sprintf("unknown scheme %q", scheme))
	}
	u, err := url.Parse("http://" + rest)
	if err == nil && u.User != nil {
		return malformed("a user is not possible there")
	}
	if err != nil || strings.ContainsAny(rest, "?#") {
		return malformed("not a host and port")
	}
	if u.Path != "" && u.Path != "/" {
		return malformed("a path is not possible")
	}
	if u.Hostname() == "" || u.Port() == "" {
		return malformed("host or port is missing")
	}
	if _, err := net.LookupPort("tcp", u.Port()); err != nil {
		return malformed("there is no port " + u.Port())
	}
	t.addr, t.authority = u.Host, u.Host
	return t, nil
}
