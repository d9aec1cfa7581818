package grpcapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"weir/cache"
	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// repeated is a request's body: one message, over and over, in chunks of any size.
type repeated struct {
	message []byte // framed
	chunk   int    // at most, of one Read
	read    int    // bytes so far
}

func framed(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func (f *repeated) Read(p []byte) (int, error) {
	at := f.read % len(f.message)
	n := copy(p[:min(len(p), f.chunk)], f.message[at:])
	f.read += n
	return n, nil
}

// post has h answer a gRPC request as net/http's server would, and returns the answer's status once it is there.
func post(t *testing.T, h http.Handler, method string, body io.Reader) <-chan string {
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, method, body)
	r.ProtoMajor = 2
	r.Header.Set("Content-Type", "application/grpc")
	code := make(chan string, 1)
	go func() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		code <- w.Header().Get("Grpc-Status")
	}()
	return code
}

// streamHandler is an Upstream of streams.
type streamHandler func(grpc.ServerStream) error

func (h streamHandler) Ready(context.Context) error { return nil }
func (h streamHandler) UpstreamHTTP(context.Context, string) (io.ReadCloser, error) {
	return nil, errors.New("not here")
}

func (h streamHandler) Stream(_ string, gs grpc.ServerStream, _ *cache.Session) error { return h(gs) }
func (h streamHandler) Unary(context.Context, string, wire.Raw, *cache.Session) (wire.Raw, error) {
	panic("not a stream")
}

func TestNoMoreOfARequestIsReadThroughNetHTTPThanIsReceived(t *testing.T) {
	for name, size := range map[string]int{"empty": 0, "small": 7, "long": 1 << 20, "longest": 2 << 20} {
		for _, chunk := range []int{1 << 30, 3} {
			if chunk == 3 && size > 7 {
				continue
			}
			bubble.Test(t, func(t *testing.T) {
				message := bytes.Repeat([]byte("x"), size)
				receive := make(chan struct{})
				s := NewForwardServer(Config{Logger: quiet()}, streamHandler(func(gs grpc.ServerStream) error {
					for range receive {
						var raw wire.Raw
						if err := gs.RecvMsg(&raw); err != nil || !bytes.Equal(raw, message) {
							t.Errorf("%s: received %d bytes, %v", name, len(raw), err)
						}
					}
					return nil
				}), nil, nil)
				defer s.Stop(t.Context())
				body := &repeated{message: framed(message), chunk: chunk}
				code := post(t, s.http.Handler, "/some.Service/Method", body)
				for received := range 5 {
					synctest.Wait()
					if want := received*len(body.message) + messageHeader; body.read != want {
						t.Errorf("%s: %d bytes have been read when %d messages have been received, want %d", name, body.read, received, want)
					}
					receive <- struct{}{}
				}
				close(receive)
				if c := <-code; c != "0" {
					t.Errorf("%s: status %s", name, c)
				}
			})
		}
	}
}

func TestMessageOverTheLimitIsRefusedUnreadThroughNetHTTP(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := NewForwardServer(Config{Logger: quiet()}, streamHandler(func(gs grpc.ServerStream) error {
			err := gs.RecvMsg(new(wire.Raw))
			synctest.Wait()
			return err
		}), nil, nil)
		defer s.Stop(t.Context())
		body := &repeated{message: framed(make([]byte, 3<<20)), chunk: 1 << 30}
		if c := <-post(t, s.http.Handler, "/some.Service/Method", body); c != "8" || body.read != messageHeader {
			t.Errorf("status %s, and %d bytes have been read", c, body.read)
		}
	})
}

func TestRequestOfTooManyMessagesIsRefusedThroughNetHTTP(t *testing.T) {
	for _, method := range []string{"/etcdserverpb.KV/Range", "/etcdserverpb.KV/RangeStream"} {
		bubble.Test(t, func(t *testing.T) {
			s := NewBackendServer(Config{Logger: quiet()}, oneKey(t))
			defer s.Stop(t.Context())
			body := &repeated{message: framed(marshal(t, &pb.RangeRequest{Key: []byte("k")})), chunk: 1 << 30}
			if c := <-post(t, s.http.Handler, method, body); c != "13" || body.read > 2*len(body.message)+messageHeader {
				t.Errorf("%s: status %s, and %d bytes have been read", method, c, body.read)
			}
		})
	}
}

