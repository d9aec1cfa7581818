package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// gather returns what m has, by name and the values of its labels: "grpc_server_started_total Range etcdserverpb.KV unary".
// The value of a histogram is how many it has counted. The order of labels is that of their names.
func gather(t *testing.T, m *Metrics) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(m)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

// expect compares what m has under the names, and returns all.
func expect(t *testing.T, m *Metrics, want map[string]float64) map[string]float64 {
	t.Helper()
	got := gather(t, m)
	for name, v := range want {
		if have, ok := got[name]; !ok || have != v {
			t.Errorf("%s: got %v (there: %v), want %v", name, have, ok, v)
		}
	}
	return got
}

func TestUnaryRPCsAreCountedByMethodAndCode(t *testing.T) {
	m := NewMetrics()
	kv := pb.NewKVClient(dial(t, start(t, NewBackendServer(Config{Metrics: m, Logger: quiet()}, oneKey(t)))))
	request := &pb.RangeRequest{Key: []byte("k")}
	resp, err := kv.Range(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Range(t.Context(), &pb.RangeRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Fatalf("got %v", err)
	}
	expect(t, m, map[string]float64{
		"grpc_server_started_total Range etcdserverpb.KV unary":                 2,
		"grpc_server_msg_received_total Range etcdserverpb.KV unary":            2,
		"grpc_server_msg_sent_total Range etcdserverpb.KV unary":                1,
		"grpc_server_handled_total OK Range etcdserverpb.KV unary":              1,
		"grpc_server_handled_total InvalidArgument Range etcdserverpb.KV unary": 1,
		"grpc_server_handled_total Aborted Range etcdserverpb.KV unary":         0,
		"etcd_network_client_grpc_received_bytes_total":                         float64(proto.Size(request)),
		"etcd_network_client_grpc_sent_bytes_total":                             float64(proto.Size(resp)),
		"etcd_server_client_requests_total unknown unary":                       2,
	})
}

func TestEveryMethodOfEtcdBeginsWithZero(t *testing.T) {
	for name, s := range map[string]func(Config) *Server{
		"backend": func(c Config) *Server { return NewBackendServer(c, oneKey(t)) },
		"forward": func(c Config) *Server { return NewForwardServer(c, &fakeUpstream{}, nil, nil) },
	} {
		m := NewMetrics()
		s(Config{Metrics: m, Logger: quiet()}).Stop(t.Context())
		got := expect(t, m, map[string]float64{
			"grpc_server_started_total Watch etcdserverpb.Watch bidi_stream":            0,
			"grpc_server_started_total Snapshot etcdserverpb.Maintenance server_stream": 0,
			"grpc_server_started_total Campaign v3electionpb.Election unary":            0,
			"grpc_server_handled_total DataLoss AuthStatus etcdserverpb.Auth unary":     0,
			"grpc_server_handled_total OK Observe v3electionpb.Election server_stream":  0,
			"grpc_server_msg_sent_total LeaseKeepAlive etcdserverpb.Lease bidi_stream":  0,
			"grpc_server_msg_received_total RangeStream etcdserverpb.KV server_stream":  0,
			"grpc_server_handled_total Unimplemented unknown unknown bidi_stream":       0,
			"etcd_server_health_success":                                                     0,
			"etcd_network_client_grpc_sent_bytes_total":                                      0,
			"grpc_server_handled_total Unauthenticated MemberAdd etcdserverpb.Cluster unary": 0,
		})
		for series, v := range got {
			if v != 0 {
				t.Errorf("%s: %s begins with %v", name, series, v)
			}
		}
	}
}

func TestMessagesOfStreamsAreCounted(t *testing.T) {
	m := NewMetrics()
	b := oneKey(t)
	b.renew = func(context.Context, int64) (int64, error) { return 10, nil }
	conn := dial(t, start(t, NewBackendServer(Config{Metrics: m, Logger: quiet()}, b)))
	ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataClientAPIVersionKey, "3.6")
	stream, err := pb.NewLeaseClient(conn).LeaseKeepAlive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("got %v, want the end", err)
	}
	expect(t, m, map[string]float64{
		"grpc_server_started_total LeaseKeepAlive etcdserverpb.Lease bidi_stream":      1,
		"grpc_server_msg_received_total LeaseKeepAlive etcdserverpb.Lease bidi_stream": 3,
		"grpc_server_msg_sent_total LeaseKeepAlive etcdserverpb.Lease bidi_stream":     3,
		"grpc_server_handled_total OK LeaseKeepAlive etcdserverpb.Lease bidi_stream":   1,
		"etcd_server_client_requests_total 3.6 stream":                                 1,
	})
}

