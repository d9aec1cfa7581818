package report

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// WriteMarkdown writes the report for docs/performance.md: what the page says, without its charts, and in one table for each
// scenario, so without the columns that are wide. Columns stand below each other in plain text too.
func WriteMarkdown(w io.Writer, r *Report) error {
	out := bufio.NewWriter(w)
	m := &markdown{out: out}
	m.head(r)
	m.caveats(r)
	m.summary(r)
	m.aims(r)
	m.scenarios(r)
	if r.Scale != nil {
		m.scale(r.Scale)
	}
	for i := range r.Tables {
		m.section(&r.Tables[i])
	}
	if err := errors.Join(m.err, out.Flush()); err != nil {
		return fmt.Errorf("writing the report as Markdown: %w", err)
	}
	return nil
}

// WriteMarkdown writes the part of a report that is about scale, for bench scale, which has no other.
func (s *Scale) WriteMarkdown(w io.Writer) error {
	out := bufio.NewWriter(w)
	m := &markdown{out: out}
	m.scale(s)
	if err := errors.Join(m.err, out.Flush()); err != nil {
		return fmt.Errorf("writing plans as Markdown: %w", err)
	}
	return nil
}

// markdown writes parts of a report, each after an empty line, until an error.
type markdown struct {
	out   *bufio.Writer // remembers an error of writing, until it is flushed
	begun bool
	err   error // of a table
}

func (m *markdown) paragraph(paragraphs ...string) {
	for _, p := range paragraphs {
		if m.begun {
			fmt.Fprintln(m.out)
		}
		m.begun = true
		fmt.Fprintln(m.out, p)
	}
}

func (m *markdown) list(items []string) {
	for i, item := range items {
		if i == 0 {
			fmt.Fprintln(m.out)
		}
		fmt.Fprintln(m.out, "- "+item)
	}
}

func (m *markdown) table(t Table) { m.note(t.WriteMarkdown(m.out)) }

// note keeps the first error.
func (m *markdown) note(err error) {
	if m.err == nil {
		m.err = err
	}
}

// command is shown as it was given.
func (m *markdown) command(command string) {
	m.paragraph("    " + strings.NewReplacer("\r", "", "\n", " ").Replace(command))
}

func (m *markdown) head(r *Report) {
	m.paragraph("# Performance")
	about := fmt.Sprintf("What weir costs beside etcd, measured in one run: %s and %s, in turns, %s. The run is of %s and took %s; the same command makes "+
		"a report of your machine",
		plural(len(r.Scenarios), "scenario"), plural(len(r.Systems), "system"), plural(r.Rounds(), "round"), dateText(r.Started), durationText(r.Took))
	if r.Command == "" {
		m.paragraph(about + ".")
	} else {
		m.paragraph(about + ":")
		m.command(r.Command)
	}
	machine := markdownTable{head: []string{"machine", ""}, words: 2}
	for _, row := range r.Machine.rows() {
		machine.rows = append(machine.rows, literals(row))
	}
	m.note(machine.write(m.out))
	systems := Table{Head: []string{"system", "programs"}, Words: 2}
	for _, s := range r.Systems {
		programs := s.Programs
		if s.External {
			programs = append(slices.Clone(programs), "ran already")
		}
		systems.Rows = append(systems.Rows, []string{s.Name, strings.Join(programs, ", ")})
	}
	m.table(systems)
}

func (m *markdown) caveats(r *Report) {
	var items []string
	for _, c := range r.caveats() {
		items = append(items, markdownProse(c))
	}
	for i := range r.Systems {
		if remark := r.remark(&r.Systems[i]); remark != "" {
			items = append(items, "**"+literal(r.Systems[i].Name)+"**: "+markdownProse(remark))
		}
	}
	if len(items) > 0 {
		m.paragraph("## What is not comparable")
		m.list(items)
	}
}

