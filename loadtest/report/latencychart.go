package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// percentiles draws p50, p99 and p99.9 of each system on one logarithmic axis, which has no 0 that bars could begin at.
func (p *page) percentiles(id string, s *Scenario) (chart, error) {
	measures := []Measure{P50, P99, P999}
	low, high := math.Inf(1), 0.0
	rows, told := make([][]Number, len(p.report.Systems)), []string{}
	for i, system := range p.report.Systems {
		var words []string
		for _, m := range measures {
			n := p.report.Number(s, system.Name, m)
			rows[i] = append(rows[i], n)
			words = append(words, string(m)+" "+n.words("ms"))
			if n.Known() && n.Min > 0 {
				low, high = min(low, n.Min), max(high, n.Max)
			}
		}
		if !rows[i][0].Known() {
			words = []string{rows[i][0].Missing}
		}
		told = append(told, system.Name+": "+strings.Join(words, ", "))
	}
	if high == 0 {
		return chart{}, nil
	}
	bottom := float64(rowHeight * len(rows))
	x := logarithmic(low, high, margin+3, chartWidth-margin-3)
	svg := picture(id, "Latency ms, "+s.Name, strings.Join(told, "; "), bottom+46)
	p.axisBelow(svg, x, bottom)
	for i, numbers := range rows {
		top := float64(rowHeight * i)
		g := p.group(i)
		svg.add(g)
		p.rowHead(g, i, numbers[0], s, top)
		if !numbers[0].Known() {
			continue
		}
		values := g.Children[len(g.Children)-1]
		values.Text, values.Children = numbers[0].median()+" · "+numbers[1].median()+" · "+numbers[2].median(), nil
		y := top + 23.5
		known := 1 // of few latencies the high percentiles are not
		for known < len(numbers) && numbers[known].Known() {
			known++
		}
		numbers = numbers[:known]
		g.line("range", x.at(numbers[0].Median), y, x.at(numbers[known-1].Median), y, p.colour(i)).set("stroke-width", 2, "stroke-opacity", .45)
		for j, n := range numbers {
			point := element("g").tip(string(measures[j]) + " " + n.words("ms"))
			whiskers(point, x.at(n.Min), x.at(n.Max), y)
			g.add(point.add(marker(j, x.at(n.Median), y)))
		}
	}
	legend, at := element("g", "class", "legend"), []float64{12, 62, 112}
	for j, m := range measures {
		legend.add(marker(j, at[j], bottom+34).set("fill", ink, "stroke", ink, "class", "key"))
		legend.text("small", "start", at[j]+9, bottom+38, 11, string(m))
	}
	whiskers(legend, 172, 190, bottom+34)
	legend.text("small", "start", 196, bottom+38, 11, whiskersMean)
	svg.add(legend)
	html, err := svg.html()
	return chart{Title: "Latency p50 · p99 · p99.9", Note: "ms, logarithmic; left is better", SVG: html}, err
}

// marker is one of three shapes: a disc, a diamond and a ring.
func marker(shape int, x, y float64) *node {
	switch shape {
	case 0:
		return element("circle", "cx", x, "cy", y, "r", 4.5)
	case 1:
		return element("path", "d", fmt.Sprintf("M%.1f %.1fl5 5l-5 5l-5 -5z", x, y-5))
	}
	return element("circle", "class", "ring", "cx", x, "cy", y, "r", 4, "fill-opacity", .25, "stroke-width", 2)
}

// The curve's plot, within its picture.
const (
	plotLeft   = 38
	plotRight  = chartWidth - 10
	plotTop    = 8
	plotBottom = 190
)

// dashes tell the lines of systems apart where colours are not seen.
func dashes(system int) string {
	return []string{"", "7 3", "2 2.5", "9 3 2 3", "4 2", "1 3"}[system%6]
}

