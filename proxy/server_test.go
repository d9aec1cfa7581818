package proxy

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"weir/grpcapi/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The methods of the tests. The front server has a unary handler for the first and takes all others for streams.
const (
	unaryMethod  = "/test.Service/Unary"
	streamMethod = "/test.Service/Stream"
)

// serve runs handler for every method of the tests that comes to l until the test ends or the server is stopped. What
// the proxy's feeds ask is not there.
func serve(t testing.TB, l net.Listener, handler func(grpc.ServerStream) error) *grpc.Server {
	s := grpc.NewServer(
		grpc.ForceServerCodecV2(wire.Codec{}),
		grpc.WaitForHandlers(true),
		grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
			if method, _ := grpc.MethodFromServerStream(s); !strings.HasPrefix(method, "/test.Service/") {
				return status.Error(codes.Unimplemented, method)
			}
			return handler(s)
		}),
	)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return s
}

// front puts p behind a server, as grpcapi does, and returns a connection to it.
func front(t testing.TB, p *Proxy) *grpc.ClientConn {
	t.Helper()
	pipes := bufconn.Listen(64 << 10)
	s := grpc.NewServer(
		grpc.ForceServerCodecV2(wire.Codec{}),
		grpc.WaitForHandlers(true),
		grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(s)
			return p.Stream(method, s, nil)
		}),
	)
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Service",
		Methods: []grpc.MethodDesc{{
			MethodName: "Unary",
			Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var req wire.Raw
				if err := decode(&req); err != nil {
					return nil, err
				}
				resp, err := p.Unary(ctx, unaryMethod, req, nil)
				return resp, err
			},
		}},
	}, nil)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(pipes)
	}()
	conn, err := grpc.NewClient("passthrough:///front",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{})),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipes.DialContext(ctx) }),
		grpc.WithStaticStreamWindowSize(64<<10), // so that what a client buffers is little beside what a proxy might
		grpc.WithStaticConnWindowSize(16<<20),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		s.Stop()
		<-served
	})
	return conn
}

// newProxy makes a proxy that is closed when the test ends, after its front.
func newProxy(t testing.TB, cfg Config) *Proxy {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// through returns a connection to a proxy before handler.
func through(t testing.TB, handler func(grpc.ServerStream) error) *grpc.ClientConn {
	t.Helper()
	pipes := bufconn.Listen(64 << 10)
	serve(t, pipes, handler)
	return front(t, newProxy(t, Config{
		Endpoints: []string{"unix://test"},
		Dial:      func(ctx context.Context, _ string) (net.Conn, error) { return pipes.DialContext(ctx) },
	}))
}

func open(t testing.TB, ctx context.Context, conn *grpc.ClientConn) grpc.ClientStream {
	t.Helper()
	s, err := conn.NewStream(ctx, &anyStream, streamMethod)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func send(t testing.TB, s interface{ SendMsg(any) error }, m string) {
	t.Helper()
	if err := s.SendMsg(wire.Raw(m)); err != nil {
		t.Fatal(err)
	}
}

func receive(t testing.TB, s interface{ RecvMsg(any) error }) string {
	t.Helper()
	var m wire.Raw
	if err := s.RecvMsg(&m); err != nil {
		t.Fatal(err)
	}
	return string(m)
}

// echo answers every message with itself.
func echo(s grpc.ServerStream) error {
	for {
		var m wire.Raw
		if err := s.RecvMsg(&m); err != nil {
			return endOf(err)
		}
		if err := s.SendMsg(m); err != nil {
			return err
		}
	}
}
