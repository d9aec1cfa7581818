package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

const testMethod = "/test.Echo/Call"

// serving has the member answer testMethod.
func serving(answer Answer) option {
	return func(o *memberOptions) {
		o.register = func(m *member) {
			m.server.RegisterService(&grpc.ServiceDesc{
				ServiceName: "test.Echo", Streams: []grpc.StreamDesc{m.Method("Call", answer)},
			}, nil)
		}
	}
}

func echo(_ context.Context, request []byte) ([]byte, error) { return request, nil }

// call calls testMethod.
func call(ctx context.Context, conn *grpc.ClientConn, request string, options ...grpc.CallOption) (string, error) {
	var answer wire.Raw
	err := conn.Invoke(ctx, testMethod, wire.Raw(request), &answer, options...)
	return string(answer), err
}

func TestMembersAnswerEachOthersCalls(t *testing.T) {
	a, c := start(t, 1), start(t, 3, serving(echo))
	a.SetPeers(map[uint64][]string{3: {"http://127.0.0.1:1", c.url}})
	c.SetPeers(map[uint64][]string{1: {a.url}})
	conn := a.Conn(3)
	ask := func() error {
		answer, err := call(t.Context(), conn, "hello", grpc.WaitForReady(true))
		if err == nil && answer != "hello" {
			t.Errorf("the answer is %q", answer)
		}
		return err
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	a.cables.cut()
	if err := ask(); err != nil && status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	c.remove(1)
	if err := ask(); status.Code(err) != codes.FailedPrecondition || errors.Is(err, ErrNotKnown) {
		t.Errorf("a removed member got %v", err)
	}
	if a.Conn(9) != nil {
		t.Error("a connection to nobody")
	}
}

func TestErrorOfAnAnswerArrives(t *testing.T) {
	a := start(t, 1)
	b := start(t, 2, serving(func(context.Context, []byte) ([]byte, error) {
		return nil, status.Error(codes.OutOfRange, "so much is not there")
	}))
	connect(a, b)
	_, err := call(t.Context(), a.Conn(2), "x", grpc.WaitForReady(true))
	if status.Code(err) != codes.OutOfRange || status.Convert(err).Message() != "so much is not there" {
		t.Error(err)
	}
}

func TestCallerThatIsNotKnownYetIsToldSo(t *testing.T) {
	a, b := start(t, 1), start(t, 2, serving(echo))
	connect(a)
	a.SetPeers(map[uint64][]string{2: {b.url}})
	a.active(t, b) // as a guest
	_, err := call(t.Context(), a.Conn(2), "x", grpc.WaitForReady(true))
	if !errors.Is(err, ErrNotKnown) || status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a guest got %v", err)
	}
	b.SetPeers(map[uint64][]string{1: {a.url}})
	if answer, err := call(t.Context(), a.Conn(2), "x", grpc.WaitForReady(true)); err != nil || answer != "x" {
		t.Errorf("a member got %q, %v", answer, err)
	}
}

func TestConnectionWithoutCallsEndsAndIsMadeAgain(t *testing.T) {
	a := start(t, 1)
	b := start(t, 2, serving(echo), func(o *memberOptions) {
		o.grpc = []grpc.ServerOption{grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: time.Millisecond})}
	})
	b.SetPeers(map[uint64][]string{1: {"http://127.0.0.1:1"}})
	a.SetPeers(map[uint64][]string{2: {b.url}})
	a.active(t, b)
	links := a.cables.count()
	for range 3 {
		if answer, err := call(t.Context(), a.Conn(2), "x"); err != nil || answer != "x" {
			t.Errorf("got %q, %v", answer, err)
		}
		until(t, func() bool { return a.cables.count() == links })
	}
	if a.ActiveSince(2).IsZero() {
		t.Error("a link has ended, too")
	}
}

// counting is a listener that counts what is read of its connections.
type counting struct {
	net.Listener
	read *atomic.Int64
}

func (l counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, l.read}, err
}

type countingConn struct {
	net.Conn
	read *atomic.Int64
}

func (c countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Add(int64(n))
	return n, err
}

