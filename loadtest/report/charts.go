package report

import (
	"fmt"
	"html/template"
	"strings"
)

// Charts are drawn here and not by a library in the browser: the page then asks nobody for anything, can be printed, and is
// the same in ten years. Each has a row or a line for each system, in the order and the colours of the whole page, and
// its numbers written in it.

const (
	chartWidth = 320 // about that of a telephone
	rowHeight  = 35
	margin     = 6

	// Of a stacked bar, proxies' parts are in the lighter colour.
	proxyOpacity = .5

	whiskersMean = "lowest to highest turn"
)

// colour is what a system is drawn with: one of Okabe and Ito's, which people of any colour vision can tell apart. The
// base of ratios is grey. The style sheet has lighter ones for a dark page.
func (p *page) colour(system int) string {
	if p.report.Systems[system].Base {
		return "#6b7280"
	}
	return []string{"#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f"}[p.shade(system)]
}

// shade is the number of a system's colour, for the style sheet. From the eighth system on they come again.
func (p *page) shade(system int) int {
	n := 0
	for i := range system {
		if !p.report.Systems[i].Base {
			n++
		}
	}
	return n % 7
}

// classes are those of everything that belongs to a system: by the first it can be hidden, the second is its colour.
func (p *page) classes(system int) string {
	return fmt.Sprintf("of-%d %s", system, p.shadeClass(system))
}

func (p *page) shadeClass(system int) string {
	if p.report.Systems[system].Base {
		return "base"
	}
	return fmt.Sprintf("shade-%d", p.shade(system))
}

// group is a node that is drawn in a system's colour.
func (p *page) group(system int) *node {
	return element("g", "class", p.classes(system), "fill", p.colour(system), "stroke", p.colour(system), "stroke-width", 0)
}

// chart is a picture with its heading.
type chart struct {
	Title string
	Note  string // under the heading: the unit, and which way is better
	SVG   template.HTML
}

// bars draws one bar for each system, with whiskers from the lowest to the highest turn. Bars are made of parts, if there are any.
func (p *page) bars(id, title, note string, s *Scenario, m Measure) (chart, error) {
	unit := m.unit(s.Unit)
	numbers, high := make([]Number, len(p.report.Systems)), 0.0
	var told []string
	for i, system := range p.report.Systems {
		numbers[i] = p.report.Number(s, system.Name, m).in(m.scale())
		if numbers[i].Known() {
			high = max(high, numbers[i].Max)
		}
		told = append(told, system.Name+": "+numbers[i].words(unit))
	}
	for _, aim := range s.Aims {
		if bound, known := p.bound(s, aim, m); known && bound < 2*high && p.report.system(aim.System) != nil {
			high = max(high, bound)
		}
	}
	bottom := float64(rowHeight * len(numbers))
	x := linear(high, margin, chartWidth-margin)
	stacked, aimed := false, false
	rows := element("g")
	for i, n := range numbers {
		top := float64(rowHeight * i)
		g := p.group(i)
		rows.add(g)
		p.rowHead(g, i, n, s, top)
		if !n.Known() {
			continue
		}
		bar := element("g").tip(told[i])
		g.add(bar)
		parts := p.parts(s, i, m)
		stacked = stacked || len(parts) > 1
		left := x.at(0)
		for _, part := range parts {
			width := part.share * (x.at(n.Median) - x.at(0))
			rect := element("rect", "class", "bar "+part.role, "x", left, "y", top+17, "width", max(width-1, .5), "height", 13, "rx", 1.5)
			if part.role == "proxy" {
				rect.set("fill-opacity", proxyOpacity)
			}
			if part.text != "" {
				rect.tip(part.text)
			}
			bar.add(rect)
			left += width
		}
		whiskers(bar, x.at(n.Min), x.at(n.Max), top+23.5)
		for _, aim := range s.Aims {
			if bound, known := p.bound(s, aim, m); known && aim.System == p.report.Systems[i].Name && bound <= x.high {
				aimed = true
				aimLine(g, x.at(bound), top+13.5, top+33.5).tip("aim: " + aim.label(s) + " " + aim.bound())
			}
		}
	}
	svg := picture(id, title+" "+unit+", "+s.Name, strings.Join(told, "; "), bottom+46)
	p.axisBelow(svg, x, bottom)
	svg.add(rows)
	legend, y := element("g", "class", "legend"), bottom+30
	left := float64(margin)
	if stacked {
		for _, role := range []string{"store", "proxy"} {
			key := element("rect", "class", "key", "x", left, "y", y, "width", 11, "height", 9, "rx", 1.5, "fill", ink)
			if role == "proxy" {
				key.set("fill-opacity", proxyOpacity)
			}
			legend.add(key)
			legend.text("small", "start", left+15, y+8, 11, role)
			left += 56
		}
	}
	whiskers(legend, left, left+18, y+4.5)
	legend.text("small", "start", left+24, y+8, 11, whiskersMean)
	if aimed {
		aimLine(legend, left+158, y-2, y+11)
		legend.text("small", "start", left+164, y+8, 11, "aim")
	}
	svg.add(legend)
	html, err := svg.html()
	return chart{Title: title, Note: unit + ", " + note, SVG: html}, err
}

