package bench

import (
	"testing"
	"time"

	"weir/loadtest/load"
	"weir/loadtest/target"
)

// clusterKinds are what is compared by default.
var clusterKinds = []target.Kind{target.Etcd37Of3, target.CoreOf3}

// A short run measures something of everything. How much is nobody's promise.
func TestEveryClusterIsMeasuredInEveryScenario(t *testing.T) {
	t.Parallel()
	kinds := append(clusterKinds[:2:2], target.ProxyCoreOf3)
	var scenarios []ClusterScenario
	for _, w := range ClusterWorkloads() {
		scenarios = append(scenarios, ClusterScenario{Workload: w, Clients: 5}, ClusterScenario{Workload: w, Clients: 1, LeaderOnly: true})
	}
	results, err := RunCluster(t.Context(), bin, ClusterOptions{
		Targets: kinds, Scenarios: scenarios, Connections: 2, Keys: 150, ValueSize: 10, Rounds: 2,
		WarmUp: 20 * time.Millisecond, Turn: 200 * time.Millisecond, Dir: t.TempDir(),
	}, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	if want := len(kinds) * len(scenarios); len(results) != want {
		t.Fatalf("%d results, want %d", len(results), want)
	}
	for i, r := range results {
		if r.Scenario != scenarios[i/len(kinds)] || r.Target != kinds[i%len(kinds)] {
			t.Errorf("result %d is of %s, %v", i, r.Target, r.Scenario)
		}
		if r.Turns() != 2 || len(r.Failed) > 0 {
			t.Errorf("%s, %v: %d turns, failed: %v", r.Target, r.Scenario, r.Turns(), r.Failed)
			continue
		}
		if n, cpu := r.Throughput(), r.CPU(); n.Min <= 0 || n.Max < n.Median || cpu.Min <= 0 {
			t.Errorf("%s, %v: %v operations/s, %v us each", r.Target, r.Scenario, n, cpu)
		}
		if r.Latency(50).Min <= 0 || r.Latency(99).Min < r.Latency(50).Min {
			t.Errorf("%s, %v: median %.3f ms", r.Target, r.Scenario, r.Latency(50).Min)
		}
		if n, perCPU, ok := r.Ratio(results[i-i%len(kinds)]); !ok || n.Min <= 0 || perCPU.Min <= 0 {
			t.Errorf("%s, %v: ratios %v and %v, %v", r.Target, r.Scenario, n, perCPU, ok)
		}
	}
}

func TestRecoveryOfEveryClusterIsMeasured(t *testing.T) {
	t.Parallel()
	results, err := RunRecovery(t.Context(), bin, RecoveryOptions{
		Targets: clusterKinds, Rounds: 2, Election: 300 * time.Millisecond, Dir: t.TempDir(),
	}, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != len(clusterKinds) {
		t.Fatalf("%d results, want %d", len(results), len(clusterKinds))
	}
	for i, r := range results {
		if r.Target != clusterKinds[i] {
			t.Errorf("result %d is of %s", i, r.Target)
		}
		if first, all, back := r.FirstWrite(), r.All(), r.Back(); first.Min <= 0 || all.Median < first.Median || back.Min <= 0 {
			t.Errorf("%s: first write after %v ms, all serve after %v ms, who was killed after %v ms", r.Target, first, all, back)
		}
	}
}

func TestRecoveryNeedsThreeMembers(t *testing.T) {
	t.Parallel()
	if _, err := RunRecovery(t.Context(), bin, RecoveryOptions{Targets: []target.Kind{target.Core}}, func(string) {}); err == nil {
		t.Error("no error")
	}
}

func TestStartOfEveryClusterIsMeasured(t *testing.T) {
	t.Parallel()
	kinds := append(clusterKinds[:2:2], target.Core)
	results, err := RunClusterStart(t.Context(), bin, ClusterStartOptions{
		Targets: kinds, Keys: 300, ValueSize: 10, Writes: 100, Rounds: 2, Dir: t.TempDir(),
	}, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != len(kinds) {
		t.Fatalf("%d results, want %d", len(results), len(kinds))
	}
	for i, r := range results {
		if r.Target != kinds[i] {
			t.Errorf("result %d is of %s", i, r.Target)
		}
		if first, all, one := r.First(), r.All(), r.One(); first.Min <= 0 || all.Median < first.Median || one.Min <= 0 {
			t.Errorf("%s: first read after %v s, of all after %v s, of one after %v s", r.Target, first, all, one)
		}
		if before, after := r.RSS(), r.RSSWritten(); before.Min <= 0 || after.Min <= 0 {
			t.Errorf("%s: %v MiB, then %v", r.Target, before, after)
		}
	}
}

func TestRatioIsToTheTurnOfTheSameRound(t *testing.T) {
	result := func(cpu map[int]float64) *ClusterResult {
		r := &ClusterResult{}
		for round := range 4 {
			if us, ok := cpu[round]; ok {
				latency := load.NewHistogram()
				load.Record(latency, time.Microsecond)
				r.turns = append(r.turns, &clusterTurn{round: round, took: time.Second, cpu: us, latency: latency})
			}
		}
		return r
	}
	base := result(map[int]float64{0: 5, 1: 100, 3: 5})
	_, got, ok := result(map[int]float64{0: 10, 2: 1, 3: 20}).Ratio(base)
	if want := (Spread{Median: 0.375, Min: 0.25, Max: 0.5}); !ok || got != want {
		t.Errorf("%v, %v, want %v", got, ok, want)
	}
	if _, _, ok := result(map[int]float64{2: 1}).Ratio(base); ok {
		t.Error("a ratio without a common round")
	}
}
