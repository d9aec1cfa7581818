package report

import (
	"strings"
	"testing"
	"time"
)

// turnOf is a turn of one second with one process.
func turnOf(round int, operations int64, cpu time.Duration) Turn {
	return Turn{Round: round, Took: time.Second, Operations: operations, Latency: Latency{P50: 1, P99: float64(round), P999: 9},
		Processes: []Process{{Name: "core-1", Role: "store", CPU: cpu, RSS: 10 * mib}}}
}

// pair is a report of a base and another system in one scenario.
func pair(base, other Result) *Report {
	base.System, other.System = "base", "other"
	return &Report{
		Systems:   []System{{Name: "base", Base: true}, {Name: "other"}},
		Scenarios: []Scenario{{Name: "put", Kind: "writes", Unit: "put", Results: []Result{base, other}}},
	}
}

func (r *Report) other(m Measure) Number { return r.Number(&r.Scenarios[0], "other", m) }

func TestARatioIsOfTurnsInTheSameRound(t *testing.T) {
	r := pair(
		Result{Turns: []Turn{turnOf(1, 100, time.Millisecond), turnOf(2, 400, time.Millisecond), turnOf(4, 1000, time.Millisecond)}},
		Result{Turns: []Turn{turnOf(1, 200, time.Millisecond), turnOf(2, 400, time.Millisecond), turnOf(3, 9999, time.Millisecond), turnOf(4, 3000, time.Millisecond)}},
	)
	if got, want := r.other(ThroughputRatio), (Number{Median: 2, Min: 1, Max: 3, Turns: 3}); got != want {
		t.Errorf("the ratio is %+v, want %+v", got, want)
	}
	if got, want := r.other(Throughput), (Number{Median: 1700, Min: 200, Max: 9999, Turns: 4}); got != want {
		t.Errorf("throughput is %+v, want %+v", got, want)
	}
	if got := r.Number(&r.Scenarios[0], "base", ThroughputRatio); got != (Number{Median: 1, Min: 1, Max: 1, Turns: 3}) {
		t.Errorf("the base's ratio to itself is %+v", got)
	}
}

func TestMeasuresAreInTheirUnits(t *testing.T) {
	turn := turnOf(1, 1000, 2*time.Millisecond)
	turn.Processes = append(turn.Processes, Process{Name: "proxy-1", Role: "proxy", CPU: 3 * time.Millisecond, RSS: 20 * mib})
	turn.Upstream = map[string]float64{"Range": 200, "Watch": 50}
	r := pair(Result{}, Result{Turns: []Turn{turn}})
	for m, want := range map[Measure]float64{Throughput: 1000, CPU: 5, P50: 1, P99: 1, P999: 9, Memory: 30 * mib, Upstream: .25} {
		if got := r.other(m); got.Median != want || !got.Known() {
			t.Errorf("%s is %+v, want %v", m, got, want)
		}
	}
	r.Scenarios[0].Result("other").Turns[0].Upstream = map[string]float64{} // all were answered from memory
	if got := r.other(Upstream); !got.Known() || got.Median != 0 {
		t.Errorf("no requests upstream are %+v", got)
	}
	parts := r.Scenarios[0].Result("other").Parts()
	if len(parts) != 2 || parts[0].CPU.Median != 2 || parts[1].Name != "proxy-1" || parts[1].CPU.Median != 3 || parts[1].Memory.Median != 20*mib {
		t.Errorf("the processes' parts are %+v", parts)
	}
}

func TestWhatIsMissingIsNeverANumberAndSaysWhy(t *testing.T) {
	turns := []Turn{turnOf(1, 100, time.Millisecond)}
	bare := turns[0]
	bare.Processes = nil
	idle := turnOf(1, 100, 0)
	alone := turns[0]
	alone.Upstream = map[string]float64{"Range": 100}
	for name, c := range map[string]struct {
		base, other Result
		measure     Measure
		want        string
	}{
		"a turn that failed":         {Result{}, Result{Failed: []Failure{{1, "it broke"}}}, P50, "the only turn failed: it broke"},
		"turns that failed":          {Result{}, Result{Failed: []Failure{{1, "it broke"}, {2, "again"}}}, CPU, "all 2 turns failed; the first: it broke"},
		"what a system cannot do":    {Result{}, Result{Unsupported: "no such RPC"}, P99, "not supported: no such RPC"},
		"no turn":                    {Result{}, Result{}, P99, "no turn was made"},
		"a ratio to what failed":     {Result{Failed: []Failure{{1, "it broke"}}}, Result{Turns: turns}, CPURatio, "nothing to compare with, base: the only turn failed"},
		"a ratio to another round":   {Result{Turns: []Turn{turnOf(2, 1, 1)}}, Result{Turns: turns}, CPURatio, "base has no turn in the same round"},
		"a ratio to zero":            {Result{Turns: []Turn{idle}}, Result{Turns: turns}, CPURatio, "measured with 0"},
		"processor time of others":   {Result{}, Result{Turns: []Turn{bare}}, CPU, "processor time of its servers is not known"},
		"memory of others":           {Result{}, Result{Turns: []Turn{bare}}, Memory, "memory of its servers is not known"},
		"a ratio to others'":         {Result{Turns: []Turn{bare}}, Result{Turns: turns}, MemoryRatio, "of base: the memory of its servers is not known"},
		"requests nobody counts":     {Result{}, Result{Turns: turns}, Upstream, "does not tell"},
		"requests of clients":        {Result{}, Result{Turns: []Turn{alone}}, Upstream, "nothing stands before its store"},
		"a measure there is not":     {Result{}, Result{Turns: turns}, "beauty", `"beauty" is not a measure`},
		"processor time for nothing": {Result{}, Result{Turns: []Turn{turnOf(1, 0, 5)}}, CPU, "nothing was counted"},
	} {
		if got := pair(c.base, c.other).other(c.measure); got.Known() || !strings.Contains(got.Missing, c.want) || got.String() != dash {
			t.Errorf("%s: %+v, want a dash because %q", name, got, c.want)
		}
	}

	r := pair(Result{Turns: turns}, Result{Turns: turns})
	if got := r.Number(&r.Scenarios[0], "third", CPU); got.Missing != "not run" {
		t.Errorf("a system that the scenario does not have: %+v", got)
	}
	r.Scenarios[0].OpenLoop = true
	for _, m := range []Measure{Throughput, ThroughputRatio} {
		if got := r.other(m); !strings.Contains(got.Missing, "fixed rate") {
			t.Errorf("%s of an open loop: %+v", m, got)
		}
	}
	r.Systems[0].Base = false
	if got := r.other(CPURatio); !strings.Contains(got.Missing, "no system of this run") {
		t.Errorf("a ratio without a base: %+v", got)
	}
}