// bound is where an aim stands among the numbers of a measure: that of a ratio as many times the base's median.
func (p *page) bound(s *Scenario, aim Aim, m Measure) (bound float64, known bool) {
	switch m {
	case aim.Measure:
		return aim.Bound / m.scale(), true
	case aim.Measure.ratioOf():
		base := p.report.Number(s, p.report.Base(), m)
		return aim.Bound * base.Median / m.scale(), base.Known()
	}
	return 0, false
}

// aimLine adds the mark of an aim.
func aimLine(n *node, x, top, bottom float64) *node {
	return n.line("whisker", x, top, x, bottom, ink).set("stroke-width", 1.5, "stroke-dasharray", "3 2")
}

// share is a part of a bar.
type share struct {
	share float64 // of the whole bar
	role  string  // a class
	text  string
}

// parts are what a bar is made of: processes, of which each has its part of the medians' sum.
func (p *page) parts(s *Scenario, system int, m Measure) []share {
	whole := []share{{1, "store", ""}}
	if m != CPU && m != Memory {
		return whole
	}
	parts, sum := s.Result(p.report.Systems[system].Name).Parts(), 0.0
	number := func(part Part) Number {
		if m == CPU {
			return part.CPU
		}
		return part.Memory.in(mib)
	}
	for _, part := range parts {
		sum += number(part).Median
	}
	if sum == 0 {
		return whole
	}
	var shares []share
	for _, part := range parts {
		shares = append(shares, share{number(part).Median / sum, part.Role, part.Name + ": " + number(part).words(m.unit(s.Unit))})
	}
	return shares
}

// words is a number in a sentence.
func (n Number) words(unit string) string {
	if !n.Known() {
		return n.Missing
	}
	return n.String() + " " + unit
}

// rowHead writes a system's name, and its number or why there is none, above the place of its bar.
func (p *page) rowHead(g *node, system int, n Number, s *Scenario, top float64) {
	result := s.Result(p.report.Systems[system].Name)
	name := g.text("name", "start", margin, top+12, 11.5, p.report.Systems[system].Name)
	if !n.Known() {
		g.text("missing", "start", margin, top+27, 11, dash+" "+result.state(n)).tip(n.Missing)
		return
	}
	if failed := result.failedPart(); failed != "" {
		name.tip(failed)
		small := element("tspan", "class", "missing", "font-size", 10, "dx", 5)
		small.Text = fmt.Sprintf("%d/%d failed", len(result.Failed), len(result.Turns)+len(result.Failed))
		name.add(small)
	}
	value := g.text("value", "end", chartWidth-margin, top+12, 11.5, n.median())
	if spread := n.spread(); spread != "" {
		small := element("tspan", "class", "spread", "font-size", 10, "dx", 4)
		small.Text = spread
		value.add(small)
	}
}

// state is in a few words why a number of a result is missing; the whole reason stands below.
func (r *Result) state(n Number) string {
	switch {
	case r == nil:
		return "not run"
	case r.Unsupported != "":
		return "not supported"
	case len(r.Turns) == 0 && len(r.Failed) == 0:
		return "no turn was made"
	case len(r.Turns) == 0:
		return "all turns failed"
	case n.Missing == noProxy:
		return "no proxy"
	}
	return "not known"
}

// failedPart is how many turns have no part in a result that has some, in words; "" if all have.
func (r *Result) failedPart() string {
	if r == nil || len(r.Failed) == 0 || len(r.Turns) == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d turns failed", len(r.Failed), len(r.Turns)+len(r.Failed))
}

// whiskers are drawn from the lowest to the highest.
func whiskers(n *node, low, high, y float64) {
	if high-low < 1 {
		return
	}
	n.add(element("path", "class", "whisker", "d", fmt.Sprintf("M%.1f %.1fv6m0 -3H%.1fm0 -3v6", low, y-3, high), "fill", "none", "stroke", ink, "stroke-width", 1.2))
}

// axisBelow draws the ticks of an axis across the rows, and their numbers below these.
func (p *page) axisBelow(svg *node, x axis, bottom float64) {
	g := element("g", "class", "axis")
	svg.add(g)
	for i, t := range x.ticks {
		at := x.at(t)
		g.line("grid", at, 14, at, bottom+2, faint)
		anchor := "middle"
		switch i {
		case 0:
			anchor, at = "start", at-2
		case len(x.ticks) - 1:
			anchor, at = "end", at+2
		}
		g.text("tick", anchor, at, bottom+16, 10.5, short(t))
	}
}
