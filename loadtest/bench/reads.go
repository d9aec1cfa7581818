package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// ReadOptions are how RunReads measures. All must be positive.
type ReadOptions struct {
	Targets   []ReadTarget
	Scenarios []ReadScenario
	Rounds    int           // turns of each target in each scenario
	WarmUp    time.Duration // before a turn is measured
	Turn      time.Duration // measured
}

// ReadResult is what one target did in one scenario.
type ReadResult struct {
	Scenario ReadScenario
	Target   ReadTarget

	// Failed is why turns of the target have no part in the result: an answer was wrong or none, or a process ended.
	Failed []error

	turns []*readTurn // all that did not fail; without one the methods below must not be called, but for Turns
}

// readTurn is what was measured in one turn.
type readTurn struct {
	round   int
	took    time.Duration
	cpu     []float64               // of each process, in microseconds
	latency *hdrhistogram.Histogram // of each read
	counts  readCounts
}

func (t *readTurn) reads() float64 { return float64(t.latency.TotalCount()) }

func (t *readTurn) cpuPerRead() float64 { return sum(t.cpu) / t.reads() }

// Turns is how many turns did not fail.
func (r *ReadResult) Turns() int { return len(r.turns) }

// Throughput is in reads per second.
func (r *ReadResult) Throughput() Spread {
	return spreadOf(r.turns, func(t *readTurn) float64 { return t.reads() / t.took.Seconds() })
}

// CPU is the processor time of all of the target's processes for each read, in microseconds. If there are writes, theirs is
// in it.
func (r *ReadResult) CPU() Spread { return spreadOf(r.turns, (*readTurn).cpuPerRead) }

// Ratio is how many times the other's CPU this one's is, of turns of the same round. It is false if there are none.
func (r *ReadResult) Ratio(other *ReadResult) (Spread, bool) {
	var ratios []float64
	for _, t := range r.turns {
		if i := slices.IndexFunc(other.turns, func(o *readTurn) bool { return o.round == t.round }); i >= 0 {
			ratios = append(ratios, t.cpuPerRead()/other.turns[i].cpuPerRead())
		}
	}
	if len(ratios) == 0 {
		return Spread{}, false
	}
	return spreadOf(ratios, func(f float64) float64 { return f }), true
}

// ProxyCPU is the part of CPU that proxies took. Without a proxy it is false.
func (r *ReadResult) ProxyCPU() (Spread, bool) {
	return spreadOf(r.turns, func(t *readTurn) float64 { return sum(t.cpu[1:]) / t.reads() }), len(r.turns[0].cpu) > 1
}

// Latency is what the latencies of a percentage of the reads did not exceed, in milliseconds.
func (r *ReadResult) Latency(percentile float64) Spread {
	return spreadOf(r.turns, func(t *readTurn) float64 { return float64(t.latency.ValueAtPercentile(percentile)) / 1e3 })
}

// Upstream is how many requests the etcd that holds the data was sent per second: reads and checks, and requests on watch
// streams. It is false if nobody tells.
func (r *ReadResult) Upstream() (ranges, watch Spread, known bool) {
	perSecond := func(method string) Spread {
		return spreadOf(r.turns, func(t *readTurn) float64 { return t.counts.upstream[method] / t.took.Seconds() })
	}
	return perSecond("Range"), perSecond("Watch"), r.turns[0].counts.upstream != nil
}

// UpstreamPerRead is how many requests of any kind that etcd was sent for each read of a client. It is false if nobody tells.
func (r *ReadResult) UpstreamPerRead() (Spread, bool) {
	return spreadOf(r.turns, func(t *readTurn) float64 {
		var all float64
		for _, n := range t.counts.upstream {
			all += n
		}
		return all / t.reads()
	}), r.turns[0].counts.upstream != nil
}

// HitRatio is the part of the reads, from 0 to 1, that a proxy answered from memory. It is false if nobody tells.
func (r *ReadResult) HitRatio() (Spread, bool) {
	return spreadOf(r.turns, func(t *readTurn) float64 { return t.counts.hits / t.reads() }), r.turns[0].counts.hits >= 0
}

