package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"weir/loadtest/bench"
	"weir/loadtest/proc"
	"weir/loadtest/target"
)

func runBenchCluster(ctx context.Context, args []string) error {
	var (
		o         bench.ClusterOptions
		recovery  bench.RecoveryOptions
		start     bench.ClusterStartOptions
		scenarios clusterScenarios
	)
	f := flag.NewFlagSet("bench cluster", flag.ContinueOnError)
	targets := f.String("targets", join(target.Etcd37Of3, target.CoreOf3), "what to measure, the first of which is what ratios are to")
	f.StringVar(&scenarios.workloads, "workloads", join(bench.ClusterWorkloads()...), "what clients ask for; \"\" for nothing")
	f.StringVar(&scenarios.clients, "clients", "1,64,512", "how many there are, each with one request under way")
	f.StringVar(&scenarios.at, "at", "members,leader", "whom they ask: all members in turn, or the leader")
	f.StringVar(&o.Dir, "dir", "", "where the data is, which should be a real disk; the system's directory for temporary files if it is not given")
	f.IntVar(&o.Connections, "connections", 16, "connections to each member, at most")
	f.IntVar(&o.Keys, "keys", 10_000, "keys in each store")
	f.IntVar(&o.ValueSize, "value-size", 256, "bytes of a value")
	f.IntVar(&o.Rounds, "rounds", 3, "turns of each target in each scenario")
	f.DurationVar(&o.WarmUp, "warm-up", 500*time.Millisecond, "time before a turn is measured")
	f.DurationVar(&o.Turn, "turn", 2*time.Second, "time that a turn is measured")
	f.IntVar(&recovery.Rounds, "kills", 7, "how often the leader of each target is killed; 0 for never")
	f.DurationVar(&recovery.Election, "election-timeout", time.Second, "of the members whose leader is killed")
	f.IntVar(&start.Keys, "start-keys", 1_000_000, "keys in each store that is started; 0 for not to measure it")
	f.IntVar(&start.Rounds, "starts", 3, "how often each target is started")
	f.IntVar(&start.Writes, "start-writes", 50_000, "puts after a start, before memory is measured again; at most start-keys")
	d := newDeeper("bench cluster", args, f, "Three members", "Requests to three members on one machine, the time until a write is answered after the leader was killed, "+
		"and starts with many keys.")
	if err := parse(f, args); err != nil {
		return err
	}
	for _, s := range strings.Split(*targets, ",") {
		o.Targets = append(o.Targets, target.Kind(s))
	}
	var err error
	if o.Scenarios, err = scenarios.list(); err != nil {
		return err
	}
	recovery.Targets, start.Targets = o.Targets, o.Targets
	recovery.Dir, start.Dir, start.ValueSize = o.Dir, o.Dir, o.ValueSize
	bin, err := proc.OpenBin(ctx)
	if err != nil {
		return err
	}
	return d.end(measureCluster(ctx, bin, d, o, recovery, start))
}

// measureCluster adds to d what it is asked for, as far as it comes.
func measureCluster(ctx context.Context, bin *proc.Bin, d *deeper, o bench.ClusterOptions, recovery bench.RecoveryOptions, start bench.ClusterStartOptions) error {
	progress := func(s string) { fmt.Fprintln(os.Stderr, s) }
	if len(o.Scenarios) > 0 {
		results, err := bench.RunCluster(ctx, bin, o, progress)
		if err := errors.Join(err, reportCluster(d, results)); err != nil {
			return err
		}
		for _, r := range results {
			d.failed(r.Scenario.String(), string(r.Target), r.Failed)
		}
	}
	if recovery.Rounds > 0 {
		results, err := bench.RunRecovery(ctx, bin, recovery, progress)
		if err := errors.Join(err, reportRecovery(d, results)); err != nil {
			return err
		}
	}
	if start.Keys > 0 {
		results, err := bench.RunClusterStart(ctx, bin, start, progress)
		if err := errors.Join(err, reportClusterStart(d, results)); err != nil {
			return err
		}
	}
	return nil
}

