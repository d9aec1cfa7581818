package report

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// grid is the numbers of one scenario, a row for each system. Both forms of a report are made of it, so that they say the same;
// Markdown, which has one table for each scenario, leaves out what it has no room for.
type grid struct {
	columns []column
	rows    []row
}

// column is one number of all systems.
type column struct {
	name  string
	unit  string // "" if it has none, or the name has it
	help  string // what it is, in words
	group group
	// wide columns are for the page only.
	wide bool
}

// head is the column's name with its unit.
func (c column) head() string {
	if c.unit == "" {
		return c.name
	}
	return c.name + " " + c.unit
}

// group is which columns stand together where not all have room.
type group int

const (
	work    group = iota // what was done, and what it cost the servers
	latency              // how long the clients waited, and memory
	own                  // numbers that only this scenario has
	methods              // what the store was asked
)

// row is one system in a scenario.
type row struct {
	system string
	result *Result  // nil if it was not run
	cells  []Number // one of each column, in its unit
	reason string   // why there are no numbers at all, "" if there are
}

// grid makes the grid of a scenario. A number that no system has gets no column: what an open loop cannot tell, and
// what nobody counts.
func (r *Report) grid(s *Scenario) grid {
	var g grid
	for _, system := range r.Systems {
		result := s.Result(system.Name)
		g.rows = append(g.rows, row{system: system.Name, result: result, reason: result.missing()})
	}
	add := func(c column, of func(system string, result *Result) Number) {
		numbers, any := make([]Number, len(g.rows)), false
		for i, row := range g.rows {
			numbers[i] = of(row.system, row.result)
			any = any || numbers[i].Known()
		}
		if !any {
			return
		}
		g.columns = append(g.columns, c)
		for i := range g.rows {
			g.rows[i].cells = append(g.rows[i].cells, numbers[i])
		}
	}
	measure := func(c column, m Measure) {
		if m.ratioOf() == "" {
			c.unit = m.unit(s.Unit)
		}
		add(c, func(system string, _ *Result) Number { return r.Number(s, system, m).in(m.scale()) })
	}
	perTurn := func(c column, value func(*Turn) float64) {
		add(c, func(_ string, result *Result) Number {
			return result.named(func(t *Turn) map[string]float64 { return map[string]float64{c.name: value(t)} }, c.name)
		})
	}
	base := r.Base()
	measure(column{name: "throughput", help: "operations that were answered in a second", group: work}, Throughput)
	measure(column{name: "throughput ratio", help: "to that of " + base + " in the same round", group: work}, ThroughputRatio)
	if s.OpenLoop {
		perTurn(column{name: "throughput, fixed by the rate,", unit: Throughput.unit(s.Unit), help: "operations in a second, which are due at a fixed rate: no measure of speed",
			group: work}, (*Turn).rate)
	}
	if s.valuesMatter() {
		perTurn(column{name: "values", unit: "MiB/s", help: "bytes of the values that were sent or received in a second", group: work}, (*Turn).bandwidth)
	}
	add(column{name: "came", unit: "% of due", help: "operations of those that were due in the time that was measured", group: work}, func(_ string, result *Result) Number {
		return result.named((*Turn).came, came)
	})
	measure(column{name: "CPU", help: "processor time of all servers, divided by the operations", group: work}, CPU)
	measure(column{name: "CPU ratio", help: "of processor times, to that of " + base + " in the same round", group: work}, CPURatio)
	measure(column{name: "upstream", help: "requests that the store behind a proxy was sent", group: work}, Upstream)
	measure(column{name: "p50", help: "half of all answers came within it", group: latency}, P50)
	perTurn(column{name: "p90", unit: "ms", help: "nine of ten answers came within it", group: latency, wide: true}, func(t *Turn) float64 { return t.Latency.P90 })
	measure(column{name: "p99", help: "99 of 100 answers came within it", group: latency}, P99)
	measure(column{name: "p99 ratio", help: "of p99, to that of " + base + " in the same round", group: latency, wide: true}, P99Ratio)
	measure(column{name: "p99.9", help: "999 of 1,000 answers came within it", group: latency}, P999)
	perTurn(column{name: "max", unit: "ms", help: "the slowest answer", group: latency, wide: true}, func(t *Turn) float64 { return t.Latency.Max })
	if s.dependent() {
		perTurn(column{name: "p99.9 of all", unit: "ms", help: "of all operations, of which too few are independent: a few late writes make it", group: latency},
			func(t *Turn) float64 { return t.Latency.P999 })
	}
	add(column{name: "independent latencies", help: "the other latencies are of what came together with these", group: latency}, func(_ string, result *Result) Number {
		return result.named((*Turn).independent, independent)
	})
	measure(column{name: "RSS", help: "memory of all servers at the end of a turn", group: latency}, Memory)
	measure(column{name: "RSS ratio", help: "of memory, to that of " + base + " in the same round", group: latency, wide: true}, MemoryRatio)

	named := func(c column, of func(*Turn) map[string]float64) {
		for _, c.name = range s.names(of) {
			name := c.name
			add(c, func(_ string, result *Result) Number { return result.named(of, name) })
		}
	}
	named(column{group: own}, func(t *Turn) map[string]float64 { return t.Extra })
	byMethod := func(t *Turn) map[string]float64 {
		if !t.hasProxy() {
			return nil
		}
		perOperation := map[string]float64{}
		for method, n := range t.Upstream {
			perOperation[method] = n / float64(t.Operations)
		}
		return perOperation
	}
	if len(s.names(byMethod)) > 1 { // of one alone it is all that upstream says
		named(column{unit: "upstream per " + s.Unit, group: methods, wide: true}, byMethod)
	}
	return g
}

