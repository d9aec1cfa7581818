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
	endpoint string // as configured
	conn     *grpc.ClientConn
	url      string // for http, without a path
	http     *http.Client

	// Guarded by upstream.mu.
	state  connectivity.State
	failed bool // since it was last ready, or ever: do not wait for it
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
func newMember(endpoint string, cfg Config) (*member, error) {
	t, err := parseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	creds, scheme := insecure.NewCredentials(), "http://"
	if t.tls || t.bare && cfg.TLS != nil {
		scheme = "https://"
		creds = credentials.NewTLS(nil)
		if cfg.TLS != nil {
			creds = freshTLS{creds, cfg.TLS}
		}
	}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		if cfg.Dial != nil {
			return cfg.Dial(ctx, endpoint)
		}
		return new(net.Dialer).DialContext(ctx, t.network, t.addr)
	}
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
		grpc.WithAuthority(t.authority),
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
	conn, err := grpc.NewClient("passthrough:///"+t.addr, opts...)
	if err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", endpoint, err)
	}
	return &member{endpoint: endpoint, conn: conn, url: scheme + t.authority, http: newHTTP(dial, cfg.TLS)}, nil
}

// freshTLS makes its configuration anew for every connection, since crypto/tls reads the authorities only once.
type freshTLS struct {
	credentials.TransportCredentials
	config func() *tls.Config
}

func (f freshTLS) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(f.config()).ClientHandshake(ctx, authority, c)
}

func (f freshTLS) Clone() credentials.TransportCredentials {
	return freshTLS{f.TransportCredentials.Clone(), f.config}
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

// target is a parsed endpoint.
type target struct {
	network, addr string // for net.Dial
	authority     string // and the name in the certificate, less its port
	tls, bare     bool   // wants TLS; says nothing about it
}

func parseEndpoint(endpoint string) (target, error) {
	malformed := func(why string) (target, error) {
		return target{}, fmt.Errorf("endpoint %q: %s; write http://host:port, https://host:port, unix:///path or host:port", endpoint, why)
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
	if err != nil || u.User != nil || strings.ContainsAny(rest, "?#") {
		return malformed("not a host and port")
	}
	if u.Path != "" && u.Path != "/" {
		return malformed("a path is not possible")
	}
	if u.Hostname() == "" || u.Port() == "" {
		return malformed("host or port is missing")
	}
	t.addr, t.authority = u.Host, u.Host
	return t, nil
}
