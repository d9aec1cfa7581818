package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// Options are how Run measures. All must be positive.
type Options struct {
	Targets     []target.Kind
	Workloads   []Workload
	Connections int
	InFlight    int // requests at a time, on each connection
	Keys        int
	ValueSize   int // in bytes
	Rounds      int // turns of each target under each workload
	WarmUp      time.Duration
	Turn        time.Duration // measured
}

// Result is what one target did under one workload, all turns together.
type Result struct {
	Workload Workload
	Target   target.Kind
	Ops      int64
	// Took is the time measured, CPU the processor time of all of the target's processes in it.
	Took, CPU time.Duration
	// Slowest and Fastest are the throughputs, per second, of single turns: how far to trust the rest.
	Slowest, Fastest float64

	latency *hdrhistogram.Histogram
}

// Throughput is in operations per second.
func (r *Result) Throughput() float64 { return float64(r.Ops) / r.Took.Seconds() }

// Latency is the latency that a percentage of the requests did not exceed.
func (r *Result) Latency(percentile float64) time.Duration {
	return time.Duration(r.latency.ValueAtPercentile(percentile)) * time.Microsecond
}

// CPUPerOp is the server's processor time per operation.
func (r *Result) CPUPerOp() time.Duration { return r.CPU / time.Duration(max(r.Ops, 1)) }

func (r *Result) add(t turn) {
	throughput := float64(t.ops) / t.took.Seconds()
	if r.latency == nil {
		r.latency, r.Slowest = newHistogram(), throughput
	}
	r.Slowest, r.Fastest = min(r.Slowest, throughput), max(r.Fastest, throughput)
	r.Ops += t.ops
	r.Took += t.took
	r.CPU += t.cpu
	r.latency.Merge(t.latency)
}

// Run measures, and returns results in the order of Workloads, and of Targets for each of them. It ends by itself: it
// takes about Targets x Workloads x Rounds x (WarmUp + Turn). progress is told what is going on. The targets' data is below
// a temporary directory, which is removed.
func Run(ctx context.Context, bin *proc.Bin, o Options, progress func(string)) (results []*Result, err error) {
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the targets: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var servers []*server
	defer func() {
		for _, s := range servers {
			s.disconnect()
			err = errors.Join(err, s.Close())
		}
	}()
	for _, kind := range o.Targets {
		progress("start " + string(kind))
		tg, err := target.Start(ctx, bin, kind, filepath.Join(dir, string(kind)))
		if err != nil {
			return nil, err
		}
		s, err := connect(tg, o)
		if err != nil {
			return nil, errors.Join(err, tg.Close())
		}
		servers = append(servers, s)
		if err := s.fill(ctx); err != nil {
			return nil, err
		}
	}
	for _, w := range o.Workloads {
		ofWorkload := make([]*Result, len(servers))
		for i, s := range servers {
			ofWorkload[i] = &Result{Workload: w, Target: s.Kind}
		}
		for round := range o.Rounds {
			for i, s := range servers {
				progress(fmt.Sprintf("%s, round %d of %d: %s", w, round+1, o.Rounds, s.Kind))
				t, err := s.load(ctx, w, o)
				if err != nil {
					return nil, err
				}
				ofWorkload[i].add(t)
			}
		}
		results = append(results, ofWorkload...)
	}
	return results, nil
}
