package scale

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"

	"weir/loadtest/report"
)

// Plan is a tree that serves a load: a core, and levels of proxies below it.
type Plan struct {
	Load    Load
	Machine Machine
	Core    Demand
	Levels  []Level // from the core down to the clients; none if the core serves them itself
	// NextProxy is by how many cores the core is busier for each proxy that joins it. One that joins a proxy costs it nothing.
	NextProxy float64
	Latency   Latency
}

// Level is all proxies that are equally far from the core.
type Level struct {
	Proxies int
	Fanout  int // watchers, or proxies, that each of them serves at most
	Demand  Demand
	Limit   string // what each would first have too little of
}

// maxLevels is how deep trees are that are thought of. Already three are more than anything that can be paid for.
const maxLevels = 4

// Plans returns a tree for each number of levels with which all servers keep the machine's limits, the one of the fewest
// proxies first. Watchers are served by the lowest level alone. It is an error, which says what is short, if there is none.
//
// What a level must have depends only on what is below it: each proxy is given as much as it can bear, from the leaves up, and no
// tree of as many levels has fewer proxies.
func (m Model) Plans(l Load, on Machine) ([]Plan, error) {
	var plans []Plan
	var refused []error
	for depth := range maxLevels + 1 {
		p, err := m.plan(l, on, depth)
		if err != nil {
			refused = append(refused, err)
			continue
		}
		plans = append(plans, p)
	}
	if len(plans) == 0 {
		return nil, fmt.Errorf("no tree of up to %d levels serves %d watchers: %w", maxLevels, l.Watchers, errors.Join(refused...))
	}
	slices.SortStableFunc(plans, func(a, b Plan) int { return cmp.Compare(a.proxies(), b.proxies()) })
	return plans, nil
}

// plan is the smallest tree of a number of levels.
func (m Model) plan(l Load, on Machine, depth int) (Plan, error) {
	sizes, below := make([]int, depth), l
	for i := depth - 1; i >= 0; i-- {
		proxies := i < depth-1
		most := sort.Search(below.Watchers, func(n int) bool { return !on.holds(m.Proxy.demand(below.of(n+1), proxies)) })
		if most == 0 {
			what, _ := on.limit(m.Proxy.demand(below.of(1), proxies))
			return Plan{}, fmt.Errorf("a proxy of level %d cannot serve a single client: %s", i+1, what)
		}
		sizes[i] = ceilDiv(below.Watchers, most)
		below = l.ofDownstream(sizes[i])
	}
	p := m.Tree(l, on, sizes)
	if what, part := on.limit(p.Core); part > 1 {
		return p, fmt.Errorf("with %d levels the core has %.1f times as much to do as its limit allows: %s", depth, part, what)
	}
	return p, nil
}

// Tree is what a tree takes that has so many proxies at each level, from the core down, whether or not it keeps the limits.
func (m Model) Tree(l Load, on Machine, proxies []int) Plan {
	p := Plan{Load: l, Machine: on, Levels: make([]Level, len(proxies))}
	below := l // what the level above serves
	for i := len(proxies) - 1; i >= 0; i-- {
		n := proxies[i]
		level := Level{Proxies: n, Fanout: ceilDiv(below.Watchers, n)}
		level.Demand = m.Proxy.demand(below.of(level.Fanout), i < len(proxies)-1)
		level.Limit, _ = on.limit(level.Demand)
		p.Levels[i] = level
		below = l.ofDownstream(n)
	}
	p.Core = m.Core.demand(below, len(proxies) > 0)
	p.NextProxy = m.Core.demand(l.ofDownstream(1), true).Cores - m.Core.demand(l.ofDownstream(0), true).Cores
	p.Latency = m.latency(p)
	return p
}

// latency is what the events of a plan take. Percentiles of what follows each other do not add up; to add them is to suppose that
// an event is late everywhere at once, so P99 is an upper bound.
func (m Model) latency(p Plan) Latency {
	sum := m.Direct
	add := func(d Demand, idle float64) {
		q := p.Machine.queue(d, idle, p.Load)
		sum.P50 += q.p50()
		sum.P99 += q.p99()
	}
	add(p.Core, m.Core.Idle)
	for _, level := range p.Levels {
		sum.P50 += m.Hop.P50
		sum.P99 += m.Hop.P99
		add(level.Demand, m.Proxy.Idle)
	}
	return sum
}

func (p Plan) proxies() int {
	n := 0
	for _, level := range p.Levels {
		n += level.Proxies
	}
	return n
}

// Report is the plan as a report has it.
func (p Plan) Report() report.Plan {
	r := report.Plan{
		Case: p.Load.Name, Cores: p.Machine.Cores, Proxies: p.proxies(),
		StoreCores: p.Core.Cores, NextProxyCores: p.NextProxy, Bandwidth: p.Core.Bandwidth,
		LatencyP50: p.Latency.P50, LatencyP99: p.Latency.P99,
	}
	for _, level := range p.Levels {
		r.Levels = append(r.Levels, report.Level{
			Proxies: level.Proxies, Fanout: level.Fanout, BusyCores: level.Demand.Cores,
			Memory: int64(level.Demand.Memory), Bandwidth: level.Demand.Bandwidth, Limit: level.Limit,
		})
	}
	what, part := p.Machine.limit(p.Core)
	r.Note = fmt.Sprintf("the core has %.2f of its %d cores busy; %s is what it would have too little of first, and it takes %.0f %% of that %.0f %% of it "+
		"which may be in use", p.Core.Cores, p.Machine.Cores, what, 100*part, 100*p.Machine.Use)
	if len(p.Levels) == 0 {
		r.Note = "no proxy is needed: " + r.Note
	}
	return r
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }
