package report

import (
	"slices"
	"strings"
)

// absence is one reason why numbers are missing of systems that were measured.
type absence struct {
	reason                      string
	columns, systems, scenarios []string
	cells                       int
}

// absences say why systems that were measured in a scenario lack numbers that others have in it: a line for each reason, as it is. Most
// are missing for the same reason everywhere, which below each table would be said again and again.
func (r *Report) absences() []string {
	var all []*absence
	cells := map[[2]string]int{} // in all scenarios, by column and system
	for _, s := range r.byKind() {
		g := r.grid(s).of(work, latency, own) // upstream says what there is to say of methods
		for _, row := range g.rows {
			if row.reason != "" {
				continue // is said below the table
			}
			for i, n := range row.cells {
				column := g.columns[i].name
				cells[[2]string{column, row.system}]++
				if n.Known() {
					continue
				}
				at := slices.IndexFunc(all, func(a *absence) bool { return a.reason == n.Missing })
				if at < 0 {
					at = len(all)
					all = append(all, &absence{reason: n.Missing})
				}
				all[at].add(column, row.system, s.Name)
			}
		}
	}
	var lines []string
	for _, a := range all {
		line := strings.Join(a.columns, ", ") + " of " + strings.Join(a.systems, ", ")
		everywhere := 0
		for _, column := range a.columns {
			for _, system := range a.systems {
				everywhere += cells[[2]string{column, system}]
			}
		}
		if a.cells < everywhere {
			line += " in " + strings.Join(a.scenarios, ", ")
		}
		lines = append(lines, line+": "+brief(a.reason))
	}
	return lines
}

func (a *absence) add(column, system, scenario string) {
	a.cells++
	for _, to := range []struct {
		list *[]string
		name string
	}{{&a.columns, column}, {&a.systems, system}, {&a.scenarios, scenario}} {
		if !slices.Contains(*to.list, to.name) {
			*to.list = append(*to.list, to.name)
		}
	}
}
