package grpcapi

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// fakePinger is the upstream of keepalives: even leases are not there, and odd ones have a TTL of ten times their id.
type fakePinger struct {
	mu    sync.Mutex
	fails map[int64]error
	sent  atomic.Int64
}

// Open is part of coalesce.PingUpstream.
func (f *fakePinger) Open(ctx context.Context) (coalesce.PingStream, error) {
	return &fakePings{f, ctx, make(chan []int64, 1<<12)}, nil
}

// Remaining is part of coalesce.PingUpstream.
func (f *fakePinger) Remaining(context.Context, int64) (int64, wire.Header, error) {
	return 1, wire.Header{}, nil
}

func (f *fakePinger) fail(id int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails = map[int64]error{id: err}
}

type fakePings struct {
	*fakePinger
	ctx  context.Context
	sent chan []int64
}

func (s *fakePings) Ordered() bool { return false }

func (s *fakePings) Send(ids []int64) error {
	s.fakePinger.sent.Add(int64(len(ids)))
	s.sent <- slices.Clone(ids)
	return nil
}

func (s *fakePings) Recv() (pongs []coalesce.Pong, err error) {
	select {
	case ids := <-s.sent:
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, id := range ids {
			pongs = append(pongs, coalesce.Pong{ID: id, TTL: id % 2 * 10 * id, Header: pongHeader, Err: s.fails[id]})
		}
		return pongs, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

var pongHeader = wire.Header{ClusterID: 1, MemberID: 2, Revision: 3, RaftTerm: 4}

// fakeRoute sends the pings of all clients one way.
type fakeRoute struct {
	coalesce.PingRoute
	err  error
	done atomic.Int64
}

// Pings is part of Pings.
func (f *fakeRoute) Pings(context.Context) (coalesce.PingRoute, error) {
	r := f.PingRoute
	r.Done = func() { f.done.Add(1) }
	return r, f.err
}

// fakeRights are checked, but for lease 100 and those after it, which are known to be allowed.
type fakeRights func(ctx context.Context, id int64) error

func (f fakeRights) Allows(id int64) bool                      { return id >= 100 }
func (f fakeRights) Check(ctx context.Context, id int64) error { return f(ctx, id) }

// pingServer is a forwarding server, and a connection to it.
type pingServer struct {
	*testing.T
	pinger   *fakePinger
	route    *fakeRoute
	upstream *fakeUpstream
	conn     *grpc.ClientConn
}

func startPings(t *testing.T, sharer WatchSharer) *pingServer {
	t.Helper()
	s := newPingServer(t)
	s.conn = dial(t, start(t, NewForwardServer(Config{Logger: quiet(), Pings: s.route}, s.upstream, sharer, nil)))
	return s
}

func newPingServer(t *testing.T) *pingServer {
	s := &pingServer{T: t, pinger: &fakePinger{}, route: &fakeRoute{}, upstream: &fakeUpstream{}}
	s.route.Keepalives = coalesce.NewKeepalives(coalesce.KeepaliveConfig{Upstream: s.pinger})
	t.Cleanup(s.route.Keepalives.Close)
	return s
}

// pingClient is one client's stream in either protocol.
type pingClient struct {
	*testing.T
	grpc.ClientStream
}

func (s *pingServer) open(ctx context.Context, method string, opts ...grpc.CallOption) pingClient {
	s.Helper()
	c, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method,
		append(opts, grpc.ForceCodecV2(wire.Codec{}))...)
	if err != nil {
		s.Fatal(err)
	}
	return pingClient{s.T, c}
}

func (s *pingServer) openSingle() pingClient {
	return s.open(s.Context(), pb.Lease_LeaseKeepAlive_FullMethodName)
}

func (s *pingServer) openBatches() batchClient {
	return batchClient(s.open(s.Context(), wire.PingsMethod))
}

func (c pingClient) ping(ids ...int64) {
	c.Helper()
	for _, id := range ids {
		if err := c.SendMsg(wire.Raw(wire.AppendPing(nil, id))); err != nil {
			c.Fatal(err)
		}
	}
}

// expect receives a pong for each id, in any order.
func (c pingClient) expect(ids ...int64) {
	c.Helper()
	var got, want []wire.Pong
	for _, id := range ids {
		want = append(want, wire.Pong{ID: id, TTL: id % 2 * 10 * id})
		var raw wire.Raw
		if err := c.RecvMsg(&raw); err != nil {
			c.Fatal(err)
		}
		h, p, err := wire.UnmarshalPong(raw)
		if err != nil || h != pongHeader {
			c.Fatalf("got %x: header %+v, %v", raw, h, err)
		}
		got = append(got, p)
	}
	byID := func(a, b wire.Pong) int { return int(a.ID - b.ID) }
	slices.SortFunc(got, byID)
	slices.SortFunc(want, byID)
	if !slices.Equal(got, want) {
		c.Fatalf("got %v, want %v", got, want)
	}
}

func (c pingClient) expectEnd(want error) {
	c.Helper()
	if err := c.RecvMsg(new(wire.Raw)); errText(err) != errText(want) {
		c.Errorf("ended with %v, want %v", err, want)
	}
}

func TestPingsOfManyClientsGoOneWay(t *testing.T) {
	s := startPings(t, nil)
	var clients []pingClient
	for range 20 {
		clients = append(clients, s.openSingle())
	}
	for i, c := range clients {
		c.ping(int64(i), 100, 101, 101)
	}
	for i, c := range clients {
		c.expect(int64(i), 100, 101, 101)
	}
	for _, c := range clients {
		if err := c.CloseSend(); err != nil {
			t.Fatal(err)
		}
		c.expectEnd(io.EOF)
	}
	if n := s.route.done.Load(); n != 20 {
		t.Errorf("%d streams are done", n)
	}
	if stats := s.route.Keepalives.Stats(); stats.Pings != 80 || stats.Streams > 2 {
		t.Errorf("got %+v", stats)
	}
}

func TestPingsThroughNetHTTPAndCompressed(t *testing.T) {
	s := newPingServer(t)
	cert, ca := selfSigned(t, "server")
	server := NewForwardServer(Config{Logger: quiet(), Pings: s.route}, s.upstream, nil, nil)
	s.conn = dial(t, startOn(t, server, Port{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}}), grpc.WithTransportCredentials(
		credentials.NewTLS(&tls.Config{RootCAs: ca, NextProtos: []string{"h2", "http/1.1"}})))
	for _, opts := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} {
		c := s.open(t.Context(), pb.Lease_LeaseKeepAlive_FullMethodName, opts...)
		for id := range int64(200) {
			c.ping(id)
			c.expect(id)
		}
		if err := c.CloseSend(); err != nil {
			t.Fatal(err)
		}
		c.expectEnd(io.EOF)
	}
}