// clusterScenarios are the flags that say which scenarios there are: every combination.
type clusterScenarios struct{ workloads, clients, at string }

func (c clusterScenarios) list() ([]bench.ClusterScenario, error) {
	if c.workloads == "" {
		return nil, nil
	}
	workloads, err := bench.FindClusterWorkloads(strings.Split(c.workloads, ","))
	if err != nil {
		return nil, err
	}
	var all []bench.ClusterScenario
	for _, w := range workloads {
		for _, n := range strings.Split(c.clients, ",") {
			clients, err := strconv.Atoi(n)
			if err != nil || clients < 1 {
				return nil, fmt.Errorf("there cannot be %q clients", n)
			}
			for _, at := range strings.Split(c.at, ",") {
				s := bench.ClusterScenario{Workload: w, Clients: clients, LeaderOnly: at == "leader"}
				if s.At() != at {
					return nil, fmt.Errorf("clients ask the members or the leader, not %q", at)
				}
				all = append(all, s)
			}
		}
	}
	return all, nil
}

// reportCluster adds results as a table, with their ratios to the first target's of the same scenario. What has no
// turn without a failure is left out.
func reportCluster(d *deeper, results []*bench.ClusterResult) error {
	t := table{{"requests", "target", "clients", "at", "ops/s", "ratio", "CPU/op µs", "ops/CPU s ratio", "p50 ms", "p99 ms"}}
	var base *bench.ClusterResult
	for _, r := range results {
		if r.Turns() == 0 {
			continue
		}
		if base == nil || base.Scenario != r.Scenario {
			base = r
		}
		throughput, perCPU, comparable := r.Ratio(base)
		t = append(t, []string{string(r.Scenario.Workload), string(r.Target), strconv.Itoa(r.Scenario.Clients), r.Scenario.At(),
			spread(r.Throughput(), 0), ifKnown(spread(throughput, 2), comparable), spread(r.CPU(), 1), ifKnown(spread(perCPU, 2), comparable),
			spread(r.Latency(50), 2), spread(r.Latency(99), 2)})
	}
	return d.add(t)
}

func reportRecovery(d *deeper, results []*bench.RecoveryResult) error {
	t := table{{"leader killed", "target", "first write ms", "ratio", "all serve ms", "ratio", "killed member serves, after its start, ms", "ratio"}}
	for _, r := range results {
		row := []string{"", string(r.Target)}
		for _, of := range []func(*bench.RecoveryResult) bench.Spread{(*bench.RecoveryResult).FirstWrite, (*bench.RecoveryResult).All, (*bench.RecoveryResult).Back} {
			row = append(row, spread(of(r), 0), ratio(of(r).Median, of(results[0]).Median))
		}
		t = append(t, row)
	}
	return d.add(t)
}

func reportClusterStart(d *deeper, results []*bench.ClusterStartResult) error {
	type column = func(*bench.ClusterStartResult) bench.Spread
	t := table{{"start", "target", "all: first read s", "ratio", "last member's s", "ratio", "one member s", "ratio", "RSS MiB", "ratio", "after writes MiB", "ratio"}}
	for _, r := range results {
		row := []string{"", string(r.Target)}
		for _, of := range []column{(*bench.ClusterStartResult).First, (*bench.ClusterStartResult).All, (*bench.ClusterStartResult).One} {
			row = append(row, spread(of(r), 2), ratio(of(r).Median, of(results[0]).Median))
		}
		for _, of := range []column{(*bench.ClusterStartResult).RSS, (*bench.ClusterStartResult).RSSWritten} {
			row = append(row, spread(of(r), 0), ratio(of(r).Median, of(results[0]).Median))
		}
		t = append(t, row)
	}
	return d.add(t)
}