func TestRequestThatEndsWithinAMessageIsAnErrorThroughNetHTTP(t *testing.T) {
	for _, n := range []int{1, 4, 5, 50} {
		failed := make(chan error, 1)
		s := NewForwardServer(Config{Logger: quiet()}, streamHandler(func(gs grpc.ServerStream) error {
			failed <- gs.RecvMsg(new(wire.Raw))
			return nil
		}), nil, nil)
		defer s.Stop(t.Context())
		<-post(t, s.http.Handler, "/some.Service/Method", bytes.NewReader(framed(make([]byte, 100))[:n]))
		if err := <-failed; status.Code(err) != codes.Internal {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

// TestMessagesOfAnySizeGetThroughNetHTTP is over a real connection, of a client that offers http/1.1 too.
func TestMessagesOfAnySizeGetThroughNetHTTP(t *testing.T) {
	cert, ca := selfSigned(t, "server")
	s := NewForwardServer(Config{Logger: quiet()},
		streamHandler(func(gs grpc.ServerStream) error {
			for {
				var raw wire.Raw
				if err := gs.RecvMsg(&raw); err != nil {
					if err == io.EOF {
						return nil
					}
					return err
				}
				if err := gs.SendMsg(mem.BufferSlice{mem.SliceBuffer(raw)}); err != nil {
					return err
				}
			}
		}), nil, nil)
	conn := dial(t, startOn(t, s, Port{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}), grpc.WithTransportCredentials(credentials.NewTLS(
		&tls.Config{RootCAs: ca, NextProtos: []string{"h2", "http/1.1"}})))
	for _, opts := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} {
		c, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/some.Service/Method",
			append(opts, grpc.ForceCodecV2(wire.Codec{}))...)
		if err != nil {
			t.Fatal(err)
		}
		sizes := []int{0, 1, 16379, 16384, 0, 0, 2 << 20, 130_000, 3}
		sent := make(chan error, 1)
		go func() {
			for _, n := range sizes {
				if err := c.SendMsg(wire.Raw(bytes.Repeat([]byte("x"), n))); err != nil {
					sent <- err
					return
				}
			}
			sent <- c.CloseSend()
		}()
		for _, n := range sizes {
			var raw wire.Raw
			if err := c.RecvMsg(&raw); err != nil || len(raw) != n {
				t.Fatalf("got %d bytes, %v; want %d", len(raw), err, n)
			}
		}
		if err := c.RecvMsg(new(wire.Raw)); err != io.EOF {
			t.Error(err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	}
}

// TestStreamThatIsNotReceivedLeavesTheConnectionToOthers floods one stream over a connection through net/http.
func TestStreamThatIsNotReceivedLeavesTheConnectionToOthers(t *testing.T) {
	cert, ca := selfSigned(t, "server")
	entered := make(chan struct{})
	s := NewForwardServer(Config{Logger: quiet()},
		streamHandler(func(gs grpc.ServerStream) error {
			if method, _ := grpc.MethodFromServerStream(gs); method == "/some.Service/Receives" {
				var raw wire.Raw
				if err := gs.RecvMsg(&raw); err != nil {
					return err
				}
				return gs.SendMsg(raw)
			}
			close(entered)
			<-gs.Context().Done()
			return nil
		}), nil, nil)
	conn := dial(t, startOn(t, s, Port{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}), grpc.WithTransportCredentials(credentials.NewTLS(
		&tls.Config{RootCAs: ca, NextProtos: []string{"h2", "http/1.1"}})))
	open := func(ctx context.Context, method string) grpc.ClientStream {
		c, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodecV2(wire.Codec{}))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ctx, cancel := context.WithCancel(t.Context())
	stuck := open(ctx, "/some.Service/DoesNot")
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		for stuck.SendMsg(wire.Raw(make([]byte, 1<<20))) == nil {
		}
	}()
	<-entered
	for range 10 {
		c := open(t.Context(), "/some.Service/Receives")
		if err := c.SendMsg(wire.Raw(make([]byte, 2<<20))); err != nil {
			t.Fatal(err)
		}
		if err := c.RecvMsg(new(wire.Raw)); err != nil {
			t.Fatal(err)
		}
		if err := c.RecvMsg(new(wire.Raw)); err != io.EOF {
			t.Fatal(err)
		}
	}
	cancel()
	<-flooded
}