func TestAnAimIsDecidedWhenMoreThanThreeQuartersOfTheTurnsAgree(t *testing.T) {
	for _, c := range []struct {
		operations []int64
		aim        Aim
		want       Verdict
		reason     string
		why        string
	}{
		{[]int64{100}, Aim{Bound: 100}, Met, "", ""},
		{[]int64{100}, Aim{Bound: 100, AtLeast: true}, Met, "", ""},
		{[]int64{90, 95, 99}, Aim{Bound: 100, Why: "w"}, Met, "", ""},
		{[]int64{90, 95, 99}, Aim{Bound: 100, AtLeast: true, Why: "the disk"}, Missed, "", "the disk"},
		{[]int64{90, 95, 101}, Aim{Bound: 100, Why: "the disk"}, Undecided, "2 of 3 turns meet it", "the disk"},
		{[]int64{90, 102, 103}, Aim{Bound: 100}, Undecided, "1 of 3 turns meet it", ""},
		{[]int64{90, 91, 92, 110}, Aim{Bound: 100}, Undecided, "3 of 4 turns meet it", ""},
		{[]int64{90, 91, 92, 93, 110}, Aim{Bound: 100}, Met, "", ""},
		{nil, Aim{Bound: 100, Why: "w"}, Undecided, "no turn was made", ""},
	} {
		var result Result
		for i, n := range c.operations {
			result.Turns = append(result.Turns, turnOf(i+1, n, 1))
		}
		r := pair(Result{}, result)
		c.aim.System, c.aim.Measure = "other", Throughput
		r.Scenarios[0].Aims = []Aim{c.aim}
		if got := r.Outcomes()[0]; got.Verdict != c.want || got.Reason != c.reason || got.Why != c.why {
			t.Errorf("turns of %v and an aim %s: %s, because %q, %q; want %s, %q, %q",
				c.operations, c.aim.bound(), got.Verdict, got.Reason, got.Why, c.want, c.reason, c.why)
		}
	}
}

func TestACurveIsTheMedianOfItsTurns(t *testing.T) {
	turn := func(points ...Point) Turn { return Turn{Latency: Latency{Curve: points}} }
	r := Result{Turns: []Turn{turn(Point{50, 1}, Point{90, 5}, Point{99, 7}), turn(Point{50, 3}, Point{99, 9}), turn(Point{50, 2}, Point{99, 8})}}
	if got := r.Curve(); len(got) != 2 || got[0] != (Point{50, 2}) || got[1] != (Point{99, 8}) {
		t.Errorf("the curve is %v", got)
	}
}

func TestScenariosOfAKindStandTogether(t *testing.T) {
	r := &Report{Scenarios: []Scenario{{Name: "put", Kind: "writes"}, {Name: "get", Kind: "reads"}, {Name: "put-1MiB", Kind: "writes"}}}
	var names []string
	for _, s := range r.byKind() {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != "put put-1MiB get" {
		t.Errorf("the order is %s", got)
	}
}

func TestARunThatProvesLittleSaysSo(t *testing.T) {
	r := pair(Result{}, Result{Turns: []Turn{turnOf(1, 1, 1)}})
	r.Caveats = []string{"All on one machine."}
	r.Machine = Machine{Cores: 2, Load: 5}
	got := strings.Join(r.caveats(), "\n")
	for _, want := range []string{"All on one machine.", "one round only", "a load of 5.00 on 2 cores"} {
		if !strings.Contains(got, want) {
			t.Errorf("the caveats lack %q: %s", want, got)
		}
	}
	r.Machine.Load, r.Scenarios[0].Results[1].Turns = .3, append(r.Scenarios[0].Results[1].Turns, turnOf(2, 1, 1))
	if got := r.caveats(); len(got) != 1 {
		t.Errorf("the caveats of two rounds on an idle machine are %q", got)
	}
}