// summaries are the ratios that the summary has, in this order.
func summaries() []summaryOf {
	return []summaryOf{
		{CPURatio, "Processor time per operation", "Of all servers together. Less is better."},
		{ThroughputRatio, "Throughput", "With so many requests under way as the scenario says. More is better."},
		{P99Ratio, "Latency, p99", "Less is better."},
		{MemoryRatio, "Memory", "RSS of all servers at the end of a turn. Less is better."},
	}
}

type summaryOf struct {
	measure     Measure
	title, help string
}

// summary has all ratios in one table: medians only, as those of processor time and throughput stand below with their spread.
func (m *markdown) summary(r *Report) {
	base := r.Base()
	if base == "" || len(r.Scenarios) == 0 {
		return
	}
	t := Table{Head: []string{"scenario"}, Words: 1}
	for _, s := range r.Systems {
		if !s.Base {
			t.Head = append(t.Head, s.Name)
		}
	}
	for _, scenario := range r.byKind() {
		cells, known := []string{scenario.Name}, false
		for _, s := range r.Systems {
			if s.Base {
				continue
			}
			var ratios []string
			any := false
			for _, of := range summaries() {
				n := r.Number(scenario, s.Name, of.measure)
				any = any || n.Known()
				ratios = append(ratios, n.median())
			}
			if !any {
				ratios = []string{dash}
				if result := scenario.Result(s.Name); result.missing() != "" {
					ratios[0] += " " + result.state(Number{})
				}
			}
			known = known || any
			cell := strings.Join(ratios, " / ")
			if failed := scenario.Result(s.Name).failedPart(); failed != "" {
				cell += " (" + failed + ")"
			}
			cells = append(cells, cell)
		}
		if known {
			t.Rows = append(t.Rows, cells)
		}
	}
	if len(t.Rows) > 0 {
		m.paragraph("## Summary", fmt.Sprintf("Ratios to %s, the medians: of **processor time** for each operation, of all servers together, "+
			"/ of **throughput** / of **p99** latency / of **memory**. Of throughput more is better, of the others less.", literal(base)))
		m.table(t)
	}
}

func (m *markdown) aims(r *Report) {
	outcomes := r.Outcomes()
	if len(outcomes) == 0 {
		return
	}
	m.paragraph("## Aims", tally(outcomes)+" "+verdictsMean)
	t := markdownTable{head: []string{"scenario", "system", "measure", "aim", "reached", "", "promise, and what keeps it"}, words: 7}
	for _, o := range outcomes {
		reached := o.Reached.in(o.Aim.Measure.scale())
		t.rows = append(t.rows, []string{literal(o.Scenario.Name), literal(o.Aim.System), literal(o.Aim.label(o.Scenario)), o.Aim.bound(), reached.String(),
			o.Verdict.emphasized(), o.remark()})
	}
	m.note(t.write(m.out))
}

// remark is what was promised, and why it was not kept.
func (o Outcome) remark() string {
	var parts []string
	for _, part := range []string{markdownProse(o.Aim.Source), literal(sentence(o.Reason)), markdownProse(sentence(o.Why))} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ". ")
}

// emphasized is the verdict, in bold unless it is what is hoped for.
func (v Verdict) emphasized() string {
	if v == Met {
		return string(v)
	}
	return "**" + string(v) + "**"
}

func (m *markdown) scenarios(r *Report) {
	if len(r.Scenarios) == 0 {
		return
	}
	m.paragraph("## How to read the tables", markdownProse(legend(r.Base())))
	m.list(literals(r.absences()))
	kind := ""
	for _, s := range r.byKind() {
		if s.Kind != kind {
			kind = s.Kind
			m.paragraph("## " + literal(sentence(kind)))
		}
		m.scenario(r, s)
	}
}

