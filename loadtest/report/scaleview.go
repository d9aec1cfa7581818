package report

import (
	"fmt"
	"html/template"
	"math"
	"slices"
)

// scaleView is the model's part of the page.
type scaleView struct {
	Failed           string // why there is nothing else
	Invalid          string // why what there is says nothing
	Watchers, Events string
	Trees            []treeView // of each case the first plan that is possible
	Plans, Inputs    Table
	PlanNotes        []string
	Checks           []checksView
	Reach            string // of the errors that can be drawn
	Method           []string
}

// treeView is a plan that is drawn.
type treeView struct {
	Case, Cores, StoreCores, NextProxy, Bandwidth, P50, P99 string
	Levels                                                  []levelView
}

type levelView struct{ Proxies, Fanout, Cores, Memory, Bandwidth, Limit string }

// checksView is all checks by one run.
type checksView struct {
	Name  string
	Notes []string
	Rows  []checkView
}

type checkView struct {
	Measure, Predicted, Error string
	Measured                  cell
	SVG                       template.HTML
}

// scaleViewOf is nil if there is nothing to show.
func scaleViewOf(s *Scale) (*scaleView, error) {
	if s == nil {
		return nil, nil
	}
	if s.Failed != "" {
		return &scaleView{Failed: s.Failed}, nil
	}
	v := &scaleView{Invalid: s.Invalid, Watchers: count(s.Watchers), Events: figures(s.Events), Plans: s.plans(), PlanNotes: s.planNotes(), Inputs: s.inputs(), Method: s.Method}
	for _, plan := range s.Plans {
		if plan.Impossible == "" && !slices.ContainsFunc(v.Trees, func(t treeView) bool { return t.Case == sentence(plan.Case) }) {
			v.Trees = append(v.Trees, treeOf(plan))
		}
	}
	reach := .1
	for _, c := range s.Checks {
		if off := math.Abs(c.off(c.Measured)); !c.Invalid && off > reach { // not if it is not a number
			reach = min(math.Ceil(off*10)/10, 1)
		}
	}
	v.Reach = fmt.Sprintf("%.0f %%", 100*reach)
	for _, c := range s.Checks {
		if n := len(v.Checks); n == 0 || v.Checks[n-1].Name != c.Name {
			v.Checks = append(v.Checks, checksView{Name: c.Name})
		}
		run := &v.Checks[len(v.Checks)-1]
		if c.Note != "" && !slices.Contains(run.Notes, c.Note) {
			run.Notes = append(run.Notes, c.Note)
		}
		svg, err := c.picture(reach)
		if err != nil {
			return nil, fmt.Errorf("scale: %w", err)
		}
		run.Rows = append(run.Rows, checkView{c.label(), figures(c.Predicted), c.errorText(), cellOf(c.number(), ""), svg})
	}
	return v, nil
}

func treeOf(plan Plan) treeView {
	t := treeView{Case: sentence(plan.Case), Cores: plural(plan.Cores, "core"), StoreCores: tick(plan.StoreCores), NextProxy: tick(plan.NextProxyCores),
		Bandwidth: tick(plan.Bandwidth / gbit), P50: milliseconds(plan.LatencyP50)}
	if plan.LatencyP99 > 0 {
		t.P99 = figures(plan.LatencyP99)
	}
	for i, l := range plan.Levels {
		below := "proxies"
		if i == len(plan.Levels)-1 {
			below = "watchers"
		}
		proxies := count(l.Proxies) + " proxies"
		if l.Proxies == 1 {
			proxies = "1 proxy"
		}
		t.Levels = append(t.Levels, levelView{proxies, count(l.Fanout) + " " + below, tick(l.BusyCores), bytesText(float64(l.Memory)), tick(l.Bandwidth / gbit), l.Limit})
	}
	return t
}

// picture draws by how much the prediction was off, with whiskers for its errors to the lowest and to the highest turn. What is
// further off than the picture reaches is drawn at its end.
func (c *Check) picture(reach float64) (template.HTML, error) {
	const width, height, y = 240, 16, 8
	x := axis{low: -reach, high: reach, from: 6, to: width - 6}
	svg := element("svg", "xmlns", "http://www.w3.org/2000/svg", "viewBox", fmt.Sprintf("0 0 %d %d", width, height),
		"width", width, "height", height, "role", "img")
	title, description := element("title"), element("desc")
	title.Text, description.Text = "Error of the prediction: "+c.errorText(), c.Name+", "+c.label()
	svg.add(title, description)
	svg.line("grid", x.from, y, x.to, y, faint)
	svg.line("whisker", x.at(0), 1, x.at(0), height-1, ink)
	if off := c.off(c.Measured); !c.Invalid && !math.IsNaN(off) {
		if c.Low > 0 && c.High > 0 {
			whiskers(svg, x.at(c.off(c.High)), x.at(c.off(c.Low)), y)
		}
		svg.add(marker(0, x.at(off), y).set("fill", "#0072b2"))
	}
	return svg.html()
}
