package bench

import (
	"testing"
	"time"

	"weir/loadtest/target"
)

// A short run measures something of every kind of target and of scenario. How much is nobody's promise.
func TestEveryTargetIsMeasuredInEveryLeaseScenario(t *testing.T) {
	targets := []target.Kind{target.Etcd37, target.Core, target.ProxyCore, target.ProxyEtcd37}
	scenarios := []LeaseScenario{
		{Name: "under load", Clients: 2, InFlight: 4, Leases: 16, TTL: 600},
		{Name: "by the clock", Clients: 2, Leases: 50, TTL: 30},
	}
	results, err := RunLeases(t.Context(), bin, LeaseOptions{
		Targets: targets, Scenarios: scenarios, Rounds: 1, WarmUp: 50 * time.Millisecond, Turn: 800 * time.Millisecond,
	}, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	if want := len(scenarios) * len(targets); len(results) != want {
		t.Fatalf("%d results, want %d", len(results), want)
	}
	for i, r := range results {
		if r.Scenario != scenarios[i/len(targets)] || r.Target != targets[i%len(targets)] {
			t.Errorf("result %d is of %s in %s", i, r.Target, r.Scenario.Name)
		}
		if r.Turns() != 1 || len(r.Failed) > 0 {
			t.Errorf("%s in %s: %d turns, failed: %v", r.Target, r.Scenario.Name, r.Turns(), r.Failed)
			continue
		}
		if n, cpu, store := r.Throughput(), r.CPU(), r.StoreCPU(); n.Min <= 0 || store.Min <= 0 || cpu.Min < store.Min {
			t.Errorf("%s in %s: %.0f pings/s, %.2f us for a ping, %.2f of them in the store", r.Target, r.Scenario.Name, n.Min, cpu.Min, store.Min)
		}
		if r.Latency(50).Min <= 0 || r.Latency(99).Min < r.Latency(50).Min {
			t.Errorf("%s in %s: median %.3f ms", r.Target, r.Scenario.Name, r.Latency(50).Min)
		}
		all, store, ok := r.Ratio(results[i-i%len(targets)])
		if !ok || store.Min <= 0 || all.Min < store.Min {
			t.Errorf("%s in %s: ratio %v, of the store %v, %v", r.Target, r.Scenario.Name, all, store, ok)
		}
	}
}
