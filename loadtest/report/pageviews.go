package report

import "fmt"

// cell is a number in a table of the page.
type cell struct {
	Median string // or a dash
	Spread string
	Title  string // what it means, or why there is none
	Class  string
	Mark   string // of an aim: a verdict
}

func cellOf(n Number, title string) cell {
	c := cell{Median: n.median(), Spread: n.spread(), Title: title}
	if !n.Known() {
		c.Title, c.Class = n.Missing, "none"
	}
	return c
}

// matrix is one ratio of all scenarios and systems.
type matrix struct {
	N                  int
	Title, Help, Short string
	Rows               []matrixRow
}

type matrixRow struct {
	Scenario, Anchor string
	Cells            []cell // one for each system but the base
}

func (p *page) summaries(outcomes []Outcome, anchors map[string]string) []matrix {
	if p.report.Base() == "" {
		return nil
	}
	var all []matrix
	for n, of := range summaries() {
		m := matrix{N: n, Title: of.title, Help: of.help}
		for _, s := range p.report.byKind() {
			row, known := matrixRow{Scenario: s.Name, Anchor: anchors[s.Name]}, false
			for j, system := range p.report.Systems {
				if system.Base {
					continue
				}
				number := p.report.Number(s, system.Name, of.measure)
				known = known || number.Known()
				c := cellOf(number, fmt.Sprintf("%s, %s: %s × %s", s.Name, system.Name, number, p.report.Base()))
				c.Class += fmt.Sprintf(" of-%d %s", j, heat(number, of.measure))
				for _, o := range outcomes {
					if o.Scenario == s && o.Aim.System == system.Name && o.Aim.Measure == of.measure {
						c.Mark = string(o.Verdict)
						c.Title += fmt.Sprintf("; aim %s: %s", o.Aim.bound(), o.Verdict)
					}
				}
				if !number.Known() {
					c.Title, c.Median = number.Missing, dash
					if state := s.Result(system.Name).state(number); state != "not known" {
						c.Spread = state
					}
				} else if failed := s.Result(system.Name).failedPart(); failed != "" {
					c.Spread += " " + failed
					c.Title += "; " + failed
				}
				row.Cells = append(row.Cells, c)
			}
			if known {
				m.Rows = append(m.Rows, row)
			}
		}
		if len(m.Rows) > 0 {
			all = append(all, m)
		}
	}
	return all
}

// heat is a class for how much better or worse a ratio is than 1: only if all turns agree on which of the two it is.
func heat(n Number, m Measure) string {
	if !n.Known() || n.Min <= 1 && n.Max >= 1 {
		return ""
	}
	name, factor := "worse", n.Median
	if (n.Median > 1) == m.higherIsBetter() {
		name = "better"
	}
	if factor < 1 {
		factor = 1 / factor
	}
	degree := 1
	for _, bound := range []float64{1.25, 2, 4} {
		if factor >= bound {
			degree++
		}
	}
	return fmt.Sprintf("%s-%d", name, degree)
}

// aimView is an aim and what became of it.
type aimView struct {
	Scenario, Anchor, System, Class string
	Measure, Bound, Source          string
	Reached                         cell
	Verdict                         Verdict
	Reason, Why                     string
}

func (p *page) aim(o Outcome, anchor string) aimView {
	v := aimView{Scenario: o.Scenario.Name, Anchor: anchor, System: o.Aim.System, Measure: o.Aim.label(o.Scenario), Bound: o.Aim.bound(),
		Source: o.Aim.Source, Reached: cellOf(o.Reached.in(o.Aim.Measure.scale()), ""), Verdict: o.Verdict, Reason: sentence(o.Reason), Why: sentence(o.Why)}
	for i, s := range p.report.Systems {
		if s.Name == v.System {
			v.Class = p.classes(i)
		}
	}
	return v
}

// kindView is the scenarios of one kind.
type kindView struct {
	Name, Anchor string
	Scenarios    []scenarioView
}

