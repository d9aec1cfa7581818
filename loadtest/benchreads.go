package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"weir/loadtest/bench"
	"weir/loadtest/proc"
)

func runBenchReads(ctx context.Context, args []string) error {
	var scenarioNames, targetNames []string
	for _, s := range bench.ReadScenarios() {
		scenarioNames = append(scenarioNames, s.Name)
	}
	for _, t := range bench.ReadTargets() {
		targetNames = append(targetNames, t.Name)
	}
	var (
		o bench.ReadOptions
		m bench.MemoryOptions
	)
	f := flag.NewFlagSet("bench reads", flag.ContinueOnError)
	targets := f.String("targets", strings.Join(targetNames, ","), "what to measure, the first of which is what ratios are to")
	scenarios := f.String("scenarios", strings.Join(scenarioNames, ","), "who reads what; \"\" for memory only")
	f.IntVar(&o.Rounds, "rounds", 3, "turns of each target in each scenario")
	f.DurationVar(&o.WarmUp, "warm-up", 400*time.Millisecond, "time before a turn is measured")
	f.DurationVar(&o.Turn, "turn", 1500*time.Millisecond, "time that a turn is measured")
	f.IntVar(&m.Keys, "memory-keys", 1_000_000, "keys that a proxy keeps while its memory is measured; 0 for not to measure it")
	f.Int64Var(&m.Reads, "memory-reads", 500_000, "different reads that this proxy then answers")
	d := newDeeper("bench reads", args, f, "Gets and lists", "What a proxy answers from memory, and what it asks for each of it upstream. CPU/read is the processor time of "+
		"all servers, divided by the reads.")
	quick := f.Bool("quick", false, "one short turn of each target, and a fifth of the keys and reads for memory: a minute and a half, to see that it works")
	if err := parse(f, args); err != nil {
		return err
	}
	if *quick { // what is not said otherwise
		brief := map[string]string{"rounds": "1", "warm-up": "200ms", "turn": "600ms", "memory-keys": "200000", "memory-reads": "100000"}
		f.Visit(func(given *flag.Flag) { delete(brief, given.Name) })
		for name, value := range brief {
			if err := f.Set(name, value); err != nil {
				return err
			}
		}
	}
	var err error
	if o.Targets, err = bench.FindReadTargets(strings.Split(*targets, ",")); err != nil {
		return err
	}
	if *scenarios != "" {
		if o.Scenarios, err = bench.FindReadScenarios(strings.Split(*scenarios, ",")); err != nil {
			return err
		}
	}
	bin, err := proc.OpenBin(ctx)
	if err != nil {
		return err
	}
	progress := func(s string) { fmt.Fprintln(os.Stderr, s) }
	var results []*bench.ReadResult
	if len(o.Scenarios) > 0 {
		if results, err = bench.RunReads(ctx, bin, o, progress); err != nil {
			return d.end(err)
		}
	}
	for _, r := range results {
		d.failed(r.Scenario.Name, r.Target.Name, r.Failed)
	}
	if err := reportReads(d, results); err != nil {
		return d.end(err)
	}
	if m.Keys > 0 {
		memory, err := bench.RunReadMemory(ctx, bin, m, progress)
		if err != nil {
			return d.end(err)
		}
		return d.end(reportMemory(d, memory))
	}
	return d.end(nil)
}

