package report

import (
	"strings"
	"testing"
	"time"
)

// A system that falls behind a fixed rate has few, fast operations; that they are few must be seen.
func TestAnOpenLoopThatFallsBehindIsSeen(t *testing.T) {
	due := func(operations int64) Turn {
		turn := turnOf(1, operations, time.Millisecond)
		turn.Due = 60_000
		return turn
	}
	r := pair(Result{Turns: []Turn{due(60_000)}}, Result{Turns: []Turn{due(6_000)}})
	r.Scenarios[0].OpenLoop = true
	page, _ := document(t, r)
	for name, text := range map[string]string{"page": page, "Markdown": markdownOf(t, r)} {
		if !strings.Contains(text, "came % of due") || !strings.Contains(text, "10.0") {
			t.Errorf("the %s does not say that a tenth of what was due came", name)
		}
		if !strings.Contains(text, "fixed by the rate") {
			t.Errorf("the %s does not say how many came in a second, and that the rate fixes it", name)
		}
	}
}

// The events of one write come late together: ten writes to a thousand watchers are ten latencies.
func TestAPercentileNeedsIndependentLatencies(t *testing.T) {
	turn := turnOf(1, 10_000, time.Millisecond)
	turn.Latency.Curve = []Point{{50, 1}, {99, 2}, {99.9, 3}, {100, 4}}
	for independent, want := range map[int64]struct {
		known bool
		curve int // points of it
	}{0: {true, 4}, 10: {false, 2}, 100: {false, 3}, 999: {false, 3}, 1000: {true, 4}} {
		turn.Independent = independent
		r := pair(Result{}, Result{Turns: []Turn{turn}})
		if got := r.other(P999); got.Known() != want.known || !want.known && !strings.Contains(got.Missing, "fewer than 1,000") {
			t.Errorf("of %d independent latencies p99.9 is %+v", independent, got)
		}
		if got := r.Scenarios[0].Result("other").Curve(); len(got) != want.curve {
			t.Errorf("of %d independent latencies the curve is %v", independent, got)
		}
		if got := r.other(P99); !got.Known() {
			t.Errorf("of %d independent latencies p99 is %+v", independent, got)
		}
		if told := strings.Contains(markdownOf(t, r), "p99.9 of all ms"); told == want.known {
			t.Errorf("of %d independent latencies p99.9 of all of them is told: %v", independent, told)
		}
		page, _ := document(t, r)
		if strings.Contains(page, "<title>p99.9 fewer") {
			t.Errorf("of %d independent latencies p99.9 is drawn", independent)
		}
		if told := strings.Contains(markdownOf(t, r), "independent latencies"); told != (independent > 0) {
			t.Errorf("that %d latencies are independent is told: %v", independent, told)
		}
	}
}
