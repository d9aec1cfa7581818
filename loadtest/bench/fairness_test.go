package bench

import (
	"os"
	"testing"
	"time"

	"weir/loadtest/target"
)

// A short run measures something of everything. How much is nobody's promise.
func TestEveryFloodIsMeasuredAtEveryBounds(t *testing.T) {
	o := FairnessOptions{
		Targets: []target.Kind{target.ProxyCore}, Bounds: AllBounds(), Crowds: Crowds(), Floods: Floods(),
		Slots: 20, Times: 10, Rate: 20, Rounds: 1, WarmUp: 300 * time.Millisecond, Turn: time.Second,
		FloodCommand: []string{os.Args[0], floodArg},
	}
	results, err := RunFairness(t.Context(), bin, o, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	if want := (len(o.Bounds)*len(o.Crowds) - 1) * len(o.Floods); len(results) != want { // limits are not for the busy crowd
		t.Fatalf("%d results, want %d", len(results), want)
	}
	for i, r := range results {
		if r.Flood.Name != o.Floods[i%len(o.Floods)].Name || r.Crowd != o.Crowds[i/len(o.Floods)%len(o.Crowds)] {
			t.Errorf("result %d is of %s and %s", i, r.Crowd.Name, r.Flood.Name)
		}
		answered, refused := r.FloodThroughput()
		if r.Throughput().Min <= 0 || r.Alone(99).Min <= 0 || r.Flooded(99).Min <= 0 || r.Ratio(99).Min <= 0 || answered.Min+refused.Min <= 0 {
			t.Errorf("%s, %s crowd, flood of %s: nothing was measured: %.0f/s, p99 %.3f ms alone and %.3f ms flooded, flood of %.0f/s, %.0f/s refused",
				r.Bounds.Name, r.Crowd.Name, r.Flood.Name, r.Throughput().Median, r.Alone(99).Median, r.Flooded(99).Median, answered.Median, refused.Median)
		}
	}
}
