package grpcapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestOnePortHasGRPCAndHTTP(t *testing.T) {
	b := oneKey(t)
	address := start(t, NewBackendServer(Config{Logger: quiet()}, b))

	for range 2 { // the second on the same connection, past what was sniffed
		resp, err := pb.NewKVClient(dial(t, address)).Range(t.Context(), &pb.RangeRequest{Key: []byte("k")})
		if err != nil || resp.Count != 1 {
			t.Fatalf("got %v, %v", resp, err)
		}
	}
	code, body := get(t, http.DefaultClient, "http://"+address+"/health")
	http.DefaultClient.CloseIdleConnections()
	if code != http.StatusOK || body != `{"health":"true","reason":""}` {
		t.Errorf("got %d %s", code, body)
	}
}

func get(t *testing.T, c *http.Client, url string) (code int, body string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestSilentAndStrangeConnectionsAreClosed(t *testing.T) {
	s := NewBackendServer(Config{Logger: quiet()}, oneKey(t))
	s.life.sniff = 50 * time.Millisecond
	address := start(t, s)
	for _, first := range []string{"", "P", "PRI * HTTP/2.0\r\n", "\x16\x03\x01\x00", "hello\r\n\r\n"} {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, first); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, c); n != 0 {
			t.Errorf("after %q: got %d bytes, then %v", first, n, err)
		}
	}
}

func TestSlowPrefaceIsTaken(t *testing.T) {
	address := start(t, NewBackendServer(Config{Logger: quiet()}, oneKey(t)))
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	for i := range preface {
		if _, err := io.WriteString(c, preface[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0}); err != nil { // an empty SETTINGS frame
		t.Fatal(err)
	}
	frame := make([]byte, 9)
	if _, err := io.ReadFull(c, frame); err != nil || frame[3] != 4 {
		t.Errorf("got frame %v, %v, want SETTINGS", frame, err)
	}
}

func TestStopDoesNotWaitForSilentConnections(t *testing.T) {
	s := NewBackendServer(Config{Logger: quiet()}, oneKey(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan struct{}, 1)
	served := make(chan error, 1)
	go func() { served <- s.Serve(noteAccept{l, accepted}, Port{}) }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-accepted
	s.Stop(context.Background()) // would take as long as sniffing may
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := s.Serve(l, Port{}); err != nil {
		t.Errorf("Serve after Stop: %v", err)
	}
}

// Each of these sends the beginning of what it speaks and then nothing.
func TestStopCutsConnectionsThatNeverBegan(t *testing.T) {
	cert, _ := selfSigned(t, "server")
	beginTLS := func(protos ...string) func(net.Conn) error {
		return func(c net.Conn) error {
			return tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: protos}).Handshake()
		}
	}
	for name, c := range map[string]struct {
		port  Port
		begin func(net.Conn) error
	}{
		"gRPC": {begin: func(c net.Conn) error {
			_, err := io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
			if err == nil {
				_, err = io.ReadFull(c, make([]byte, 9)) // the server's SETTINGS: gRPC has the connection
			}
			return err
		}},
		"HTTP":          {begin: func(c net.Conn) error { _, err := io.WriteString(c, "GET / HTTP/1.1\r\n"); return err }},
		"gRPC over TLS": {port: Port{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}, begin: beginTLS("h2")},
		"HTTP over TLS": {port: Port{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}, begin: beginTLS("http/1.1")},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewBackendServer(Config{Logger: quiet()}, oneKey(t))
			conn, err := net.Dial("tcp", startOn(t, s, c.port))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := c.begin(conn); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			s.Stop(ctx)
		})
	}
}

type noteAccept struct {
	net.Listener
	accepted chan<- struct{}
}

func (l noteAccept) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted <- struct{}{}
	}
	return c, err
}

func TestServeReturnsWhenItsListenerFails(t *testing.T) {
	s := NewBackendServer(Config{Logger: quiet()}, oneKey(t))
	defer s.Stop(context.Background())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := s.Serve(&failing{Listener: l, errs: []error{passing{}, passing{}, io.ErrUnexpectedEOF}}, Port{}); err == nil {
		t.Error("got no error")
	}
}

// failing fails its first calls of Accept.
type failing struct {
	net.Listener
	errs []error
}

func (l *failing) Accept() (net.Conn, error) {
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, err
}

// passing is what the kernel says when a process has too many files open.
type passing struct{}

func (passing) Error() string   { return "too many open files" }
func (passing) Temporary() bool { return true }

