package scale

import (
	"fmt"

	"weir/loadtest/report"
)

// Inputs are what was measured, for a Model.
type Inputs struct {
	Model Model
	Rate  float64 // writes a second of most trials
	// Busiest is the part of this machine that was busy in the trial in which most of it was, and in which that was.
	Busiest      float64
	BusiestTrial string
}

// invalid is why nothing follows from the inputs; "" if something does.
func (in Inputs) invalid() string {
	if in.Busiest <= saturated {
		return ""
	}
	return fmt.Sprintf("this machine was %.0f %% busy while the inputs were measured (%s), so that they are of how processes wait for each other, and no "+
		"plan and no prediction follows from them. Measure again when nothing else runs, with fewer -events, or on a machine with more cores.",
		percent(in.Busiest), in.BusiestTrial)
}

// Report is the inputs as a report has them.
func (in Inputs) Report() []report.Input {
	const ms = "ms"
	m := in.Model
	l := &inputList{rate: in.Rate}
	l.server("core", "a write", "watchers at the core", m.Core)
	l.server("proxy", "a batch from upstream", "watchers at a proxy over a core", m.Proxy)
	l.add("core: each proxy before it, at rest", percent(m.Core.Downstream), ofCore, "1 and %d proxies, no writes", quietProxies)
	l.add("what one goroutine does of a message", m.Proxy.Serial, micros, "profile of a proxy, %d watchers on %d connections", serialWatchers, fewWatchers)
	l.add("what one goroutine does of a write to a connection", m.Proxy.SerialWake, micros, "profile of a proxy, %d connections", serialConns)
	l.add("latency at a watcher of the core, p50", m.Direct.P50, ms, "watchers at the core, few")
	l.add("latency at a watcher of the core, p99", m.Direct.P99, ms, "watchers at the core, few")
	l.add("what a proxy between adds to the p50", m.Hop.P50, ms, "watchers at a proxy over a core, few, and at the core")
	l.add("what a proxy between adds to the p99", m.Hop.P99, ms, "watchers at a proxy over a core, few, and at the core")
	l.add("how busy this machine was at most", percent(in.Busiest), "%", "%s", in.BusiestTrial)
	return l.inputs
}

// Units of inputs.
const (
	micros = "µs"
	ofCore = "% of a core"
	kib    = "KiB"
)

func percent(part float64) float64 { return 100 * part }

// inputList makes a list of inputs.
type inputList struct {
	rate   float64
	inputs []report.Input
}

func (l *inputList) add(name string, value float64, unit, from string, args ...any) {
	l.inputs = append(l.inputs, report.Input{Name: name, Value: value, Unit: unit, From: fmt.Sprintf(from, args...)})
}

// server adds what a server costs, of which what comes in is called so.
func (l *inputList) server(name, incoming, where string, c Costs) {
	const kilo = 1 << 10
	add := func(what string, value float64, unit, from string, args ...any) {
		l.add(name+": "+what, value, unit, where+", "+from, args...)
	}
	add("at rest", percent(c.Idle), ofCore, "few, no writes")
	add(incoming, c.In.Batch, micros, "few, %.0f writes a second, less what the following take of it", l.rate)
	add(incoming+", each event", c.In.Event, micros, "1 and %d events in a write", batchEvents)
	add(incoming+", each KiB of keys and values", c.In.Byte*kilo, micros, "values of %d B and %d B", smallValue, largeValue)
	add("a message to a watcher", c.Out.Batch, micros, "%d and %d on as many connections", fewWatchers, moreWatchers)
	add("a message to a watcher, each event", c.Out.Event, micros, "the same for 1 and %d events in a write", batchEvents)
	add("a message to a watcher, each KiB of keys and values", c.Out.Byte*kilo, micros, "the same for values of %d B and %d B", smallValue, largeValue)
	add("a write to a connection", c.Wake, micros, "%d and %d, each on a connection of its own", fewWatchers, moreConns)
	add("memory", c.Memory/kilo, kib, "RSS with few")
	add("memory of a watcher", c.WatcherMemory/kilo, kib, "RSS with %d, under load", crowdWatchers)
	add("memory of a connection", c.ConnectionMemory/kilo, kib, "RSS with %d connections, under load", crowdConns)
}