func TestLargeRequestsAreRefusedUnread(t *testing.T) {
	read := new(atomic.Int64)
	b := start(t, 2, serving(func(context.Context, []byte) ([]byte, error) {
		t.Error("it was answered")
		return nil, nil
	}), func(o *memberOptions) { o.listen = func(l net.Listener) net.Listener { return counting{l, read} } })
	b.SetPeers(map[uint64][]string{1: {"http://127.0.0.1:1"}})
	otherCluster := rawContext(t, 1, b)
	md, _ := metadata.FromOutgoingContext(otherCluster)
	md.Set(keyCluster, "bad")
	for _, c := range []struct {
		name   string
		ctx    context.Context
		method string
		want   codes.Code
	}{
		{"of anybody", t.Context(), testMethod, codes.InvalidArgument},
		{"of another cluster's member", metadata.NewOutgoingContext(t.Context(), md), testMethod, codes.FailedPrecondition},
		{"of a guest", rawContext(t, 9, b), testMethod, codes.FailedPrecondition},
		{"of a member", rawContext(t, 1, b), testMethod, codes.ResourceExhausted},
		{"to ping", t.Context(), serviceName + "Ping", codes.InvalidArgument},
		{"to ping, of a guest", rawContext(t, 9, b), serviceName + "Ping", codes.OK},
		{"to no method", rawContext(t, 1, b), "/test.Echo/None", codes.Unimplemented},
	} {
		before := read.Load()
		err := rawConn(t, b).Invoke(c.ctx, c.method, wire.Raw(make([]byte, 100<<20)), new(wire.Raw))
		if status.Code(err) != c.want {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if n := read.Load() - before; n > 3*bulkWindow { // what a caller may send ahead, whose end is not seen
			t.Errorf("%s: %d bytes were read", c.name, n)
		}
	}
}

func TestRequestThatDoesNotComeEndsTheCall(t *testing.T) {
	b := start(t, 2, serving(echo), func(o *memberOptions) { o.cfg.timing.request = time.Millisecond })
	b.SetPeers(map[uint64][]string{1: {"http://127.0.0.1:1"}})
	desc := &grpc.StreamDesc{ClientStreams: true}
	s, err := rawConn(t, b).NewStream(rawContext(t, 1, b), desc, testMethod)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&raw{s, t}).end(); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("nothing was sent, and the call ended with %v", err)
	}
}

// halfRequest is the body of a call: the first half of a message of 2 MiB, and nothing more until it is closed.
type halfRequest struct {
	io.Reader
	ended chan struct{}
}

func newHalfRequest() *halfRequest {
	head := binary.BigEndian.AppendUint32([]byte{0}, partSize)
	return &halfRequest{io.MultiReader(bytes.NewReader(head), bytes.NewReader(make([]byte, partSize/2))), make(chan struct{})}
}

func (h *halfRequest) Read(b []byte) (int, error) {
	n, err := h.Reader.Read(b)
	if err == io.EOF {
		<-h.ended
	}
	return n, err
}

func (h *halfRequest) Close() error {
	close(h.ended)
	return nil
}

func TestHalfRequestsOfAMemberAreBounded(t *testing.T) {
	a, b := start(t, 1), start(t, 2, serving(echo))
	connect(a, b)
	ctx, cancel := context.WithCancel(t.Context())
	md, _ := metadata.FromOutgoingContext(rawContext(t, 3, b))
	b.SetPeers(map[uint64][]string{1: {a.url}, 3: {"http://127.0.0.1:1"}})
	const all = 5 * maxStreams
	refused := make(chan string, all)
	var calls sync.WaitGroup
	var client *http.Transport
	for i := range all {
		if i%maxStreams == 0 {
			client = &http.Transport{Protocols: new(http.Protocols)} // and one connection
			client.Protocols.SetUnencryptedHTTP2(true)
			defer client.CloseIdleConnections()
		}
		connection := client
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url+testMethod, newHalfRequest())
		if err != nil {
			t.Fatal(err)
		}
		for key, values := range md {
			request.Header.Set(key, values[0])
		}
		request.Header.Set("Content-Type", "application/grpc")
		request.Header.Set("TE", "trailers")
		calls.Go(func() {
			if response, err := connection.RoundTrip(request); err == nil {
				response.Body.Close()
				refused <- response.Header.Get("Grpc-Message")
			}
		})
	}
	for range all - maxStreams {
		if said := next(t, refused); !strings.Contains(said, "requests of member 3 already") {
			t.Errorf("one is answered with %q", said)
		}
	}
	until(t, func() bool { return b.peer(3).requests.Load() == maxStreams })
	if answer, err := call(t.Context(), a.Conn(2), "x", grpc.WaitForReady(true)); err != nil || answer != "x" {
		t.Errorf("another member got %q, %v", answer, err)
	}
	cancel()
	calls.Wait()
	until(t, func() bool { return b.peer(3).requests.Load() == 0 })
}

func TestCallWithoutARequestIsRefused(t *testing.T) {
	b := start(t, 2, serving(echo))
	b.SetPeers(map[uint64][]string{1: {"http://127.0.0.1:1"}})
	s, err := rawConn(t, b).NewStream(rawContext(t, 1, b), &grpc.StreamDesc{ClientStreams: true}, testMethod)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := (&raw{s, t}).end(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("the call ended with %v", err)
	}
}