func TestStopLetsRequestsFinish(t *testing.T) {
	b := oneKey(t)
	answer := b.rangeKeys
	started, finish := make(chan struct{}), make(chan struct{})
	b.rangeKeys = func(ctx context.Context, r *wire.RangeRequest) (mem.BufferSlice, error) {
		close(started)
		<-finish
		return answer(ctx, r)
	}
	s := NewBackendServer(Config{Logger: quiet()}, b)
	kv := pb.NewKVClient(dial(t, start(t, s)))
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := kv.Range(context.Background(), &pb.RangeRequest{Key: []byte("k")}); err != nil {
			t.Errorf("request in progress: %v", err)
		}
	})
	<-started
	stopped := make(chan struct{})
	go func() {
		s.Stop(context.Background())
		close(stopped)
	}()
	<-s.life.undivided.Done()
	close(finish)
	wg.Wait()
	<-stopped
}

func TestStopCutsStreamsWhenItsTimeIsOver(t *testing.T) {
	renewing := make(chan struct{})
	s := NewBackendServer(Config{Logger: quiet()}, &fakeBackend{
		renew: func(ctx context.Context, _ int64) (int64, error) {
			close(renewing)
			<-ctx.Done()
			return 0, ctx.Err()
		},
	})
	stream, err := pb.NewLeaseClient(dial(t, start(t, s))).LeaseKeepAlive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: 1}); err != nil {
		t.Fatal(err)
	}
	<-renewing
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Stop(ctx)
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on")
	}
}

func TestMetadataIsCheckedAsByEtcd(t *testing.T) {
	b := oneKey(t)
	address := start(t, NewBackendServer(Config{Logger: quiet()}, b))
	kv := pb.NewKVClient(dial(t, address))
	cases := []struct {
		name   string
		md     []string
		leader uint64
		want   error
	}{
		{"nothing", nil, 0, nil},
		{"version", []string{"client-api-version", "3.7"}, 0, nil},
		{"leader wanted and there", []string{"hasleader", "true"}, 2, nil},
		{"leader wanted and not there", []string{"hasleader", "true"}, 0, rpctypes.ErrGRPCNoLeader},
		{"leader not wanted", []string{"hasleader", "false"}, 0, nil},
	}
	for _, c := range cases {
		b.status = &pb.StatusResponse{Leader: c.leader}
		ctx := metadata.AppendToOutgoingContext(t.Context(), c.md...)
		if _, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")}); errText(err) != errText(c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	// No Go client sends this.
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("client-api-version", "\xff"))
	if err := admit(ctx, b); err != rpctypes.ErrGRPCInvalidClientAPIVersion {
		t.Errorf("version that is not text: got %v", err)
	}
}

func TestRequestOverTheMessageLimitIsRefusedByGRPC(t *testing.T) {
	address := start(t, NewBackendServer(Config{MaxRequestBytes: 1000, Logger: quiet()}, oneKey(t)))
	kv := pb.NewKVClient(dial(t, address))
	put := func(n int) error {
		_, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k"), Value: make([]byte, n)})
		return err
	}
	if err := put(1000); errText(err) != errText(rpctypes.ErrGRPCRequestTooLarge) {
		t.Errorf("got %v", err)
	}
	limit := 1000 + 512<<10
	want := status.Errorf(codes.ResourceExhausted, "grpc: received message larger than max (%d vs. %d)", limit+7, limit)
	if err := put(limit); errText(err) != errText(want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestCompressedRequestsAreTaken(t *testing.T) {
	kv := pb.NewKVClient(dial(t, start(t, NewBackendServer(Config{Logger: quiet()}, oneKey(t)))))
	if _, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k")}, grpc.UseCompressor(gzip.Name)); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotThereIsUnimplemented(t *testing.T) {
	conn := dial(t, start(t, NewBackendServer(Config{Logger: quiet()}, oneKey(t))))
	for method, want := range map[string]string{
		"/etcdserverpb.KV/Frob": "unknown method Frob for service etcdserverpb.KV",
		"/a.B/C":                "unknown service a.B",
	} {
		err := conn.Invoke(t.Context(), method, &pb.RangeRequest{}, &pb.RangeResponse{})
		if s := status.Convert(err); s.Code() != codes.Unimplemented || s.Message() != want {
			t.Errorf("%s: got %v", method, err)
		}
	}
}

func TestStreamsOfABackendArePassedOn(t *testing.T) {
	b := oneKey(t)
	b.rangeStream = func(_ context.Context, r *wire.RangeRequest, send func(mem.BufferSlice) error) error {
		for i := range 3 {
			raw, _ := proto.Marshal(&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Count: int64(i)}})
			if err := send(mem.BufferSlice{mem.SliceBuffer(raw)}); err != nil {
				return err
			}
		}
		return fmt.Errorf("wrapped: %w", rpctypes.ErrCompacted)
	}
	b.snapshot = func(_ context.Context, send func(*pb.SnapshotResponse) error) error {
		return send(&pb.SnapshotResponse{RemainingBytes: 7})
	}
	conn := dial(t, start(t, NewBackendServer(Config{Logger: quiet()}, b)))

	stream, err := pb.NewKVClient(conn).RangeStream(t.Context(), &pb.RangeRequest{Key: []byte("k")})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if m, err := stream.Recv(); err != nil || m.RangeResponse.Count != int64(i) {
			t.Errorf("message %d: got %v, %v", i, m, err)
		}
	}
	if _, err := stream.Recv(); errText(err) != errText(rpctypes.ErrGRPCCompacted) {
		t.Errorf("got %v", err)
	}
	snapshot, err := pb.NewMaintenanceClient(conn).Snapshot(t.Context(), &pb.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := snapshot.Recv(); err != nil || m.RemainingBytes != 7 {
		t.Errorf("got %v, %v", m, err)
	}
	if _, err := snapshot.Recv(); err != io.EOF {
		t.Errorf("got %v", err)
	}
}

