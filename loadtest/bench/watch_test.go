package bench

import (
	"net"
	"slices"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/target"
)

// A short run measures something of every kind of target and of scenario. How much is nobody's promise.
func TestEveryTargetIsMeasuredInEveryScenario(t *testing.T) {
	kinds := []target.Kind{target.Etcd37, target.GRPCProxyEtcd37, target.Core, target.ProxyEtcd37}
	scenarios, err := FindScenarios([]string{"prefix-10k-tls", "keys-10k", "streams-10k"})
	if err != nil {
		t.Fatal(err)
	}
	want := len(scenarios)*len(kinds) - 1 // the core has no TLS
	for i := range scenarios {
		scenarios[i].Watchers, scenarios[i].Puts, scenarios[i].Rate = 40, min(scenarios[i].Puts, 20), 100
	}
	results, err := RunWatches(t.Context(), bin, WatchOptions{
		Targets: kinds, Scenarios: scenarios, Connections: 4, Rounds: 1, Turn: 100 * time.Millisecond,
	}, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != want {
		t.Fatalf("%d results, want %d", len(results), want)
	}
	for _, r := range results {
		if r.Turns() != 1 || len(r.Failed) > 0 {
			t.Errorf("%s in %s: %d turns, failed: %v", r.Target, r.Scenario.Name, r.Turns(), r.Failed)
			continue
		}
		if cpu, latency := r.CPU(), r.Latency(50); cpu.Min <= 0 || latency.Min <= 0 || r.Latency(99).Median < latency.Median {
			t.Errorf("%s in %s: %.2f us for an event, median %.3f ms", r.Target, r.Scenario.Name, cpu.Median, latency.Median)
		}
		proxy, isProxy := r.ProxyCPU()
		if isProxy != r.HasProxy() || isProxy && (proxy.Median <= 0 || proxy.Median >= r.CPU().Median) {
			t.Errorf("%s in %s: %.2f us for an event, the proxy's part is %.2f", r.Target, r.Scenario.Name, r.CPU().Median, proxy.Median)
		}
		if without, with := r.StoreCPU(); without.Min <= 0 || with.Min <= 0 {
			t.Errorf("%s in %s: the store took %v for a write without watchers, and %v with them", r.Target, r.Scenario.Name, without, with)
		}
		if n, known := r.UpstreamWatchers(); known && n.Min < 1 {
			t.Errorf("%s in %s: %v watchers upstream", r.Target, r.Scenario.Name, n)
		}
	}
}

func TestASpreadHasTheMedianOfItsTurns(t *testing.T) {
	r := WatchResult{}
	for _, cpu := range []float64{9, 1, 5, 3} {
		r.turns = append(r.turns, &watchTurn{cpu: []float64{cpu, cpu}, idle: []float64{1, 1}, idleShare: 0.5, events: 2})
	}
	if got, want := r.CPU(), (Spread{Median: 4, Min: 1, Max: 9}); got != want {
		t.Errorf("%v, want %v", got, want)
	}
	if got, want := r.AddedCPU(), (Spread{Median: 3.5, Min: 0.5, Max: 8.5}); got != want {
		t.Errorf("without the writes %v, want %v", got, want)
	}
}

func TestAnEventTooManyIsAnError(t *testing.T) {
	l := &watchLoad{epoch: time.Now().Add(-time.Second)}
	event := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("k"), Value: make([]byte, stampSize)}}
	m, err := proto.Marshal(&etcdserverpb.WatchResponse{Header: &etcdserverpb.ResponseHeader{Revision: 2}, WatchId: 3,
		Events: []*mvccpb.Event{event, event}})
	if err != nil {
		t.Fatal(err)
	}
	latency := newHistogram()
	done := l.events.expect(2)
	if err := l.receive(m, latency); err != nil {
		t.Error(err)
	}
	<-done
	if latency.TotalCount() != 2 || latency.Min() < time.Second.Microseconds()/2 {
		t.Errorf("%d latencies of %d us or more, want 2 of a second", latency.TotalCount(), latency.Min())
	}
	if err := l.receive(m, latency); err == nil {
		t.Error("two more events are no error")
	}
}

func TestACanceledWatchIsAnError(t *testing.T) {
	m, err := proto.Marshal(&etcdserverpb.WatchResponse{WatchId: 3, Canceled: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&watchLoad{}).receive(m, (*hdrhistogram.Histogram)(nil)); err == nil {
		t.Error("no error")
	}
}

// bigWatch answers each request with its key, many times over.
type bigWatch struct {
	etcdserverpb.UnimplementedWatchServer
	sizes []int
}

func (b bigWatch) Watch(s etcdserverpb.Watch_WatchServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return nil
		}
		for _, n := range b.sizes {
			m := &etcdserverpb.WatchResponse{CancelReason: string(slices.Repeat(r.GetCreateRequest().Key, n))}
			if err := s.Send(m); err != nil {
				return nil
			}
		}
	}
}

// sizesByKey is a handler of what bigWatch answers.
type sizesByKey struct {
	sizes     map[byte][]int
	got, want int
	whole     chan struct{} // closed when all came
}

func (s *sizesByKey) message(_ uint32, m []byte) error {
	var r etcdserverpb.WatchResponse
	if err := proto.Unmarshal(m, &r); err != nil {
		return err
	}
	if len(r.CancelReason) > 0 {
		key := r.CancelReason[0]
		s.sizes[key] = append(s.sizes[key], len(r.CancelReason))
	}
	if s.got++; s.got == s.want {
		close(s.whole)
	}
	return nil
}

func (s *sizesByKey) end(_ uint32, err error) error { return err }

// The sizes are more than a frame, and together more than all windows.
func TestMessagesArriveWholeWhateverTheirSize(t *testing.T) {
	sizes := []int{0, 1, 100, 16 << 10, 16<<10 - grpcPrefix, streamWindow - 1, 1, 3 * streamWindow, connWindow, 2}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	etcdserverpb.RegisterWatchServer(server, bigWatch{sizes: sizes})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()

	got := &sizesByKey{sizes: map[byte][]int{}, whole: make(chan struct{}), want: 3 * len(sizes)}
	ended := make(chan error, 1)
	conn, err := dial(t.Context(), listener.Addr().String(), nil, "/etcdserverpb.Watch/Watch", got)
	if err != nil {
		t.Fatal(err)
	}
	go func() { ended <- conn.read(func() {}) }()
	for _, key := range []string{"a", "b", "c"} {
		r, err := proto.Marshal(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
			CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte(key)}}})
		if err != nil {
			t.Fatal(err)
		}
		rpc, err := conn.open()
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.send(rpc, r); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-got.whole:
	case err := <-ended:
		t.Fatalf("it ended before all came: %v", err)
	}
	if err := conn.close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("no error from a closed connection")
	}
	for _, key := range []byte("abc") {
		if !slices.Equal(got.sizes[key], sizes[1:]) {
			t.Errorf("for %q came %d, want %d", key, got.sizes[key], sizes[1:])
		}
	}
}
