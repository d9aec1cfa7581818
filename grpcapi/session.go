package grpcapi

import (
	"context"
	"crypto/tls"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"weir/cache"
)

// connection is what RPCs share with those that came on the same connection. On grpc's own transport it reaches their
// handlers as the peer's AuthInfo, the one value of ours that grpc keeps with a connection. (A stats.Handler may give
// connections contexts, but it is then told of every message of every RPC too.) net/http's has it in its context.
type connection struct {
	tls     *credentials.TLSInfo // nil in plaintext, and with net/http
	session cache.Session
	goAway  func() // tells the client to begin nothing new; may block until the connection is closed

	// retired ends when the client has had time to go elsewhere: streams that have no end of their own end with it.
	retired context.Context
	retire  context.CancelFunc
}

// newConnection describes a connection whose handshake is over.
func newConnection(c net.Conn) *connection {
	n := &connection{goAway: func() {}}
	n.retired, n.retire = context.WithCancel(context.Background())
	if t, ok := c.(*tls.Conn); ok {
		n.tls = &credentials.TLSInfo{
			State:          t.ConnectionState(),
			CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		}
	}
	return n
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

// connectionKey is where the context of a net/http connection has what is known of it: that transport makes its own AuthInfo.
type connectionKey struct{}

// connectionOf returns the connection that an RPC or an HTTP request came on. It is nil for none that a Server serves.
func connectionOf(ctx context.Context) *connection {
	if p, ok := peer.FromContext(ctx); ok {
		if c, ok := p.AuthInfo.(*connection); ok {
			return c
		}
	}
	c, _ := ctx.Value(connectionKey{}).(*connection)
	return c
}

// sessionOf returns the session of the connection that an RPC came on. It is not nil for an RPC that a Server serves.
func sessionOf(ctx context.Context) *cache.Session {
	if c := connectionOf(ctx); c != nil {
		return &c.session
	}
	return nil
}

// retiredOf returns what ends when the streams of an RPC's connection are to; see connection.
func retiredOf(ctx context.Context) context.Context {
	if c := connectionOf(ctx); c != nil {
		return c.retired
	}
	return context.Background()
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