func TestForwardedStreamsAreCounted(t *testing.T) {
	m := NewMetrics()
	f := streamHandler(func(s grpc.ServerStream) error {
		return s.SendMsg(wire.Raw{})
	})
	conn := dial(t, start(t, NewForwardServer(Config{Metrics: m, Logger: quiet()}, f, nil, nil)))
	stream, err := pb.NewMaintenanceClient(conn).Snapshot(t.Context(), &pb.SnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("got %v, want the end", err)
	}
	got := expect(t, m, map[string]float64{
		"grpc_server_started_total Snapshot etcdserverpb.Maintenance server_stream":    1,
		"grpc_server_msg_sent_total Snapshot etcdserverpb.Maintenance server_stream":   1,
		"grpc_server_handled_total OK Snapshot etcdserverpb.Maintenance server_stream": 1,
	})
	for name := range got {
		if strings.HasPrefix(name, "etcd_server_client_requests_total") {
			t.Errorf("%s is there, which is for members", name)
		}
	}
}

// TestClientsCannotMakeCounters: whoever makes up methods or versions must not fill the server's memory.
func TestClientsCannotMakeCounters(t *testing.T) {
	m := NewMetrics()
	conn := dial(t, start(t, NewBackendServer(Config{Metrics: m, Logger: quiet()}, oneKey(t))))
	before := len(gather(t, m))
	const calls = 50
	for i := range calls {
		err := conn.Invoke(t.Context(), fmt.Sprintf("/made.Up/Method%d", i), &pb.RangeRequest{}, &pb.RangeResponse{})
		if status.Code(err) != codes.Unimplemented {
			t.Fatalf("got %v", err)
		}
		ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataClientAPIVersionKey, fmt.Sprintf("made up %d", i))
		if _, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
	}
	for _, version := range []string{strings.Repeat("v", maxVersionLength+1), ""} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataClientAPIVersionKey, version)
		if _, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
	}
	m.versions.of("\xff").rpcs[unaryRPC].Add(1) // which no label can be
	m.versions.mu.Lock()
	if m.versions.of("one more") != &m.versions.unknown { // without the lock, which RPCs would contend for
		t.Error("one version more is counted by itself")
	}
	m.versions.mu.Unlock()
	got := expect(t, m, map[string]float64{
		"grpc_server_handled_total Unimplemented unknown unknown bidi_stream": calls,
		"etcd_server_client_requests_total made up 0 unary":                   1,
		"etcd_server_client_requests_total unknown unary":                     calls - maxVersions + 3,
	})
	if more := len(got) - before; more > maxVersions+1 {
		t.Errorf("%d series more", more)
	}
}

func TestOnlyExtensiveMetricsTellHowLongRPCsTook(t *testing.T) {
	const name = "grpc_server_handling_seconds Range etcdserverpb.KV unary"
	for _, m := range []*Metrics{NewMetrics(), NewExtensiveMetrics()} {
		kv := pb.NewKVClient(dial(t, start(t, NewBackendServer(Config{Metrics: m, Logger: quiet()}, oneKey(t)))))
		if _, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k")}); err != nil {
			t.Fatal(err)
		}
		if n, ok := gather(t, m)[name]; ok != (m.duration != nil) || ok && n != 1 {
			t.Errorf("got %v, %v", n, ok)
		}
	}
}

func TestChecksOfHealthAreCounted(t *testing.T) {
	m := NewMetrics()
	b := oneKey(t)
	address := start(t, NewBackendServer(Config{Metrics: m, Logger: quiet()}, b))
	defer http.DefaultClient.CloseIdleConnections()
	for _, path := range []string{"/health", "/livez", "/readyz"} {
		if code, body := get(t, http.DefaultClient, "http://"+address+path); code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, code, body)
		}
	}
	b.alarms = []*pb.AlarmMember{{MemberID: 2, Alarm: pb.AlarmType_CORRUPT}}
	for _, path := range []string{"/health", "/readyz"} {
		if code, body := get(t, http.DefaultClient, "http://"+address+path); code != http.StatusServiceUnavailable {
			t.Fatalf("%s: %d %s", path, code, body)
		}
	}
	expect(t, m, map[string]float64{
		"etcd_server_health_success":                                      1,
		"etcd_server_health_failures":                                     1,
		"etcd_server_healthcheck serializable_read livez":                 1,
		"etcd_server_healthcheck data_corruption readyz":                  0,
		"etcd_server_healthcheck linearizable_read readyz":                1,
		"etcd_server_healthchecks_total data_corruption success readyz":   1,
		"etcd_server_healthchecks_total data_corruption error readyz":     1,
		"etcd_server_healthchecks_total linearizable_read success readyz": 2,
	})
}

