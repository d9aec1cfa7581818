package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"weir/loadtest/bench"
	"weir/loadtest/proc"
	"weir/loadtest/target"
)

func runBenchWatch(ctx context.Context, args []string) error {
	var names []string
	for _, s := range bench.Scenarios() {
		names = append(names, s.Name)
	}
	var o bench.WatchOptions
	f := flag.NewFlagSet("bench watch", flag.ContinueOnError)
	targets := f.String("targets", join(target.Etcd37, target.GRPCProxyEtcd37, target.Core, target.ProxyCore, target.ProxyEtcd37),
		"what to measure, the first of which is what ratios are to")
	scenarios := f.String("scenarios", strings.Join(names, ","), "who watches what")
	f.IntVar(&o.Connections, "connections", 100, "client connections to each target")
	f.IntVar(&o.Rounds, "rounds", 3, "turns of each target in each scenario")
	f.DurationVar(&o.Turn, "turn", 3*time.Second, "time that is written in each turn, besides what it takes to start and to watch")
	d := newDeeper("bench watch", args, f, "Delivery of events to watchers", watchText)
	quick := f.Bool("quick", false, "three scenarios, one short turn each: two minutes, to see that it works")
	if err := parse(f, args); err != nil {
		return err
	}
	if *quick {
		*scenarios, o.Rounds, o.Turn = "prefix-10k,keys-10k,streams-10k", 1, 1500*time.Millisecond
	}
	for _, s := range strings.Split(*targets, ",") {
		o.Targets = append(o.Targets, target.Kind(s))
	}
	var err error
	if o.Scenarios, err = bench.FindScenarios(strings.Split(*scenarios, ",")); err != nil {
		return err
	}
	bin, err := proc.OpenBin(ctx)
	if err != nil {
		return err
	}
	results, err := bench.RunWatches(ctx, bin, o, func(s string) { fmt.Fprintln(os.Stderr, s) })
	for _, r := range results {
		d.failed(r.Scenario.Name, string(r.Target), r.Failed)
	}
	return d.end(errors.Join(err, reportWatches(d, results)))
}

const watchText = "Each turn starts the servers anew, connects the clients, writes for a while with nobody watching, creates the watchers, and writes at a fixed " +
	"rate. CPU/event is the processor time of all servers from the first write to the last event, divided by the events; without the writes, what the same writes " +
	"take with nobody watching is taken away. Latency counts from when a write was due."

// reportWatches adds results as tables, with their ratios to the first target's of the same scenario.
// What has no turn without a failure is left out.
func reportWatches(d *deeper, results []*bench.WatchResult) error {
	delivery := table{{"scenario", "target", "turns", "CPU/event µs", "ratio", "without the writes' µs", "proxy's µs", "p50 ms", "p99 ms"}}
	memory := table{{"scenario", "target", "RSS/watcher B", "ratio", "after the events", "ratio", "live/watcher B", "ratio"}}
	upstream := table{{"scenario", "target", "store's CPU/write µs, nobody watching", "with the watchers", "watchers upstream"}}
	var base *bench.WatchResult
	for _, r := range results {
		if r.Turns() == 0 {
			continue
		}
		if base == nil || base.Scenario != r.Scenario {
			base = r
		}
		row := []string{r.Scenario.Name, string(r.Target)}
		proxy, isProxy := r.ProxyCPU()
		delivery = append(delivery, append(row[:2:2], fmt.Sprint(r.Turns()), spread(r.CPU(), 2), ratio(r.CPU().Median, base.CPU().Median),
			spread(r.AddedCPU(), 2), ifKnown(spread(proxy, 2), isProxy), spread(r.Latency(50), 1), spread(r.Latency(99), 1)))
		heap, ok := r.Heap()
		baseHeap, baseOK := base.Heap()
		created, loaded := r.RSS()
		baseCreated, baseLoaded := base.RSS()
		memory = append(memory, append(row[:2:2], spread(created, 0), ratio(created.Median, baseCreated.Median),
			spread(loaded, 0), ratio(loaded.Median, baseLoaded.Median),
			ifKnown(fmt.Sprintf("%.0f", heap), ok), ifKnown(ratio(heap, baseHeap), ok && baseOK)))
		if isProxy {
			without, with := r.StoreCPU()
			watchers, known := r.UpstreamWatchers()
			upstream = append(upstream, append(row[:2:2], spread(without, 0), spread(with, 0), ifKnown(spread(watchers, 0), known)))
		}
	}
	return d.add(delivery, memory, upstream)
}
