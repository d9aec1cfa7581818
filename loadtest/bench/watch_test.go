package bench

import (
	"testing"
	"time"

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
