package grpcapi

import (
	"context"
	"crypto/tls"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"weir/cache"
	"weir/grpcapi/wire"
)

// transports are the ways on which gRPC reaches a server: each has a server's port and a client's credentials.
func transports(t *testing.T) map[string]struct {
	port   Port
	client credentials.TransportCredentials
} {
	cert, ca := selfSigned(t, "server")
	plain, secure := Port{}, Port{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}
	offering := func(protos ...string) credentials.TransportCredentials {
		return credentials.NewTLS(&tls.Config{RootCAs: ca, NextProtos: protos})
	}
	return map[string]struct {
		port   Port
		client credentials.TransportCredentials
	}{
		"plaintext": {plain, insecure.NewCredentials()},
		"TLS":       {secure, offering("h2")},
		"net/http":  {secure, offering("h2", "http/1.1")},
	}
}

func TestRPCsOfOneConnectionShareASession(t *testing.T) {
	for name, c := range transports(t) {
		t.Run(name, func(t *testing.T) {
			u := &fakeUpstream{answer: []byte("answer")}
			address := startOn(t, NewForwardServer(Config{Logger: quiet()}, u, nil, nil), c.port)
			raw := grpc.ForceCodecV2(wire.Codec{})
			unary := func(cc *grpc.ClientConn) *cache.Session {
				t.Helper()
				if err := cc.Invoke(t.Context(), "/etcdserverpb.KV/Put", wire.Raw("x"), new(wire.Raw), raw); err != nil {
					t.Fatal(err)
				}
				return u.session
			}
			streamed := func(cc *grpc.ClientConn) *cache.Session {
				t.Helper()
				s, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/some.Service/Method", raw)
				if err != nil {
					t.Fatal(err)
				}
				if err := s.SendMsg(wire.Raw("x")); err != nil {
					t.Fatal(err)
				}
				if err := s.RecvMsg(new(wire.Raw)); err != nil {
					t.Fatal(err)
				}
				return u.session
			}
			one, other := dial(t, address, grpc.WithTransportCredentials(c.client)), dial(t, address, grpc.WithTransportCredentials(c.client))
			first := unary(one)
			if first == nil {
				t.Fatal("there is no session")
			}
			if unary(one) != first || streamed(one) != first {
				t.Error("RPCs of one connection have several sessions")
			}
			if s := unary(other); s == nil || s == first || streamed(other) != s {
				t.Error("another connection does not have a session of its own")
			}
		})
	}
}

func TestRequestsOfTheServerItselfHaveNoSession(t *testing.T) {
	u := &fakeUpstream{session: new(cache.Session)}
	request(forwardHTTP(t, u), "GET", "/health")
	if u.called == "" || u.session != nil {
		t.Errorf("%q was called with the session %p", u.called, u.session)
	}
}

func TestAuthTypeSaysHowAConnectionIsSecured(t *testing.T) {
	for want, c := range map[string]*connection{
		"insecure": newConnection(nil),
		"tls":      newConnection(tls.Server(nil, &tls.Config{})),
	} {
		if got := c.AuthType(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// rpcContext is like the context of a unary RPC on grpc's own transport.
func rpcContext(c *connection) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	context.AfterFunc(ctx, cancel)
	ctx = peer.NewContext(ctx, &peer.Peer{AuthInfo: c})
	ctx, cancel = context.WithCancel(ctx)
	context.AfterFunc(ctx, cancel)
	ctx = metadata.NewIncomingContext(ctx, metadata.Pairs(":authority", "127.0.0.1:2379", "content-type", "application/grpc",
		"user-agent", "grpc-go/1.85.0", "grpc-accept-encoding", "gzip", "client-api-version", "3.7"))
	return grpc.NewContextWithServerTransportStream(ctx, nil)
}

func BenchmarkSessionOf(b *testing.B) {
	ctx := rpcContext(newConnection(nil))
	for b.Loop() {
		_ = sessionOf(ctx)
	}
}

func BenchmarkAdmitRead(b *testing.B) {
	ctx := rpcContext(newConnection(nil))
	k := &sharedReads{}
	for b.Loop() {
		if ok, err := k.admit(ctx); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