// valuesMatter tells whether the values are so many bytes that their bandwidth says something.
func (s *Scenario) valuesMatter() bool {
	const many = 10 // MiB/s
	for _, result := range s.Results {
		for i := range result.Turns {
			if result.Turns[i].bandwidth() >= many {
				return true
			}
		}
	}
	return false
}

// dependent tells whether all turns of all systems have too few latencies that are independent of each other for a p99.9 of them.
func (s *Scenario) dependent() bool {
	turns := 0
	for _, result := range s.Results {
		for i := range result.Turns {
			if result.Turns[i].tells(99.9) {
				return false
			}
			turns++
		}
	}
	return turns > 0
}

// rate is the operations in a second.
func (t *Turn) rate() float64 {
	if t.Took <= 0 {
		return 0
	}
	return float64(t.Operations) / t.Took.Seconds()
}

// bandwidth is of values, in MiB/s.
func (t *Turn) bandwidth() float64 {
	if t.Took <= 0 {
		return 0
	}
	return float64(t.Bytes) / mib / t.Took.Seconds()
}

// What only turns of some scenarios have.
const (
	came        = "came"
	independent = "independent"
)

// came is how many of the operations that were due came, in percent.
func (t *Turn) came() map[string]float64 {
	if t.Due == 0 {
		return nil
	}
	return map[string]float64{came: 100 * float64(t.Operations) / float64(t.Due)}
}

func (t *Turn) independent() map[string]float64 {
	if t.Independent == 0 {
		return nil
	}
	return map[string]float64{independent: float64(t.Independent)}
}

// names are those of the numbers that turns of any system have, sorted.
func (s *Scenario) names(of func(*Turn) map[string]float64) []string {
	names := map[string]bool{}
	for _, result := range s.Results {
		for i := range result.Turns {
			for name := range of(&result.Turns[i]) {
				names[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// named is a number that turns have by its name.
func (r *Result) named(of func(*Turn) map[string]float64, name string) Number {
	if missing := r.missing(); missing != "" {
		return Number{Missing: missing}
	}
	var values []float64
	for i := range r.Turns {
		if value, is := of(&r.Turns[i])[name]; is {
			values = append(values, value)
		}
	}
	return numberOf(values, "not counted")
}

// of is the part of a grid that has the columns of some groups.
func (g grid) of(groups ...group) grid {
	return g.where(func(c column) bool { return slices.Contains(groups, c.group) })
}

// where is the part of a grid that has some columns.
func (g grid) where(has func(column) bool) (part grid) {
	for _, c := range g.columns {
		if has(c) {
			part.columns = append(part.columns, c)
		}
	}
	for _, r := range g.rows {
		all := r.cells
		r.cells = nil
		for i, cell := range all {
			if has(g.columns[i]) {
				r.cells = append(r.cells, cell)
			}
		}
		part.rows = append(part.rows, r)
	}
	return part
}

// brief is the grid without its wide columns.
func (g grid) brief() grid { return g.where(func(c column) bool { return !c.wide }) }

// note is what a reader must know of one system's numbers.
type note struct {
	system string
	kind   string // "not supported", "failed" or "not run"
	text   string
}

// notes are what the table of a scenario does not say: which turns have no part in it, and why.
func (r *Report) notes(s *Scenario) []note {
	var notes []note
	for _, system := range r.Systems {
		result := s.Result(system.Name)
		switch {
		case result == nil:
			notes = append(notes, note{system.Name, "not run", ""})
			continue
		case result.Unsupported != "":
			notes = append(notes, note{system.Name, "not supported", result.Unsupported})
		case len(result.Turns)+len(result.Failed) == 0:
			notes = append(notes, note{system.Name, "not run", "no turn was made"})
		}
		notes = append(notes, failures(result)...)
	}
	return notes
}

// failures are a note for each reason, with the rounds that failed for it.
func failures(result *Result) []note {
	var reasons []string
	rounds := map[string][]string{}
	for _, f := range result.Failed {
		if rounds[f.Reason] == nil {
			reasons = append(reasons, f.Reason)
		}
		rounds[f.Reason] = append(rounds[f.Reason], strconv.Itoa(f.Round))
	}
	var notes []note
	for _, reason := range reasons {
		kind := "failed in round " + rounds[reason][0]
		if len(rounds[reason]) > 1 {
			kind = "failed in rounds " + strings.Join(rounds[reason], ", ")
		}
		notes = append(notes, note{result.System, kind, reason})
	}
	return notes
}