// RunReads measures reads, and returns results in the order of Scenarios, and of Targets for each of them. Every target is
// started once, as processes of its own, and their turns follow each other: A B C A B C. A turn that fails is in Failed,
// and the others go on. It ends by itself: it takes about Targets x Scenarios x Rounds x (WarmUp + Turn). progress is told
// what is going on. The targets' data is below a temporary directory, which is removed.
func RunReads(ctx context.Context, bin *proc.Bin, o ReadOptions, progress func(string)) (results []*ReadResult, err error) {
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the targets: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var targets []*target.Target
	defer func() {
		for _, tg := range targets {
			err = errors.Join(err, tg.Close())
		}
	}()
	for _, t := range o.Targets {
		progress("start " + t.Name)
		if err := target.Build(ctx, bin, t.Kind); err != nil {
			return nil, err
		}
		tg, err := target.StartWith(ctx, bin, t.Kind, filepath.Join(dir, t.Name), target.Options{ProxyArgs: t.ProxyArgs})
		if err != nil {
			return nil, err
		}
		targets = append(targets, tg)
		if err := fillReads(ctx, tg); err != nil {
			return nil, err
		}
	}
	for _, s := range o.Scenarios {
		var ofScenario []*ReadResult
		for _, t := range o.Targets {
			ofScenario = append(ofScenario, &ReadResult{Scenario: s, Target: t})
		}
		for round := range o.Rounds {
			for i, r := range ofScenario {
				progress(fmt.Sprintf("%s, round %d of %d: %s", s.Name, round+1, o.Rounds, r.Target.Name))
				t, err := readFrom(ctx, targets[i], s, o)
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				if err != nil {
					r.Failed = append(r.Failed, err)
					continue
				}
				t.round = round
				r.turns = append(r.turns, t)
			}
		}
		results = append(results, ofScenario...)
	}
	return results, nil
}

// fillReads puts what is read.
func fillReads(ctx context.Context, tg *target.Target) error {
	conn, err := target.Dial(tg.StoreAddr())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := fill(ctx, conn, lists*keysInList, keysInList, readKey, slices.Repeat([]byte("v"), readValueSize)); err != nil {
		return fmt.Errorf("fill %s: %w", tg.Kind, err)
	}
	return nil
}

// readFrom is one turn.
func readFrom(ctx context.Context, tg *target.Target, s ReadScenario, o ReadOptions) (*readTurn, error) {
	requests, err := s.requests()
	if err != nil {
		return nil, err
	}
	l, err := newReadLoad(ctx, tg, s.Clients, s.InFlight, requests, !s.Serializable)
	if err != nil {
		return nil, err
	}
	writing, stopWriting := context.WithCancel(l.Failed())
	written := make(chan struct{})
	go func() {
		defer close(written)
		if s.Writes == 0 {
			return
		}
		if err := l.write(writing, s.Writes); err != nil {
			l.Fail(err)
		}
	}()
	t := &readTurn{}
	err = t.measure(ctx, l, o)
	stopWriting()
	<-written
	if err = errors.Join(err, l.Close()); err != nil {
		return nil, err
	}
	return t, nil
}

// measure measures once the warm-up is over. All that is counted and timed is of the same reads.
func (t *readTurn) measure(ctx context.Context, l *readLoad, o ReadOptions) error {
	if _, err := l.run(o.WarmUp); err != nil {
		return err
	}
	before, err := countsOf(ctx, l.target)
	if err != nil {
		return err
	}
	if t.cpu, err = cpuOf(l.target.Processes(), func() error {
		start := time.Now()
		t.latency, err = l.run(o.Turn)
		t.took = time.Since(start)
		return err
	}); err != nil {
		return err
	}
	after, err := countsOf(ctx, l.target)
	t.counts = after.since(before)
	return err
}
