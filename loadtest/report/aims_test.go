package report

import (
	"strings"
	"testing"
	"time"
)

// The turns that did not fail are no fair sample: what kept the others from ending may be what the aim is about.
func TestAnAimIsUndecidedIfAnyOfItsTurnsFailed(t *testing.T) {
	fast := []Turn{turnOf(1, 100, time.Millisecond), turnOf(2, 100, time.Millisecond), turnOf(3, 100, time.Millisecond)}
	slow := []Turn{turnOf(1, 10, time.Millisecond), turnOf(2, 10, time.Millisecond), turnOf(3, 10, time.Millisecond)}
	crashed := []Failure{{2, "crashed"}, {3, "crashed"}}
	for name, c := range map[string]struct {
		base, other Result
		measure     Measure
		want        Verdict
		reason      string
	}{
		"none failed":              {Result{Turns: slow}, Result{Turns: fast}, ThroughputRatio, Met, ""},
		"two of three":             {Result{Turns: slow}, Result{Turns: fast[:1], Failed: crashed}, ThroughputRatio, Undecided, "2 of 3 turns failed: crashed"},
		"two of three would miss":  {Result{Turns: fast}, Result{Turns: slow[:1], Failed: crashed}, ThroughputRatio, Undecided, "2 of 3 turns failed: crashed"},
		"the base's":               {Result{Turns: slow[:1], Failed: crashed}, Result{Turns: fast}, ThroughputRatio, Undecided, "of base: 2 of 3 turns failed: crashed"},
		"the base's, and no ratio": {Result{Turns: slow[:1], Failed: crashed}, Result{Turns: fast}, Throughput, Met, ""},
		"all":                      {Result{Turns: slow}, Result{Failed: crashed}, ThroughputRatio, Undecided, "all 2 turns failed; the first: crashed"},
	} {
		r := pair(c.base, c.other)
		r.Scenarios[0].Aims = []Aim{{System: "other", Measure: c.measure, AtLeast: true, Bound: 1.5}}
		if got := r.Outcomes()[0]; got.Verdict != c.want || got.Reason != c.reason {
			t.Errorf("%s: the aim is %s, because %q; want %s, %q", name, got.Verdict, got.Reason, c.want, c.reason)
		}
	}
}

func TestSystemsThatAreNotInTheRunHaveNoAims(t *testing.T) {
	r := example(t)
	for i := range r.Scenarios {
		r.Scenarios[i].Aims = append(r.Scenarios[i].Aims, Aim{System: "absent", Measure: CPURatio, Bound: 1}, Aim{System: "absent", Measure: Throughput, Bound: 1e9})
	}
	for _, o := range r.Outcomes() {
		if o.Aim.System == "absent" {
			t.Errorf("%s has an aim of a system that is not there: %s", o.Scenario.Name, o.Verdict)
		}
	}
	page, _ := document(t, r)
	var b strings.Builder
	if err := WriteMarkdown(&b, r); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(page, "absent") || strings.Contains(b.String(), "absent") {
		t.Error("the report names a system that is not there")
	}
}
