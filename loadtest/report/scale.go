package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// gbit is how many bytes a second are one Gbit/s.
const gbit = 1e9 / 8

// plans is the table of all plans; what cannot be served has a row of dashes.
func (s *Scale) plans() Table {
	t := Table{Words: 3, Head: []string{"who watches what", "machines of", "levels from the core down: proxies × clients of each", "proxies in all", "busy cores of each", "RSS of each",
		"Gbit/s of each", "limit of each", "core: busy cores", "Gbit/s", "one proxy more, cores", "p50 ms", "p99 ms at most"}}
	for _, p := range s.Plans {
		row := []string{p.Case, plural(p.Cores, "core")}
		if p.Impossible != "" {
			row = append(row, "impossible")
			for len(row) < len(t.Head) {
				row = append(row, dash)
			}
			t.Rows = append(t.Rows, row)
			continue
		}
		tree := p.byLevel(func(l Level) string { return count(l.Proxies) + "\u00a0×\u00a0" + count(l.Fanout) })
		if len(p.Levels) == 0 {
			tree = "the core alone"
		}
		t.Rows = append(t.Rows, append(row, tree, count(p.Proxies),
			p.byLevel(func(l Level) string { return figures(l.BusyCores) }),
			p.byLevel(func(l Level) string { return bytesText(float64(l.Memory)) }),
			p.byLevel(func(l Level) string { return figures(l.Bandwidth / gbit) }),
			p.byLevel(func(l Level) string { return cmp.Or(l.Limit, dash) }),
			figures(p.StoreCores), figures(p.Bandwidth/gbit), figures(p.NextProxyCores), milliseconds(p.LatencyP50), milliseconds(p.LatencyP99)))
	}
	return t
}

// byLevel is something of each level, from the core down; a dash if there is none.
func (p *Plan) byLevel(of func(Level) string) string {
	if len(p.Levels) == 0 {
		return dash
	}
	var all []string
	for _, l := range p.Levels {
		all = append(all, of(l))
	}
	return strings.Join(all, ", ")
}

// milliseconds are a dash where none were computed.
func milliseconds(ms float64) string {
	if ms == 0 {
		return dash
	}
	return figures(ms)
}

// planNotes are what is said of plans, and why some are impossible.
func (s *Scale) planNotes() []string {
	var notes []string
	for _, p := range s.Plans {
		what := sentence(p.Case) + ", machines of " + plural(p.Cores, "core") + ": "
		if p.Impossible != "" {
			notes = append(notes, what+"**impossible**: "+p.Impossible)
		} else if p.Note != "" {
			notes = append(notes, what+p.Note)
		}
	}
	return notes
}

// checks is a row for each run, with a column for each measure: predicted, measured, and the prediction's error.
func (s *Scale) checks() Table {
	t := Table{Head: []string{"run: predicted / measured, the prediction's error"}, Words: 1}
	rows := map[string]int{} // by name of the run
	for _, c := range s.Checks {
		if _, known := rows[c.Name]; !known {
			rows[c.Name] = len(t.Rows)
			t.Rows = append(t.Rows, []string{c.Name})
		}
		if !slices.Contains(t.Head[1:], c.label()) {
			t.Head = append(t.Head, c.label())
		}
	}
	for i, row := range t.Rows {
		for len(row) < len(t.Head) {
			row = append(row, "")
		}
		t.Rows[i] = row
	}
	for _, c := range s.Checks {
		at := 1 + slices.Index(t.Head[1:], c.label())
		t.Rows[rows[c.Name]][at] = fmt.Sprintf("%s / %s, %s", figures(c.Predicted), c.number(), c.errorText())
	}
	return t
}

// checkNotes are why checks prove little, each once, with the runs.
func (s *Scale) checkNotes() []string {
	var notes []string
	all, runs := map[string]bool{}, map[string][]string{} // by name, and by note
	for _, c := range s.Checks {
		all[c.Name] = true
		if c.Note == "" {
			continue
		}
		if runs[c.Note] == nil {
			notes = append(notes, c.Note)
		}
		if !slices.Contains(runs[c.Note], c.Name) {
			runs[c.Note] = append(runs[c.Note], c.Name)
		}
	}
	for i, note := range notes {
		if len(runs[note]) == len(all) {
			notes[i] = "All runs: " + note
			continue
		}
		notes[i] = strings.Join(runs[note], "; ") + ": " + note
	}
	return notes
}

func (s *Scale) inputs() Table {
	t := Table{Head: []string{"what the model starts from", "measured in", "value", "unit"}, Words: 2}
	for _, in := range s.Inputs {
		value := figures(in.Value)
		if in.Value == 0 { // a difference of two runs that came out as nothing, or less
			value = "0: too little to be measured"
		}
		t.Rows = append(t.Rows, []string{in.Name, in.From, value, in.Unit})
	}
	return t
}

func (c *Check) label() string { return c.Measure + ", " + c.Unit }

func (c *Check) number() Number { return Number{Median: c.Measured, Min: c.Low, Max: c.High, Turns: 1} }

// off is by which part a prediction is above what was measured, or below; not a number if 0 was measured.
func (c *Check) off(measured float64) float64 {
	if measured == 0 {
		return math.NaN()
	}
	return c.Predicted/measured - 1
}

func (c *Check) errorText() string {
	off := 100 * c.off(c.Measured)
	switch {
	case c.Invalid:
		return "not valid"
	case math.IsNaN(off):
		return dash
	case math.Abs(off) < .5:
		return "0 %"
	}
	return strings.Replace(fmt.Sprintf("%+.0f %%", off), "-", "−", 1)
}