func (m *markdown) scenario(r *Report, s *Scenario) {
	description := markdownProse(s.Description)
	if s.OpenLoop {
		description += " *Requests are sent at a fixed rate, and latency counts from when each was due.*"
	}
	m.paragraph("### "+literal(s.Name), description)
	g := r.grid(s).brief()
	t := Table{Head: []string{"system", "turns"}, Words: 1}
	for _, c := range g.columns {
		t.Head = append(t.Head, c.head())
	}
	stores := slices.ContainsFunc(s.Results, func(r Result) bool { return r.hasBefore() })
	if stores {
		t.Head = append(t.Head, "CPU by process")
	}
	for _, row := range g.rows {
		cells := []string{row.system, row.turns()}
		if row.result.missing() != "" {
			cells[1] += ", " + row.result.state(Number{})
		}
		for _, n := range row.cells {
			cells = append(cells, n.String())
		}
		if stores {
			system := r.system(row.system)
			cells = append(cells, row.result.byRole(system != nil && system.External))
		}
		t.Rows = append(t.Rows, cells)
	}
	m.table(t)
	var notes []string
	for _, n := range r.notes(s) {
		text := "**" + literal(n.system) + "**: " + n.kind
		if n.text != "" {
			text += ": " + code(n.text)
		}
		notes = append(notes, text)
	}
	m.list(notes)
}

// hasBefore tells whether a system has something before its store.
func (r *Result) hasBefore() bool {
	return slices.ContainsFunc(r.Parts(), func(p Part) bool { return p.Role != "store" })
}

// byRole is which part of the processor time is the store's, in percent; a dash if it is not known, as of processes of which it was
// only said that they are measured.
func (r *Result) byRole(external bool) string {
	var all, stores float64
	for _, p := range r.Parts() {
		all += p.CPU.Median
		if p.Role == "store" {
			stores += p.CPU.Median
		}
	}
	if external || all == 0 {
		return dash
	}
	return fmt.Sprintf("store %.0f %%", 100*stores/all)
}

// processTable is what single processes took, of systems that have more than one.
func processTable(s *Scenario) Table {
	t := Table{Head: []string{"system", "process", "CPU µs/" + s.Unit, "RSS MiB"}, Words: 2}
	for i := range s.Results {
		parts := s.Results[i].Parts()
		if len(parts) < 2 {
			continue
		}
		for _, p := range parts {
			t.Rows = append(t.Rows, []string{s.Results[i].System, p.Name, p.CPU.String(), p.Memory.in(mib).String()})
		}
	}
	return t
}

func (m *markdown) scale(s *Scale) {
	m.paragraph("## Scale")
	if s.Failed != "" {
		m.paragraph("**It could not be computed**: " + code(s.Failed))
		return
	}
	m.paragraph(fmt.Sprintf("How %s watchers are served at %s events a second: **computed from what was measured, not measured.**",
		count(s.Watchers), figures(s.Events)))
	if s.Invalid != "" {
		m.paragraph("**Not valid**: " + markdownProse(s.Invalid))
	}
	m.table(s.plans())
	m.list(proses(s.planNotes()))
	m.paragraph("### How it is computed")
	m.paragraph(proses(s.Method)...)
	m.table(s.inputs())
	if len(s.Checks) > 0 {
		m.paragraph("### Predicted and measured")
		m.paragraph("What the same model predicts of sizes that fit on this machine, and what was measured there.")
		m.table(s.checks())
		m.list(proses(s.checkNotes()))
	}
}

func (m *markdown) section(s *Section) {
	m.paragraph("## " + literal(s.Title))
	if s.Command != "" {
		if date := s.date(); date != "" {
			m.paragraph(date + ":")
		}
		m.command(s.Command)
	}
	m.paragraph(proses(s.Text)...)
	for _, t := range s.Tables {
		m.table(t)
	}
	var failed []string
	for _, f := range s.Failed {
		failed = append(failed, "a turn failed: "+code(f))
	}
	m.list(failed)
}

func proses(texts []string) []string {
	var all []string
	for _, text := range texts {
		all = append(all, markdownProse(text))
	}
	return all
}
