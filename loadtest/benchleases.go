package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"weir/loadtest/bench"
	"weir/loadtest/proc"
	"weir/loadtest/target"
)

func runBenchLeases(ctx context.Context, args []string) error {
	var names []string
	for _, s := range bench.LeaseScenarios() {
		names = append(names, s.Name)
	}
	var o bench.LeaseOptions
	f := flag.NewFlagSet("bench leases", flag.ContinueOnError)
	targets := f.String("targets", join(target.Etcd37, target.Core, target.ProxyCore, target.ProxyEtcd37, target.ProxyProxyCore),
		"what to measure, the first of which is what ratios are to")
	scenarios := f.String("scenarios", strings.Join(names, ","), "who keeps which leases alive")
	f.IntVar(&o.Rounds, "rounds", 3, "turns of each target in each scenario")
	f.DurationVar(&o.WarmUp, "warm-up", time.Second, "time before a turn is measured, when all leases are there")
	f.DurationVar(&o.Turn, "turn", 4*time.Second, "time that a turn is measured")
	d := newDeeper("bench leases", args, f, "Pings of leases", "Processor time of all servers, and of the store alone, divided by the pings that were answered.")
	if err := parse(f, args); err != nil {
		return err
	}
	for _, s := range strings.Split(*targets, ",") {
		o.Targets = append(o.Targets, target.Kind(s))
	}
	var err error
	if o.Scenarios, err = bench.FindLeaseScenarios(strings.Split(*scenarios, ",")); err != nil {
		return err
	}
	bin, err := proc.OpenBin(ctx)
	if err != nil {
		return err
	}
	results, err := bench.RunLeases(ctx, bin, o, func(s string) { fmt.Fprintln(os.Stderr, s) })
	if err != nil {
		return d.end(err)
	}
	for _, r := range results {
		d.failed(r.Scenario.Name, string(r.Target), r.Failed)
	}
	return d.end(reportLeases(d, results))
}

// reportLeases adds results as a table, with their ratios to the first target's of the same scenario. What has
// no turn without a failure is left out.
func reportLeases(d *deeper, results []*bench.LeaseResult) error {
	pings := table{{"scenario", "target", "turns", "pings/s", "CPU/ping µs", "ratio", "store's µs", "ratio", "p50 ms", "p99 ms", "p99.9 ms", "streams ended"}}
	var base *bench.LeaseResult
	for _, r := range results {
		if r.Turns() == 0 {
			continue
		}
		if base == nil || base.Scenario != r.Scenario {
			base = r
		}
		all, store, comparable := r.Ratio(base)
		pings = append(pings, []string{r.Scenario.Name, string(r.Target), fmt.Sprint(r.Turns()), spread(r.Throughput(), 0),
			spread(r.CPU(), 2), ifKnown(spread(all, 2), comparable), spread(r.StoreCPU(), 2), ifKnown(spread(store, 2), comparable),
			spread(r.Latency(50), 2), spread(r.Latency(99), 2), spread(r.Latency(99.9), 2), spread(r.Ended(), 0)})
	}
	return d.add(pings)
}
