package report

import (
	"fmt"
	"math"
	"slices"
)

// Number is one Measure of one Result over all its turns, or why there is none. It is made by Report.Number.
//
// A ratio is made turn by turn: each turn's number divided by that of the base system's turn in the same round, and of these
// quotients the median is told. What else the machine did in that round happened to both, so the spread of the quotients is
// smaller than that of what is divided; the quotient of two medians would throw that away, and would have no spread.
type Number struct {
	// Median, Min and Max are in the unit of the measure, over so many turns.
	Median, Min, Max float64
	Turns            int
	// Missing says why there is no number, in words; "" if there is one.
	Missing string
}

// Known tells whether there is a number.
func (n Number) Known() bool { return n.Missing == "" }

// numberOf is the spread of values, in any order; of none, it is missing.
func numberOf(values []float64, missing string) Number {
	if len(values) == 0 {
		return Number{Missing: missing}
	}
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return Number{Median: (sorted[(n-1)/2] + sorted[n/2]) / 2, Min: sorted[0], Max: sorted[n-1], Turns: n}
}

// Number is what a system reached in a scenario of this report.
func (r *Report) Number(s *Scenario, system string, m Measure) Number {
	return numberOf(r.values(s, system, m))
}

// Base is the system that ratios are to, "" if none is.
func (r *Report) Base() string {
	for _, s := range r.Systems {
		if s.Base {
			return s.Name
		}
	}
	return ""
}

// system is the one with a name, nil if the report has none.
func (r *Report) system(name string) *System {
	for i := range r.Systems {
		if r.Systems[i].Name == name {
			return &r.Systems[i]
		}
	}
	return nil
}

// Rounds is in how many rounds there was a turn, failed or not.
func (r *Report) Rounds() int {
	rounds := map[int]bool{}
	for _, s := range r.Scenarios {
		for _, result := range s.Results {
			for _, t := range result.Turns {
				rounds[t.Round] = true
			}
			for _, f := range result.Failed {
				rounds[f.Round] = true
			}
		}
	}
	return len(rounds)
}

// byKind are all scenarios, those of one kind together where the first of them was run.
func (r *Report) byKind() []*Scenario {
	var kinds []string
	of := map[string][]*Scenario{}
	for i := range r.Scenarios {
		s := &r.Scenarios[i]
		if of[s.Kind] == nil {
			kinds = append(kinds, s.Kind)
		}
		of[s.Kind] = append(of[s.Kind], s)
	}
	var all []*Scenario
	for _, kind := range kinds {
		all = append(all, of[kind]...)
	}
	return all
}

// Result is what a system did, nil if the scenario was not run with it.
func (s *Scenario) Result(system string) *Result {
	for i := range s.Results {
		if s.Results[i].System == system {
			return &s.Results[i]
		}
	}
	return nil
}

// values are a measure's values of single turns, or why there are none.
func (r *Report) values(s *Scenario, system string, m Measure) (values []float64, missing string) {
	result := s.Result(system)
	if missing := result.missing(); missing != "" {
		return nil, missing
	}
	of := m.ratioOf()
	if s.OpenLoop && (m == Throughput || of == Throughput) {
		return nil, "requests are sent at a fixed rate, whatever the system could do"
	}
	if of != "" {
		return r.ratios(s, result, of)
	}
	for i := range result.Turns {
		value, why := result.Turns[i].value(m)
		if why != "" {
			missing = why
			continue
		}
		values = append(values, value)
	}
	return values, missing
}

// ratios are the quotients of turns and those of the base system in the same round, or why there are none.
func (r *Report) ratios(s *Scenario, result *Result, of Measure) (ratios []float64, missing string) {
	name := r.Base()
	if name == "" {
		return nil, "no system of this run is the one that ratios are to"
	}
	if system := r.system(result.System); of == Throughput && system != nil && system.External {
		return nil, "it ran already, with whatever else its machines do, so its throughput compares with no other"
	}
	base := s.Result(name)
	if why := base.missing(); why != "" {
		return nil, fmt.Sprintf("there is nothing to compare with, %s: %s", name, why)
	}
	missing = fmt.Sprintf("%s has no turn in the same round", name)
	for i := range result.Turns {
		turn := &result.Turns[i]
		at := slices.IndexFunc(base.Turns, func(t Turn) bool { return t.Round == turn.Round })
		if at < 0 {
			continue
		}
		value, why := turn.value(of)
		if why != "" {
			missing = why
			continue
		}
		baseValue, why := base.Turns[at].value(of)
		if why != "" {
			missing = fmt.Sprintf("of %s: %s", name, why)
			continue
		}
		if baseValue == 0 {
			missing = fmt.Sprintf("%s was measured with 0, which nothing can be divided by", name)
			continue
		}
		ratios = append(ratios, value/baseValue)
	}
	return ratios, missing
}

