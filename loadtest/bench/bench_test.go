package bench

import (
	"testing"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// bin is set by TestMain.
var bin *proc.Bin

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// A short run measures something of everything. How much is nobody's promise.
func TestEveryTargetIsMeasuredUnderEveryWorkload(t *testing.T) {
	kinds := []target.Kind{target.Etcd37, target.Core, target.ProxyCore}
	results, err := Run(t.Context(), bin, Options{
		Targets: kinds, Workloads: Workloads(), Connections: 2, InFlight: 4, Keys: 150, ValueSize: 10, Rounds: 2,
		WarmUp: 20 * time.Millisecond, Turn: 200 * time.Millisecond,
	}, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	if want := len(kinds) * len(Workloads()); len(results) != want {
		t.Fatalf("%d results, want %d", len(results), want)
	}
	for i, r := range results {
		if r.Workload != Workloads()[i/len(kinds)] || r.Target != kinds[i%len(kinds)] {
			t.Errorf("result %d is of %s under %s", i, r.Target, r.Workload)
		}
		if r.Ops == 0 || r.CPU == 0 || r.Took < 400*time.Millisecond || r.Latency(50) == 0 || r.Latency(99) < r.Latency(50) {
			t.Errorf("%s under %s: %d operations, %v of processor time in %v, median %v", r.Target, r.Workload, r.Ops, r.CPU, r.Took, r.Latency(50))
		}
		if r.Slowest > r.Throughput() || r.Fastest < r.Throughput() {
			t.Errorf("%s under %s: throughput %.0f is not between %.0f and %.0f", r.Target, r.Workload, r.Throughput(), r.Slowest, r.Fastest)
		}
	}
}
