package grpcapi

import (
	"context"
	"crypto/tls"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"weir/cache"
)

// connection is what RPCs on grpc's own transport share with those that came on the same connection. It reaches their
// handlers as the peer's AuthInfo, the one value of ours that grpc keeps with a connection. (A stats.Handler may give
// connections contexts, but it is then told of every message of every RPC too.)
type connection struct {
	tls     *credentials.TLSInfo // nil in plaintext
	session cache.Session
}

// newConnection describes a connection whose handshake is over.
func newConnection(c net.Conn) *connection {
	t, ok := c.(*tls.Conn)
	if !ok {
		return &connection{}
	}
	return &connection{tls: &credentials.TLSInfo{
		State:          t.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}}
}

// AuthType is part of credentials.AuthInfo.
func (c *connection) AuthType() string {
	if c.tls == nil {
		return "insecure"
	}
	return c.tls.AuthType()
}

// ConnectionState is nil in plaintext. See wire.CredentialsOf.
func (c *connection) ConnectionState() *tls.ConnectionState {
	if c.tls == nil {
		return nil
	}
	return &c.tls.State
}

// sessionKey is where the context of a net/http connection has its session: that transport makes its own AuthInfo.
type sessionKey struct{}

// withSession is http.Server.ConnContext.
func withSession(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, sessionKey{}, new(cache.Session))
}

// sessionOf returns the session of the connection that an RPC came on. It is not nil for an RPC that a Server serves.
func sessionOf(ctx context.Context) *cache.Session {
	if p, ok := peer.FromContext(ctx); ok {
		if c, ok := p.AuthInfo.(*connection); ok {
			return &c.session
		}
	}
	s, _ := ctx.Value(sessionKey{}).(*cache.Session)
	return s
}

// tlsOf returns what the handshake of an RPC's connection has shown; nil in plaintext.
func tlsOf(ctx context.Context) *credentials.TLSInfo {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	switch info := p.AuthInfo.(type) {
	case *connection:
		return info.tls
	case credentials.TLSInfo: // of net/http
		return &info
	}
	return nil
}