// An idle connection must not hold a read buffer, for which grpc needs what newReadyReader finds.
func TestSniffedConnectionsCanWaitWithoutABuffer(t *testing.T) {
	for name, wrap := range map[string]func(net.Listener) net.Listener{
		"accepted": func(l net.Listener) net.Listener { return l },
		"counted":  func(l net.Listener) net.Listener { return countedListener{l} },
	} {
		t.Run(name, func(t *testing.T) { testWaitsWithoutABuffer(t, wrap) })
	}
}

// countedListener wraps its connections, which is no reason to hold buffers for them.
type countedListener struct{ net.Listener }

type countedConn struct{ net.Conn }

func (c countedConn) Plain() net.Conn { return c.Conn }

func (l countedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countedConn{c}, err
}

func testWaitsWithoutABuffer(t *testing.T, wrap func(net.Listener) net.Listener) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = wrap(l)
	p := divide(l, Port{}, lifetimes{time.Minute, t.Context(), t.Context()}, quiet())
	var wg sync.WaitGroup
	wg.Go(func() { _ = p.run() })
	defer wg.Wait()
	defer l.Close()

	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	if _, err := io.WriteString(client, preface+"more\n"); err != nil {
		t.Fatal(err)
	}
	c, err := p.grpc[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ready, ok := c.(readyReader)
	if !ok {
		t.Skip("no descriptors to wait for on this system")
	}
	pool := &countingPool{BufferPool: mem.DefaultBufferPool()}
	read := func() string {
		b, n, err := ready.ReadOnReady(64, pool)
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Put(b)
		return string((*b)[:n])
	}
	if got := read(); got != preface {
		t.Errorf("got %q", got)
	}
	if got := read(); got != "more\n" {
		t.Errorf("got %q", got)
	}
	if err := c.SetReadDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if b, _, err := ready.ReadOnReady(64, pool); b != nil || err == nil {
		t.Errorf("past the deadline: got %v, %v", b, err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	client.Close()
	if b, _, err := ready.ReadOnReady(64, pool); b != nil || err != io.EOF {
		t.Errorf("after the end: got %v, %v", b, err)
	}
	if pool.out != 0 {
		t.Errorf("%d buffers were not given back", pool.out)
	}
}

type countingPool struct {
	mem.BufferPool
	out int
}

func (p *countingPool) Get(n int) *[]byte { p.out++; return p.BufferPool.Get(n) }
func (p *countingPool) Put(b *[]byte)     { p.out--; p.BufferPool.Put(b) }

func TestHTTPPipelineIsKept(t *testing.T) {
	b := oneKey(t)
	address := start(t, NewBackendServer(Config{Logger: quiet()}, b))
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	request := "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
	if _, err := io.WriteString(c, request+request); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	for range 2 {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); string(body) != "ok\n" || err != nil {
			t.Errorf("got %q, %v", body, err)
		}
		resp.Body.Close()
	}
}
