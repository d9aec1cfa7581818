package report

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What both forms of a report say in the same words.

// legend says how to read the tables.
func legend(base string) string {
	text := "Each number is the median of the turns, with the lowest and highest in parentheses. "
	if base != "" {
		text += fmt.Sprintf("A ratio is to `%s` in the same round, turn by turn. ", base)
	}
	return text + "Latency is what a client waited. CPU is the processor time of all servers, user and kernel, divided by the operations. " +
		"A dash stands where there is no number."
}

// verdictsMean says when an aim counts as met.
const verdictsMean = "An aim is met or missed by the median, if no turn failed and more than three quarters of them agree with it."

// caveats are what was said of the run, and what its own numbers say against it.
func (r *Report) caveats() []string {
	caveats := slices.Clone(r.Caveats)
	if r.Rounds() == 1 {
		caveats = append(caveats, "There was one round only: by how much turns differ is not known, and what a single turn says of an aim may be chance.")
	}
	if m := r.Machine; m.Load > float64(m.Cores)/2 {
		caveats = append(caveats, fmt.Sprintf("**The machine was busy with something else**: it had a load of %s on %s before the run.",
			figures(m.Load), plural(m.Cores, "core")))
	}
	return caveats
}

// rows are what is known of a machine, with names.
func (m *Machine) rows() [][]string {
	rows := [][]string{
		{"processor", fmt.Sprintf("%s, %s", m.Processor, plural(m.Cores, "core"))},
		{"memory", bytesText(float64(m.Memory))},
		{"system", m.OS},
		{"Go", m.Go},
		{"file system of the data", m.Filesystem},
	}
	if m.Fdatasync > 0 {
		rows[4][1] += fmt.Sprintf(", fdatasync %s µs", figures(m.Fdatasync))
	}
	return append(rows, []string{"load before the run", figures(m.Load)})
}

// remark says what makes a system different from the others.
func (r *Report) remark(s *System) string {
	var remarks []string
	switch turns, known := r.processesOf(s.Name); {
	case !s.External:
	case known:
		remarks = append(remarks, "Processor time and memory are those of its processes that were named.")
	case turns:
		remarks = append(remarks, "Its processor time and memory are not known.")
	}
	if s.Caveat != "" {
		remarks = append(remarks, s.Caveat)
	}
	return strings.Join(remarks, " ")
}

// processesOf tells whether a system has turns, and whether its processes were measured in any.
func (r *Report) processesOf(system string) (turns, known bool) {
	for i := range r.Scenarios {
		if result := r.Scenarios[i].Result(system); result != nil {
			for _, t := range result.Turns {
				turns, known = true, known || len(t.Processes) > 0
			}
		}
	}
	return turns, known
}

// date is when a section was measured, "" if it is not known.
func (s *Section) date() string {
	if s.Started.IsZero() {
		return ""
	}
	return dateText(s.Started)
}

// tally counts verdicts.
func tally(outcomes []Outcome) string {
	n := map[Verdict]int{}
	for _, o := range outcomes {
		n[o.Verdict]++
	}
	return fmt.Sprintf("%d met, %d missed, %d undecided.", n[Met], n[Missed], n[Undecided])
}

// label is a measure with its unit, for an aim.
func (a Aim) label(s *Scenario) string {
	name := strings.Replace(string(a.Measure), "cpu", "CPU", 1)
	if a.Measure.ratioOf() != "" {
		return name
	}
	return name + " " + a.Measure.unit(s.Unit)
}

// turns is how many turns a row is made of, and of how many if some failed.
func (r row) turns() string {
	switch {
	case r.result == nil:
		return "0"
	case len(r.result.Failed) > 0:
		return fmt.Sprintf("%d of %d", len(r.result.Turns), len(r.result.Turns)+len(r.result.Failed))
	}
	return count(len(r.result.Turns))
}

func (r row) turnsInWords() string {
	if turns := r.turns(); turns != "1" {
		return turns + " turns"
	}
	return "1 turn"
}

// sentence begins with a capital.
func sentence(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	if size == 0 {
		return text
	}
	return string(unicode.ToUpper(first)) + text[size:]
}

func plural(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return count(n) + " " + of + "s"
}