// brokenStream is a stream of which nothing comes but errors.
type brokenStream struct {
	grpc.ServerStream
	ctx context.Context
	err error
}

func (s brokenStream) Context() context.Context { return s.ctx }
func (s brokenStream) RecvMsg(any) error        { return s.err }
func (s brokenStream) SendMsg(any) error        { return s.err }

func TestStreamsThatBreakAreCountedUnlessTheClientEndedThem(t *testing.T) {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		name   string
		ctx    context.Context
		err    error
		counts float64
	}{
		{"broken", context.Background(), status.Error(codes.Unavailable, "transport is closing"), 1},
		{"not a status", context.Background(), errors.New("broken"), 1},
		{"ended", context.Background(), io.EOF, 0},
		{"cancelled", context.Background(), status.FromContextError(context.Canceled).Err(), 0},
		{"too late", context.Background(), status.FromContextError(context.DeadlineExceeded).Err(), 0},
		{"client is gone", context.Background(), status.Error(codes.Unavailable, "client disconnected"), 0},
		{"client reset it", context.Background(), status.Error(codes.Unavailable, "stream error: stream ID 21; CANCEL"), 0},
		{"context is over", gone, errors.New("broken"), 0},
	} {
		m := NewMetrics()
		s := &countedStream{brokenStream{ctx: c.ctx, err: c.err}, m.method("etcdserverpb.Watch", "Watch", true, true)}
		_ = s.RecvMsg(nil)
		_ = s.SendMsg(nil)
		got := gather(t, m)
		for _, action := range []string{"receive", "send"} {
			if n := got["etcd_network_server_stream_failures_total watch "+action]; n != c.counts {
				t.Errorf("%s: %s: got %v, want %v", c.name, action, n, c.counts)
			}
		}
	}
}

// handler is a unary method that does nothing.
func handler(m *Metrics, handle grpc.MethodHandler) grpc.MethodHandler {
	d := &grpc.ServiceDesc{ServiceName: "s", Methods: []grpc.MethodDesc{{MethodName: "m", Handler: handle}}}
	if m == nil {
		return d.Methods[0].Handler
	}
	return m.countedService(d, &m.versions).Methods[0].Handler
}

var answerNothing grpc.MethodHandler = func(any, context.Context, func(any) error, grpc.UnaryServerInterceptor) (any, error) {
	return nil, nil
}

func TestCountingAllocatesNothing(t *testing.T) {
	m := NewMetrics()
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(rpctypes.MetadataClientAPIVersionKey, "3.7"))
	codec := m.codec()
	var body any = &mem.BufferSlice{mem.SliceBuffer("body")}
	for name, f := range map[string]func(){
		"unary":   func() { _, _ = handler(m, answerNothing)(nil, ctx, nil, nil) },
		"marshal": func() { _, _ = codec.Marshal(body) },
	} {
		f()
		counted := testing.AllocsPerRun(100, f)
		if name == "unary" {
			counted -= testing.AllocsPerRun(100, func() { handler(m, answerNothing) }) // which makes the handler anew
		}
		if counted != 0 {
			t.Errorf("%s: %v allocations", name, counted)
		}
	}
}

// BenchmarkCounting is what one unary RPC pays for being counted, less its bytes.
func BenchmarkCounting(b *testing.B) {
	ctx := metadata.NewIncomingContext(b.Context(), metadata.Pairs(rpctypes.MetadataClientAPIVersionKey, "3.7"))
	for name, m := range map[string]*Metrics{"none": nil, "basic": NewMetrics(), "extensive": NewExtensiveMetrics()} {
		b.Run(name, func(b *testing.B) {
			h := handler(m, answerNothing)
			b.ReportAllocs()
			for b.Loop() {
				_, _ = h(nil, ctx, nil, nil)
			}
		})
	}
}