// missing is why a result has no turns, "" if it has.
func (r *Result) missing() string {
	switch {
	case r == nil:
		return "not run"
	case r.Unsupported != "":
		return "not supported: " + r.Unsupported
	case len(r.Turns) > 0:
		return ""
	case len(r.Failed) == 0:
		return "no turn was made"
	case len(r.Failed) == 1:
		return "the only turn failed: " + r.Failed[0].Reason
	}
	return fmt.Sprintf("all %d turns failed; the first: %s", len(r.Failed), r.Failed[0].Reason)
}

// ratioOf is the measure that is divided, "" if m is no ratio.
func (m Measure) ratioOf() Measure {
	switch m {
	case ThroughputRatio:
		return Throughput
	case CPURatio:
		return CPU
	case P99Ratio:
		return P99
	case MemoryRatio:
		return Memory
	}
	return ""
}

// higherIsBetter tells which way a measure is good.
func (m Measure) higherIsBetter() bool { return m == Throughput || m == ThroughputRatio }

// value is a measure that is no ratio, of one turn, or why it is not known.
func (t *Turn) value(m Measure) (value float64, missing string) {
	switch m {
	case Throughput:
		value = float64(t.Operations) / t.Took.Seconds()
	case CPU:
		for _, p := range t.Processes {
			value += cpuPerOperation(p, t)
		}
		if len(t.Processes) == 0 {
			return 0, "the processor time of its servers is not known"
		}
	case Memory:
		for _, p := range t.Processes {
			value += float64(p.RSS)
		}
		if len(t.Processes) == 0 {
			return 0, "the memory of its servers is not known"
		}
	case Upstream:
		for _, requests := range t.Upstream {
			value += requests
		}
		value /= float64(t.Operations)
		if t.Upstream == nil {
			return 0, "its store does not tell what it was asked"
		}
		if !t.hasProxy() {
			return 0, noProxy
		}
	case P50:
		value = t.Latency.P50
	case P99:
		value = t.Latency.P99
	case P999:
		value = t.Latency.P999
		if !t.tells(99.9) {
			return 0, "fewer than 1,000 of a turn's latencies are independent of each other, so one in a thousand is not known"
		}
	default:
		return 0, fmt.Sprintf("%q is not a measure of a turn", m)
	}
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return 0, "nothing was counted"
	}
	return value, ""
}

// noProxy is why a system without one has no requests upstream.
const noProxy = "nothing stands before its store, which is asked what the clients ask"

// hasProxy tells whether something stands before the store.
func (t *Turn) hasProxy() bool {
	return slices.ContainsFunc(t.Processes, func(p Process) bool { return p.Role == "proxy" })
}

// tells whether a turn has enough latencies that are independent of each other for a percentile: one at least beyond it. The slowest is
// always told.
func (t *Turn) tells(percentile float64) bool {
	const rounding = 1e-6
	return t.Independent == 0 || percentile >= 100 || float64(t.Independent)*(1-percentile/100) >= 1-rounding
}

// cpuPerOperation is in microseconds.
func cpuPerOperation(p Process, t *Turn) float64 {
	return float64(p.CPU.Nanoseconds()) / 1e3 / float64(t.Operations)
}

// Part is one process's part of a result.
type Part struct {
	Name, Role string
	CPU        Number // microseconds an operation
	Memory     Number // bytes of RSS
}

// Parts are the processes of a result, in the order of its turns. A process that only some turns have counts in these.
func (r *Result) Parts() []Part {
	if r == nil {
		return nil
	}
	var parts []Part
	cpu, memory := map[string][]float64{}, map[string][]float64{}
	for i := range r.Turns {
		for _, p := range r.Turns[i].Processes {
			if _, known := cpu[p.Name]; !known {
				parts = append(parts, Part{Name: p.Name, Role: p.Role})
			}
			cpu[p.Name] = append(cpu[p.Name], cpuPerOperation(p, &r.Turns[i]))
			memory[p.Name] = append(memory[p.Name], float64(p.RSS))
		}
	}
	for i := range parts {
		parts[i].CPU, parts[i].Memory = numberOf(cpu[parts[i].Name], ""), numberOf(memory[parts[i].Name], "")
	}
	return parts
}

// Curve is the latency of a result by percentile: at each percentile that all its turns have and can tell, the median of the turns.
func (r *Result) Curve() []Point {
	if r == nil || len(r.Turns) == 0 {
		return nil
	}
	at := map[float64][]float64{}
	for i := range r.Turns {
		for _, p := range r.Turns[i].Latency.Curve {
			if !r.Turns[i].tells(p.X) {
				continue
			}
			at[p.X] = append(at[p.X], p.Y)
		}
	}
	var curve []Point
	for _, p := range r.Turns[0].Latency.Curve {
		if values := at[p.X]; len(values) == len(r.Turns) {
			curve = append(curve, Point{X: p.X, Y: numberOf(values, "").Median})
		}
	}
	return curve
}
