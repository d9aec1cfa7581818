package bench

import (
	"errors"
	"io"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/target"
)

// A short run measures something of every kind of target and of scenario. How much is nobody's promise.
func TestEveryTargetIsMeasuredInEveryReadScenario(t *testing.T) {
	targets, err := FindReadTargets([]string{string(target.Etcd37), string(target.GRPCProxyEtcd37), string(target.Core), string(target.ProxyEtcd37)})
	if err != nil {
		t.Fatal(err)
	}
	scenarios, err := FindReadScenarios([]string{"get-serializable", "list-linearizable-writes", OneLinearizable})
	if err != nil {
		t.Fatal(err)
	}
	results, err := RunReads(t.Context(), bin, ReadOptions{
		Targets: targets, Scenarios: scenarios, Rounds: 2, WarmUp: 50 * time.Millisecond, Turn: 100 * time.Millisecond,
	}, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	if want := len(scenarios) * len(targets); len(results) != want {
		t.Fatalf("%d results, want %d", len(results), want)
	}
	for i, r := range results {
		if r.Scenario != scenarios[i/len(targets)] || r.Target.Name != targets[i%len(targets)].Name {
			t.Errorf("result %d is of %s in %s", i, r.Target.Name, r.Scenario.Name)
		}
		if r.Turns() != 2 || len(r.Failed) > 0 {
			t.Errorf("%s in %s: %d turns, failed: %v", r.Target.Name, r.Scenario.Name, r.Turns(), r.Failed)
			continue
		}
		if reads, cpu, latency := r.Throughput(), r.CPU(), r.Latency(50); reads.Min <= 0 || cpu.Min <= 0 || latency.Min <= 0 || r.Latency(99).Median < latency.Median {
			t.Errorf("%s in %s: %.0f reads/s, %.2f us for a read, median %.3f ms", r.Target.Name, r.Scenario.Name, reads.Median, cpu.Median, latency.Median)
		}
		if ratio, ok := r.Ratio(results[i-i%len(targets)]); !ok || ratio.Min <= 0 {
			t.Errorf("%s in %s: ratio %v, %v", r.Target.Name, r.Scenario.Name, ratio, ok)
		}
		proxy, isProxy := r.ProxyCPU()
		if wantProxy := i%len(targets)%2 == 1; isProxy != wantProxy || isProxy && (proxy.Median <= 0 || proxy.Median > r.CPU().Max) {
			t.Errorf("%s in %s: %.2f us for a read, the proxy's part is %.2f", r.Target.Name, r.Scenario.Name, r.CPU().Median, proxy.Median)
		}
		perRead, known := r.UpstreamPerRead()
		if known != (r.Target.Kind != target.Core) {
			t.Errorf("%s in %s: requests upstream known: %v", r.Target.Name, r.Scenario.Name, known)
		}
		if r.Target.Kind == target.Etcd37 && (perRead != Spread{1, 1, 1}) {
			t.Errorf("%s in %s was sent %v requests for each read", r.Target.Name, r.Scenario.Name, perRead)
		}
		hits, known := r.HitRatio()
		if known != isProxy || known && (hits.Min < 0 || hits.Max > 1) {
			t.Errorf("%s in %s: %v of the reads from memory, known: %v", r.Target.Name, r.Scenario.Name, hits, known)
		}
	}
}

func TestMemoryOfAProxyIsMeasured(t *testing.T) {
	o := MemoryOptions{Keys: 20_000, Reads: 1000}
	r, err := RunReadMemory(t.Context(), bin, o, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	if r.Keys != o.Keys || r.Bytes != int64(o.Keys)*(15+readValueSize) || r.Reads != o.Reads || len(r.RSSDuring) != MemorySamples {
		t.Errorf("%+v", r)
	}
	if r.Heap <= 0 || r.LoadTook <= 0 || r.ReadsTook <= 0 || r.HitRatio <= 0 || r.HitRatio > 1 {
		t.Errorf("%+v", r)
	}
}

func TestRatioIsToTheTurnOfTheSameRound(t *testing.T) {
	result := func(cpu map[int]float64) *ReadResult {
		r := &ReadResult{}
		for round := range 4 {
			if us, ok := cpu[round]; ok {
				latency := newHistogram()
				if err := latency.RecordValue(1); err != nil {
					t.Fatal(err)
				}
				r.turns = append(r.turns, &readTurn{round: round, cpu: []float64{us / 2, us / 2}, latency: latency})
			}
		}
		return r
	}
	base := result(map[int]float64{0: 10, 1: 100, 3: 20})
	got, ok := result(map[int]float64{0: 5, 2: 1, 3: 5}).Ratio(base)
	if want := (Spread{Median: 0.375, Min: 0.25, Max: 0.5}); !ok || got != want {
		t.Errorf("%v, %v, want %v", got, ok, want)
	}
	if _, ok := result(map[int]float64{2: 1}).Ratio(base); ok {
		t.Error("a ratio without a common round")
	}
}

func TestAWrongAnswerIsAnError(t *testing.T) {
	kv := &mvccpb.KeyValue{Key: []byte("k"), Value: []byte("v"), ModRevision: 3}
	for _, test := range []struct {
		name   string
		answer *pb.RangeResponse
		wrong  bool
	}{
		{"right", &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 7}, Kvs: []*mvccpb.KeyValue{kv, kv}, Count: 2}, false},
		{"a key is missing", &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 7}, Kvs: []*mvccpb.KeyValue{kv}, Count: 2}, true},
		{"older than an acknowledged write", &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 6}, Kvs: []*mvccpb.KeyValue{kv, kv}, Count: 2}, true},
	} {
		m, err := proto.Marshal(test.answer)
		if err != nil {
			t.Fatal(err)
		}
		r := &reader{calls: map[uint32]*call{5: {keys: 2, revision: 7}}}
		if err := r.Message(5, m); (err != nil) != test.wrong {
			t.Errorf("%s: %v", test.name, err)
		}
		if err := r.Message(6, m); err == nil {
			t.Errorf("%s: an answer to nothing is no error", test.name)
		}
	}
}

func TestAnRPCWithoutAnAnswerIsAnError(t *testing.T) {
	r := &reader{calls: map[uint32]*call{5: {keys: 2}}}
	if err := r.End(5, nil); err == nil {
		t.Error("success without an answer is no error")
	}
	failure := errors.New("no")
	if err := r.End(5, failure); !errors.Is(err, failure) {
		t.Errorf("a failure gives %v", err)
	}
}

func TestNoTwoOfManyReadsAreTheSame(t *testing.T) {
	d := &distinctRequests{keys: 30, end: 1000}
	seen := map[string]bool{}
	for range d.end {
		request, keys, err := d.next()
		if err != nil {
			t.Fatal(err)
		}
		if seen[string(request)] {
			t.Fatalf("%q comes twice", request)
		}
		seen[string(request)] = true
		var r pb.RangeRequest
		if err := proto.Unmarshal(request, &r); err != nil {
			t.Fatal(err)
		}
		if len(r.RangeEnd) > 0 != (keys > 0) || keys > listed {
			t.Errorf("%v is to have %d keys", &r, keys)
		}
	}
	if _, _, err := d.next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}
}
