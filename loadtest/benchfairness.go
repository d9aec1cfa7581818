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

func runBenchFairness(ctx context.Context, args []string) error {
	var boundsNames, crowdNames, floodNames []string
	for _, b := range bench.AllBounds() {
		boundsNames = append(boundsNames, b.Name)
	}
	for _, c := range bench.Crowds() {
		crowdNames = append(crowdNames, c.Name)
	}
	for _, fl := range bench.Floods() {
		floodNames = append(floodNames, fl.Name)
	}
	var o bench.FairnessOptions
	f := flag.NewFlagSet("bench fairness", flag.ContinueOnError)
	targets := f.String("targets", join(target.ProxyCore, target.ProxyEtcd37), "proxies to measure")
	bounds := f.String("bounds", strings.Join(boundsNames, ","), "what the proxy bounds")
	crowds := f.String("crowds", strings.Join(crowdNames, ","), "what the clients do that do not flood")
	floods := f.String("floods", strings.Join(floodNames, ","), "what the one asks for that floods")
	f.IntVar(&o.Slots, "slots", 20, "requests upstream at a time")
	f.IntVar(&o.Times, "times", 10, "times its share of them that the one that floods has in flight")
	f.Float64Var(&o.Rate, "rate", 40, "requests per second of each client of a paced crowd")
	f.IntVar(&o.Rounds, "rounds", 3, "turns of each crowd without a flood, and with each of the floods")
	f.DurationVar(&o.WarmUp, "warm-up", time.Second, "time before a turn is measured")
	f.DurationVar(&o.Turn, "turn", 4*time.Second, "time that a turn is measured")
	d := newDeeper("bench fairness", args, f, "Fairness", "What a crowd of clients feels of one that asks for many times its share of the requests that a proxy "+
		"has upstream at a time: alone is without it. All numbers but the flood's own are the crowd's.")
	if err := parse(f, args); err != nil {
		return err
	}
	for _, s := range strings.Split(*targets, ",") {
		o.Targets = append(o.Targets, target.Kind(s))
	}
	var err error
	if o.Bounds, err = bench.FindBounds(strings.Split(*bounds, ",")); err != nil {
		return err
	}
	if o.Crowds, err = bench.FindCrowds(strings.Split(*crowds, ",")); err != nil {
		return err
	}
	if o.Floods, err = bench.FindFloods(strings.Split(*floods, ",")); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the program that floods: %w", err)
	}
	o.FloodCommand = []string{self, "flood"}
	bin, err := proc.OpenBin(ctx)
	if err != nil {
		return err
	}
	results, err := bench.RunFairness(ctx, bin, o, func(s string) { fmt.Fprintln(os.Stderr, s) })
	return d.end(errors.Join(err, reportFairness(d, results)))
}

// reportFairness adds results as a table.
func reportFairness(d *deeper, results []*bench.FairnessResult) error {
	rows := table{{"crowd, flood", "target, bounds", "p50 ms alone", "flooded", "p99 ms alone", "flooded", "ratio", "aim", "crowd's requests/s", "flood's", "refused"}}
	for _, r := range results {
		answered, refused := r.FloodThroughput()
		rows = append(rows, []string{
			r.Crowd.Name + ", " + r.Flood.Name, string(r.Target) + ", " + r.Bounds.Name, spread(r.Alone(50), 2), spread(r.Flooded(50), 2),
			spread(r.Alone(99), 2), spread(r.Flooded(99), 2), spread(r.Ratio(99), 2), atMost(2),
			spread(r.Throughput(), 0), spread(answered, 0), spread(refused, 0),
		})
	}
	return d.add(rows)
}
