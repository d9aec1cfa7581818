package scale

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"

	"weir/loadtest/proc"
	"weir/loadtest/report"
)

// checkTrials are runs of sizes that no cost comes from, about a rate of writes: other rates, other numbers of watchers and connections,
// several proxies, a tree of two levels, and watchers that want a part only. The machine, which has the clients too, is half idle in each.
func checkTrials(rate float64) []trial {
	t := trial{connections: 24, batch: 1, valueSize: smallValue}
	with := func(proxies []int, watchers int, rate float64) trial {
		t := t
		t.proxies, t.watchers, t.rate = proxies, watchers, rate
		return t
	}
	large, own := with([]int{2}, 48, rate), with([]int{4}, 200, 0.8*rate)
	large.valueSize = 1 << 10
	own.ownKeys, own.connections, own.batch = true, 200, 2
	return []trial{
		with([]int{1}, 240, 0.8*rate), with([]int{2}, 240, 0.8*rate), with([]int{4}, 240, 0.8*rate),
		with([]int{1, 3}, 240, 0.8*rate), with([]int{2}, 48, 1.2*rate), large, own,
	}
}

// title says what a trial is.
func (t trial) title() string {
	tree := proxiesText(t.proxies[0])
	for _, n := range t.proxies[1:] {
		tree += fmt.Sprintf(", %d below", n)
	}
	what := ""
	if t.ownKeys {
		what = " of a key each"
	}
	return fmt.Sprintf("%s; %d watchers%s on %d connections, %.0f writes/s of %d × %d B",
		tree, t.watchers, what, t.connections, t.rate, t.batch, t.valueSize)
}

func proxiesText(n int) string {
	if n == 1 {
		return "1 proxy"
	}
	return fmt.Sprintf("%d proxies", n)
}

// Check has the model predict runs of other sizes than those that it was measured in, and measures them. What is predicted is the
// processor time of the core and of each proxy (of a level, the mean), what a proxy sends to its clients, the median latency, and the
// watches at the core. The rate of writes is that with which the model's inputs were measured.
func Check(ctx context.Context, bin *proc.Bin, m Model, rate float64, e Effort, progress func(string)) (checks []report.Check, err error) {
	b, err := newBench(bin, e, progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	trials := checkTrials(rate)
	all := make([]samples, len(trials))
	for range e.Rounds {
		for i, t := range trials {
			t.name = t.title()
			s, err := b.run(ctx, t)
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], s)
		}
	}
	for i, t := range trials {
		checks = append(checks, m.check(t, all[i])...)
	}
	return checks, nil
}

// check compares what was measured in a trial with what is predicted of it.
func (m Model) check(t trial, measured samples) []report.Check {
	here := Machine{Cores: runtime.NumCPU(), Use: 1}
	// What was written is less than was wanted when the servers, or the clients, have too much to do.
	l := t.load()
	l.Events = l.Batch * measured.median(func(s sample) float64 { return s.writes / s.seconds })
	predicted := m.Tree(l, here, t.proxies)
	busy := measured.median(func(s sample) float64 { return s.busy })
	note := ""
	if busy > fullBusy {
		note = fmt.Sprintf("this machine was %.0f %% busy: processes waited for each other", 100*busy)
	}
	var checks []report.Check
	add := func(measure, unit string, predicted float64, of func(sample) float64) {
		c := report.Check{
			Name: t.title(), Measure: measure, Unit: unit, Predicted: predicted, Measured: measured.median(of),
			Low: math.Inf(1), High: math.Inf(-1), Note: note, Invalid: busy > saturated,
		}
		for _, s := range measured {
			c.Low, c.High = min(c.Low, of(s)), max(c.High, of(s))
		}
		checks = append(checks, c)
	}
	share := func(s sample, cpu float64) float64 { return percent(cpu / s.seconds / 1e6) }
	add("core", ofCore, percent(predicted.Core.Cores), func(s sample) float64 { return share(s, s.core) })
	for i, level := range predicted.Levels {
		name := "each proxy"
		if len(predicted.Levels) > 1 {
			name = fmt.Sprintf("each proxy of level %d", i+1)
		}
		add(name, ofCore, percent(level.Demand.Cores), func(s sample) float64 {
			sum := 0.0
			for _, cpu := range s.proxies[i] {
				sum += share(s, cpu)
			}
			return sum / float64(len(s.proxies[i]))
		})
	}
	leaf := l.of(predicted.Levels[len(predicted.Levels)-1].Fanout)
	add("messages of each proxy to clients", "kB/s", leaf.messageBytes()/1e3, func(s sample) float64 { return s.sent / s.seconds / 1e3 })
	add("p50", "ms", predicted.Latency.P50, func(s sample) float64 { return s.latency.P50 })
	add("watches at the core", "count", float64(t.proxies[0]), func(s sample) float64 { return s.upstream })
	if math.IsInf(predicted.Latency.P50, 1) {
		checks = slices.DeleteFunc(checks, func(c report.Check) bool { return c.Measure == "p50" })
		for i := range checks {
			checks[i].Note = "the model sees a queue without end on this machine, and predicts no latency"
		}
	}
	return checks
}