// curve draws the latency of all answers by percentile. As in HdrHistogram's plots each nine has the same room, so
// that the slow answers are seen; the slowest stands at the right end, whatever its percentile would be.
func (p *page) curve(id string, s *Scenario) (chart, error) {
	curves := make([][]Point, len(p.report.Systems))
	low, high, last := math.Inf(1), 0.0, 0.0
	for i, system := range p.report.Systems {
		curves[i] = s.Result(system.Name).Curve()
		curves[i] = slices.DeleteFunc(curves[i], func(at Point) bool { return at.Y <= 0 })
		for _, at := range curves[i] {
			low, high = min(low, at.Y), max(high, at.Y)
			if at.X < 100 {
				last = max(last, nines(at.X))
			}
		}
	}
	if high == 0 || last == 0 {
		return chart{}, nil
	}
	end := last + .7 // where 100 % stands
	y := logarithmic(low, high, plotBottom, plotTop)
	x := axis{low: 0, high: end, from: plotLeft, to: plotRight}
	rows := (len(curves) + 1) / 2
	svg := picture(id, "Latency by percentile, "+s.Name, "One line for each system, on logarithmic axes. The percentiles that matter are in the table.",
		float64(plotBottom+42+15*rows))
	grid := element("g", "class", "axis")
	for _, t := range y.ticks {
		grid.line("grid", plotLeft, y.at(t), plotRight, y.at(t), faint)
		grid.text("tick", "end", plotLeft-5, y.at(t)+3.5, 10.5, short(t))
	}
	grid.text("tick", "start", plotLeft+4, plotTop+9, 10.5, "ms")
	for _, percentile := range []float64{0, 50, 90, 99, 99.9, 99.99, 99.999} {
		if nines(percentile) > last+1e-9 {
			break
		}
		at := x.at(nines(percentile))
		grid.line("grid", at, plotTop, at, plotBottom, faint)
		grid.text("tick", "middle", at, plotBottom+14, 10.5, percent(percentile))
	}
	grid.line("grid", plotRight, plotTop, plotRight, plotBottom, faint)
	grid.text("tick", "end", plotRight+4, plotBottom+14, 10.5, "max")
	grid.text("tick", "middle", (plotLeft+plotRight)/2, plotBottom+28, 10.5, "percentile of the answers")
	svg.add(grid)
	var without []string // a curve
	drawn := 0
	for i, system := range p.report.Systems {
		if len(curves[i]) == 0 {
			without = append(without, system.Name+" ("+s.Result(system.Name).state(Number{})+")")
			continue
		}
		left, top := float64(margin+(drawn%2)*158), float64(plotBottom+44+15*(drawn/2))
		drawn++
		g := p.group(i)
		svg.add(g)
		g.line("curve", left, top-4, left+20, top-4, p.colour(i)).set("stroke-width", 2, "stroke-dasharray", dashes(i))
		g.text("small", "start", left+25, top, 10.5, system.Name)
		var path strings.Builder
		for j, at := range curves[i] {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(j, 1)], x.at(place(at.X, end)), y.at(at.Y))
		}
		g.add(element("path", "class", "curve", "d", path.String(), "fill", "none", "stroke", p.colour(i), "stroke-width", 2,
			"stroke-linejoin", "round", "stroke-dasharray", dashes(i)))
		for _, at := range curves[i] {
			spot := element("circle", "class", "spot", "cx", x.at(place(at.X, end)), "cy", y.at(at.Y), "r", 6, "fill-opacity", 0)
			g.add(spot.tip(fmt.Sprintf("%s: %s %% within %s ms", system.Name, percent(at.X), figures(at.Y))))
		}
	}
	html, err := svg.html()
	note := "ms, logarithmic; lower is better"
	if len(without) > 0 {
		note += "; without a line: " + strings.Join(without, ", ")
	}
	return chart{Title: "Latency by percentile", Note: note, SVG: html}, err
}

// nines is how many nines a percentile has: 1 of 90, 2 of 99, and something between of those between.
func nines(percentile float64) float64 { return -math.Log10(1 - percentile/100) }

// place is where a percentile stands, 100 at the end.
func place(percentile, end float64) float64 {
	if percentile >= 100 {
		return end
	}
	return nines(percentile)
}

// percent is a percentile with all its digits, of which the last say most.
func percent(percentile float64) string { return fmt.Sprintf("%g", percentile) }