func TestClientThatTakesNoPongsHoldsUpNobodyElse(t *testing.T) {
	s := startPings(t, nil)
	const chunk = maxOpenPings / 16
	const pings = maxOpenPings + 2*chunk
	var want []int64
	for id := range int64(pings) {
		want = append(want, id+1000)
	}
	lazy := s.openSingle()
	others := uint64(0)
	for i := 0; i < maxOpenPings; i += chunk { // until it is not read from any more
		lazy.ping(want[i : i+chunk]...)
		for lazily := uint64(0); lazily < uint64(i+chunk); lazily = s.route.Keepalives.Stats().Pings - others {
			c := s.openSingle()
			c.ping(1, 2, 3)
			c.expect(1, 2, 3)
			others += 3
		}
	}
	sent := make(chan error, 1)
	go func() {
		for _, id := range want[maxOpenPings:] {
			if err := lazy.SendMsg(wire.Raw(wire.AppendPing(nil, id))); err != nil {
				sent <- err
				return
			}
		}
		sent <- lazy.CloseSend()
	}()
	lazy.expect(want...)
	lazy.expectEnd(io.EOF)
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestFailedPingEndsTheStream(t *testing.T) {
	s := startPings(t, nil)
	s.pinger.fail(5, rpctypes.ErrGRPCPermissionDenied)
	c, other := s.openSingle(), s.openSingle()
	c.ping(1)
	c.expect(1)
	c.ping(5)
	c.expectEnd(rpctypes.ErrGRPCPermissionDenied)
	other.ping(1)
	other.expect(1)
}

func TestClosedKeepalivesEndStreams(t *testing.T) {
	s := startPings(t, nil)
	c, b := s.openSingle(), s.openBatches()
	s.route.Keepalives.Close()
	c.ping(1)
	c.expectEnd(rpctypes.ErrGRPCStopped)
	b.ping(1)
	b.wantEnd(codes.Unavailable)
}

func TestPingWithoutTheRightIsRefused(t *testing.T) {
	s := startPings(t, nil)
	s.route.Rights = fakeRights(func(_ context.Context, id int64) error {
		if id == 7 {
			return rpctypes.ErrGRPCPermissionDenied
		}
		return nil
	})
	c := s.openSingle()
	c.ping(1)
	c.expect(1)
	c.ping(7)
	c.expectEnd(rpctypes.ErrGRPCPermissionDenied)
	b := s.openBatches()
	b.ping(7)
	if got := b.receive(); len(got.Failures) != 1 || got.Failures[0].ID != 7 || codes.Code(got.Failures[0].Code) != codes.PermissionDenied {
		t.Errorf("got %+v", got)
	}
	if n := s.pinger.sent.Load(); n != 1 {
		t.Errorf("%d pings were sent", n)
	}
}

func TestMalformedPingEndsTheStream(t *testing.T) {
	s := startPings(t, nil)
	for _, method := range []string{pb.Lease_LeaseKeepAlive_FullMethodName, wire.PingsMethod} {
		c := s.open(t.Context(), method)
		if err := c.SendMsg(wire.Raw{0x80}); err != nil {
			t.Fatal(err)
		}
		c.expectEnd(errUndecodable)
	}
	b := s.openBatches()
	b.ping(make([]int64, maxPingBatch+1)...)
	b.wantEnd(codes.InvalidArgument)
}

func TestBatchIsAnsweredInPongsAndFailures(t *testing.T) {
	s := startPings(t, nil)
	s.pinger.fail(5, rpctypes.ErrGRPCPermissionDenied)
	b := s.openBatches()
	if _, err := b.Header(); err != nil { // comes before the first pong
		t.Fatal(err)
	}
	b.ping(1, 5, 2, 3)
	if err := b.CloseSend(); err != nil {
		t.Fatal(err)
	}
	var pongs []wire.Pong
	var failures []wire.PingFailure
	for len(pongs)+len(failures) < 4 {
		got := b.receive()
		if len(got.Pongs) > 0 && got.Header != pongHeader {
			t.Errorf("header %+v", got.Header)
		}
		pongs, failures = append(pongs, got.Pongs...), append(failures, got.Failures...)
	}
	b.wantEnd(codes.OK)
	if !slices.Equal(pongs, []wire.Pong{{ID: 1, TTL: 10}, {ID: 2}, {ID: 3, TTL: 30}}) {
		t.Errorf("got %v", pongs)
	}
	want := wire.PingFailure{ID: 5, Text: "etcdserver: permission denied", Code: uint32(codes.PermissionDenied)}
	if !slices.Equal(failures, []wire.PingFailure{want}) {
		t.Errorf("got %v", failures)
	}
}

func TestHeaderOfABatchIsThatOfTheOldestPong(t *testing.T) {
	at := func(id, rev int64) coalesce.Pong {
		return coalesce.Pong{ID: id, TTL: 1, Header: wire.Header{Revision: rev}}
	}
	var b wire.PongBatch
	failed := coalesce.Pong{ID: 1, Err: errors.New("no")}
	if err := b.Unmarshal(batchedPings{}.encode(nil, []coalesce.Pong{failed, at(2, 9), at(3, 7), at(4, 8)})); err != nil || b.Header.Revision != 7 {
		t.Errorf("got %+v, %v", b, err)
	}
}

func TestStreamsWithoutKeepalivesAreForwarded(t *testing.T) {
	s := startPings(t, nil)
	s.route.Keepalives = nil
	for _, method := range []string{pb.Lease_LeaseKeepAlive_FullMethodName, wire.PingsMethod} {
		c := s.open(t.Context(), method)
		c.ping(9)
		var raw wire.Raw
		if err := c.RecvMsg(&raw); err != nil || string(raw) != string(wire.AppendPing(nil, 9)) || s.upstream.called != "stream "+method {
			t.Errorf("got %x, %v by %s", raw, err, s.upstream.called)
		}
		c.expectEnd(io.EOF)
	}
	if n := s.route.done.Load(); n != 2 {
		t.Errorf("%d streams are done", n)
	}
}

func TestPingsOfUnknownUpstreamFailAsThat(t *testing.T) {
	s := startPings(t, nil)
	s.route.err = rpctypes.ErrGRPCTimeout
	s.openSingle().expectEnd(rpctypes.ErrGRPCTimeout)
}

func TestPingsThatAskForALeader(t *testing.T) {
	ask := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)

	t.Run("are forwarded if it is not known here", func(t *testing.T) {
		s := startPings(t, nil)
		c := s.open(ask, pb.Lease_LeaseKeepAlive_FullMethodName)
		c.ping(9)
		if err := c.RecvMsg(new(wire.Raw)); err != nil || s.upstream.called == "" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("end with it", func(t *testing.T) {
		sharer := newFakeSharer(t)
		s := startPings(t, sharer)
		c := s.open(ask, pb.Lease_LeaseKeepAlive_FullMethodName)
		c.ping(1)
		c.expect(1)
		sharer.lose(rpctypes.ErrGRPCNoLeader)
		c.expectEnd(rpctypes.ErrGRPCNoLeader)
	})
	t.Run("fail while that is not known", func(t *testing.T) {
		s := startPings(t, undecided{newFakeSharer(t)})
		c := s.open(ask, pb.Lease_LeaseKeepAlive_FullMethodName)
		c.ping(1)
		c.expectEnd(rpctypes.ErrGRPCTimeout)
		if n := s.pinger.sent.Load(); n != 0 {
			t.Errorf("%d pings were sent", n)
		}
	})
	t.Run("are refused without", func(t *testing.T) {
		sharer := newFakeSharer(t)
		sharer.noLeader = true
		s := startPings(t, sharer)
		s.open(ask, pb.Lease_LeaseKeepAlive_FullMethodName).expectEnd(rpctypes.ErrGRPCNoLeader)
	})
}

// undecided does not find out whether there is a leader.
type undecided struct{ *fakeSharer }

func (undecided) Leader(ctx context.Context) (context.Context, error) {
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

func TestGateIsAskedAboutEachPing(t *testing.T) {
	s := newPingServer(t)
	g := newRecordingGate()
	g.rights = fakeRights(func(_ context.Context, id int64) error {
		g.tell("check %d", id)
		if id == 7 {
			return rpctypes.ErrGRPCPermissionDenied
		}
		return nil
	})
	s.conn = dial(t, start(t, NewForwardServer(Config{Gate: g, Logger: quiet(), Pings: s.route}, s.upstream, nil, nil)))
	method := pb.Lease_LeaseKeepAlive_FullMethodName
	c := s.open(t.Context(), method)
	c.ping(101, 1)
	c.expect(101, 1)
	c.ping(7)
	c.expectEnd(rpctypes.ErrGRPCPermissionDenied)
	g.expect(t, "enter "+method+` ""`, "check 1", "check 7", `leave "" PermissionDenied`)

	s.route.Keepalives = nil // it is forwarded
	c = s.open(t.Context(), method)
	c.ping(9)
	if err := c.RecvMsg(new(wire.Raw)); err != nil {
		t.Error(err)
	}
	c.expectEnd(io.EOF)
	g.expect(t, "enter "+method+` ""`, "message of 2", "sent 2", `leave "" OK`)
}

func TestPingsOfACancelledClientEnd(t *testing.T) {
	s := startPings(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	c := s.open(ctx, pb.Lease_LeaseKeepAlive_FullMethodName)
	c.ping(1)
	c.expect(1)
	cancel()
	if err := c.RecvMsg(new(wire.Raw)); status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
	for s.route.done.Load() == 0 {
		o := s.openSingle()
		o.ping(1)
		o.expect(1)
	}
}
