package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// WatchOptions are how RunWatches measures. All must be positive.
type WatchOptions struct {
	Targets     []target.Kind
	Scenarios   []Scenario
	Connections int
	Rounds      int           // turns of each target in each scenario
	Turn        time.Duration // of writing, in each turn
}

// WatchResult is what one target did in one scenario.
type WatchResult struct {
	Scenario Scenario
	Target   target.Kind

	// Failed is why turns of the target have no part in the result: an event was lost or came twice, a watch or an
	// RPC was ended, or the target did not start.
	Failed []error

	turns []*watchTurn // all that did not fail; without one the methods below must not be called, but for Turns
	heap  float64      // see Heap; 0 is unknown
}

// Turns is how many turns did not fail.
func (r *WatchResult) Turns() int { return len(r.turns) }

// CPU is the processor time of all of the target's processes for each event delivered, in microseconds.
func (r *WatchResult) CPU() Spread {
	return spreadOf(r.turns, func(t *watchTurn) float64 { return sum(t.cpu) / float64(t.events) })
}

// AddedCPU is CPU without what the same writes, for the same time, cost before there were watchers.
func (r *WatchResult) AddedCPU() Spread {
	return spreadOf(r.turns, func(t *watchTurn) float64 { return (sum(t.cpu) - sum(t.idle)*t.idleShare) / float64(t.events) })
}

// ProxyCPU is the part of CPU that the proxy took. Without a proxy it is false.
func (r *WatchResult) ProxyCPU() (Spread, bool) {
	return spreadOf(r.turns, func(t *watchTurn) float64 { return t.cpu[len(t.cpu)-1] / float64(t.events) }), r.HasProxy()
}

// HasProxy tells whether a proxy stands before the process that holds the data.
func (r *WatchResult) HasProxy() bool { return len(r.turns[0].cpu) > 1 }

// StoreCPU is the processor time of the process that holds the data for each write, in microseconds, before there were
// watchers, and with them.
func (r *WatchResult) StoreCPU() (without, with Spread) {
	return spreadOf(r.turns, func(t *watchTurn) float64 { return t.idle[0] * t.idleShare / float64(t.writes) }),
		spreadOf(r.turns, func(t *watchTurn) float64 { return t.cpu[0] / float64(t.writes) })
}

// Latency is what the latencies of a percentage of the events did not exceed, in milliseconds, from the moment for which
// the write was scheduled to the arrival of the event.
func (r *WatchResult) Latency(percentile float64) Spread {
	return spreadOf(r.turns, func(t *watchTurn) float64 { return float64(t.latency.ValueAtPercentile(percentile)) / 1e3 })
}

// RSS is by how much the processes' memory grew for each watcher, in bytes: when they were created, and when they had been
// sent all events, which makes garbage.
func (r *WatchResult) RSS() (created, loaded Spread) {
	watchers := float64(r.Scenario.Watchers)
	return spreadOf(r.turns, func(t *watchTurn) float64 { return float64(t.rss) / watchers }),
		spreadOf(r.turns, func(t *watchTurn) float64 { return float64(t.rssLoaded) / watchers })
}

// Heap is by how much the live heap and the stacks of the processes grew for each watcher, in bytes, after garbage
// collection. It is false if one of the processes did not tell.
func (r *WatchResult) Heap() (float64, bool) { return r.heap, r.heap != 0 }

// UpstreamWatchers is how many watchers an etcd behind a proxy had. It is false if nobody tells.
func (r *WatchResult) UpstreamWatchers() (Spread, bool) {
	return spreadOf(r.turns, func(t *watchTurn) float64 { return float64(t.upstream) }), r.HasProxy() && r.turns[0].upstream >= 0
}

// RunWatches measures the delivery of events, and returns results in the order of Scenarios, and of Targets for each of
// them; a target that does not serve what a scenario is about is left out. Every turn has processes of its own, so
// that memory is measured from the start, and the turns of the targets follow each other: A B C A B C. A turn that fails is
// in Failed, and the others go on. It ends by itself, or with ctx, and then returns what it has with the error. progress is told what is
// going on. The targets' data is below a temporary directory, which is removed.
func RunWatches(ctx context.Context, bin *proc.Bin, o WatchOptions, progress func(string)) (results []*WatchResult, err error) {
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the targets: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	certificates, err := target.NewTLS(dir)
	if err != nil {
		return nil, err
	}
	for _, kind := range o.Targets {
		if err := target.Build(ctx, bin, kind); err != nil {
			return nil, err
		}
	}
	for _, s := range o.Scenarios {
		var ofScenario []*WatchResult
		for _, kind := range o.Targets {
			if !s.TLS || kind != target.Core {
				ofScenario = append(ofScenario, &WatchResult{Scenario: s, Target: kind})
			}
		}
		for round := range o.Rounds {
			for i, r := range ofScenario {
				progress(fmt.Sprintf("%s, round %d of %d: %s", s.Name, round+1, o.Rounds, r.Target))
				w := &watchRun{bin: bin, kind: r.Target, scenario: s, connections: o.Connections,
					dir: filepath.Join(dir, fmt.Sprintf("%s-%d-%d", s.Name, round, i))}
				if s.TLS {
					w.tls = certificates
				}
				r.measure(ctx, w, o.Turn, round == 0)
				if ctx.Err() != nil {
					return append(results, ofScenario...), context.Cause(ctx)
				}
			}
		}
		results = append(results, ofScenario...)
	}
	return results, nil
}

// measure adds a turn, and finds out the live memory if asked to.
func (r *WatchResult) measure(ctx context.Context, w *watchRun, length time.Duration, heap bool) {
	if heap && hasHeap(r.Target) {
		perWatcher, err := w.heap(ctx)
		if err != nil && ctx.Err() == nil {
			r.Failed = append(r.Failed, fmt.Errorf("measure live memory: %w", err))
		} else {
			r.heap = perWatcher
		}
	}
	if t, err := w.turn(ctx, length); ctx.Err() != nil {
		return // cut off, which is no failure
	} else if err != nil {
		r.Failed = append(r.Failed, err)
	} else {
		r.turns = append(r.turns, t)
	}
}