// reportReads adds results as tables, with their ratios to the first target's of the same scenario. What
// has no turn without a failure is left out.
func reportReads(d *deeper, results []*bench.ReadResult) error {
	cost := table{{"scenario", "target", "turns", "reads/s", "CPU/read µs", "ratio", "aim", "proxy's µs", "p50 ms", "p99 ms", "p99.9 ms"}}
	upstream := table{{"scenario", "target", "clients", "reads/s", "reads and checks upstream/s", "watch requests upstream/s", "requests upstream/read", "hit ratio"}}
	alone := table{{"scenario", "target", "p50 ms", "aim", "p99 ms", "aim"}}
	results = slices.DeleteFunc(slices.Clone(results), func(r *bench.ReadResult) bool { return r.Turns() == 0 })
	bases := map[string]*bench.ReadResult{} // by scenario
	for _, r := range slices.Backward(results) {
		bases[r.Scenario.Name] = r
	}
	for _, r := range results {
		base := bases[r.Scenario.Name]
		row := []string{r.Scenario.Name, r.Target.Name}
		ratios, comparable := r.Ratio(base)
		proxy, isProxy := r.ProxyCPU()
		cost = append(cost, append(row[:2:2], fmt.Sprint(r.Turns()), spread(r.Throughput(), 0), spread(r.CPU(), 1),
			ifKnown(spread(ratios, 2), comparable), ifKnown(atMost(r.Scenario.Aim), r.Target.Aimed() && r.Scenario.Aim > 0),
			ifKnown(spread(proxy, 1), isProxy), spread(r.Latency(50), 2), spread(r.Latency(99), 2), spread(r.Latency(99.9), 2)))
		ranges, watch, known := r.Upstream()
		perRead, _ := r.UpstreamPerRead()
		hits, hitsKnown := r.HitRatio()
		if known || hitsKnown {
			upstream = append(upstream, append(row[:2:2], fmt.Sprint(r.Scenario.Clients), spread(r.Throughput(), 0),
				ifKnown(spread(ranges, 0), known), ifKnown(spread(watch, 0), known), ifKnown(spread(perRead, 3), known),
				ifKnown(spread(hits, 3), hitsKnown)))
		}
		if r.Scenario.Clients == 1 {
			for _, percentile := range []float64{50, 99} {
				aim := ""
				if trip := bases[bench.OneSerializable]; trip != nil && r.Scenario.Name == bench.OneLinearizable && r.Target.Aimed() {
					aim = atMost(base.Latency(percentile).Median + trip.Latency(percentile).Median)
				}
				row = append(row, spread(r.Latency(percentile), 3), aim)
			}
			alone = append(alone, row)
		}
	}
	return d.add(cost, alone, upstream)
}

func atMost(f float64) string { return fmt.Sprintf("≤ %.3g", f) }

// reportMemory adds the memory of a proxy as tables.
func reportMemory(d *deeper, r *bench.MemoryResult) error {
	bytes, keys := float64(r.Bytes), float64(r.Keys)
	perKey := func(n int64) string { return fmt.Sprintf("%.0f", float64(n)/keys) }
	kept := table{
		{"a proxy's memory", "keys", "bytes/key", "ratio to keys and values", "aim"},
		{"keys and values", fmt.Sprint(r.Keys), perKey(r.Bytes), "1.00", ""},
		{"live", fmt.Sprint(r.Keys), perKey(r.Heap), ratio(float64(r.Heap), bytes), "≤ 1.50"},
		{"live after the reads", fmt.Sprint(r.Keys), perKey(r.HeapAfter), ratio(float64(r.HeapAfter), bytes), ""},
		{"RSS", fmt.Sprint(r.Keys), perKey(r.RSS), ratio(float64(r.RSS), bytes), ""},
	}
	during := table{{"different reads", "RSS MiB", "ratio to keys and values"}}
	for i, rss := range r.RSSDuring {
		during = append(during, []string{fmt.Sprint(r.Reads * int64(i+1) / int64(len(r.RSSDuring))), fmt.Sprint(rss >> 20), ratio(float64(rss), bytes)})
	}
	if err := d.add(kept, during); err != nil {
		return err
	}
	return d.say(fmt.Sprintf("For the proxy's memory the keys were loaded in %v; the reads took %v, %.0f %% of them were answered from memory.",
		r.LoadTook.Round(10*time.Millisecond), r.ReadsTook.Round(10*time.Millisecond), 100*r.HitRatio))
}