type scenarioView struct {
	*Scenario
	Anchor       string
	Charts, More []chart
	Results      resultsView
	Own          *resultsView // numbers that only this scenario has; nil if it has none
	Methods      *resultsView // requests upstream; nil if nobody counts them
	Processes    Table
	Notes        []noteView
	Aims         []aimView
}

// resultsView is a table of numbers, a row for each system.
type resultsView struct {
	Columns []columnView
	Rows    []rowView
}

type columnView struct{ Head, Help string }

type rowView struct {
	System, Classes, Turns string
	State, Reason          string // why there are no numbers, short and long; "" if there are
	Cells                  []cell
}

func (p *page) results(g grid) resultsView {
	var v resultsView
	for _, c := range g.columns {
		v.Columns = append(v.Columns, columnView{c.head(), c.help})
	}
	for i, row := range g.rows {
		view := rowView{System: row.system, Classes: p.classes(i), Turns: row.turnsInWords(), Reason: row.reason}
		if row.reason != "" {
			view.State = row.result.state(Number{})
		}
		for _, n := range row.cells {
			view.Cells = append(view.Cells, cellOf(n, ""))
		}
		v.Rows = append(v.Rows, view)
	}
	return v
}

type noteView struct{ System, Kind, Text, Class string }

func (p *page) kinds(anchors map[string]string) ([]kindView, error) {
	var kinds []kindView
	for _, s := range p.report.byKind() {
		if len(kinds) == 0 || kinds[len(kinds)-1].Name != sentence(s.Kind) {
			kinds = append(kinds, kindView{Name: sentence(s.Kind), Anchor: p.id("kind-" + s.Kind)})
		}
		v, err := p.scenario(s, anchors[s.Name])
		if err != nil {
			return nil, fmt.Errorf("scenario %s: %w", s.Name, err)
		}
		k := &kinds[len(kinds)-1]
		k.Scenarios = append(k.Scenarios, v)
	}
	return kinds, nil
}

func (p *page) scenario(s *Scenario, anchor string) (scenarioView, error) {
	g := p.report.grid(s)
	v := scenarioView{Scenario: s, Anchor: anchor, Results: p.results(g.of(work, latency)), Processes: processTable(s)}
	if part := g.of(own); len(part.columns) > 0 {
		results := p.results(part)
		v.Own = &results
	}
	if part := g.of(methods); len(part.columns) > 0 {
		results := p.results(part)
		v.Methods = &results
	}
	for _, n := range p.report.notes(s) {
		class := "unable"
		if s.Result(n.system) != nil && len(s.Result(n.system).Failed) > 0 {
			class = "failed"
		}
		v.Notes = append(v.Notes, noteView{n.system, n.kind, n.text, class})
	}
	for _, o := range p.report.outcomes(s) {
		v.Aims = append(v.Aims, p.aim(o, anchor))
	}
	var err error
	v.Charts, v.More, err = p.charts(s, anchor)
	return v, err
}

// charts are those that are shown, and those that are there when asked for. A chart that would be empty is not made.
func (p *page) charts(s *Scenario, anchor string) (shown, more []chart, err error) {
	add := func(to *[]chart, c chart, failed error) {
		if c.SVG != "" {
			*to = append(*to, c)
		}
		if failed != nil && err == nil {
			err = failed
		}
	}
	bars := func(to *[]chart, title, note string, m Measure) {
		for _, system := range p.report.Systems {
			if p.report.Number(s, system.Name, m).Known() {
				c, failed := p.bars(p.id(anchor+"-"+string(m)), title, note, s, m)
				add(to, c, failed)
				return
			}
		}
	}
	bars(&shown, "Throughput", "more is better", Throughput)
	bars(&shown, "Processor time", "of all servers; less is better", CPU)
	c, failed := p.percentiles(p.id(anchor+"-latency"), s)
	add(&shown, c, failed)
	c, failed = p.curve(p.id(anchor+"-curve"), s)
	add(&shown, c, failed)
	bars(&more, "Memory", "RSS of all servers; less is better", Memory)
	bars(&more, "Requests upstream", "that the store behind a proxy was sent; fewer is better", Upstream)
	return shown, more, err
}
