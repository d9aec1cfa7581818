package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"weir/loadtest/bench"
	"weir/loadtest/differential"
	"weir/loadtest/proc"
	"weir/loadtest/target"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "loadtest: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	command := ""
	if len(args) > 0 {
		command = args[0]
	}
	switch {
	case command == "bench" && len(args) > 1 && args[1] == "watch":
		return runBenchWatch(ctx, args[2:])
	case command == "bench" && len(args) > 1 && args[1] == "reads":
		return runBenchReads(ctx, args[2:])
	case command == "bench":
		return runBench(ctx, args[1:])
	case command == "differential":
		return runDifferential(ctx, args[1:])
	default:
		return fmt.Errorf("what to do? give bench, bench watch, bench reads or differential, not %q", command)
	}
}

func runBench(ctx context.Context, args []string) error {
	var o bench.Options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	targets := f.String("targets", join(target.Etcd37, target.Core, target.ProxyCore, target.ProxyEtcd37, target.GRPCProxyEtcd37),
		"what to measure, the first of which is what ratios are to")
	workloads := f.String("workloads", join(bench.Workloads()...), "how to load it")
	f.IntVar(&o.Connections, "connections", 8, "client connections to each target")
	f.IntVar(&o.InFlight, "in-flight", 32, "requests at a time on each connection")
	f.IntVar(&o.Keys, "keys", 10_000, "keys in each store")
	f.IntVar(&o.ValueSize, "value-size", 256, "bytes of a value")
	f.IntVar(&o.Rounds, "rounds", 3, "turns of each target under each workload")
	f.DurationVar(&o.WarmUp, "warm-up", 500*time.Millisecond, "time before a turn is measured")
	f.DurationVar(&o.Turn, "turn", 2500*time.Millisecond, "time that a turn is measured")
	if err := f.Parse(args); err != nil {
		return err
	}
	for _, s := range strings.Split(*targets, ",") {
		o.Targets = append(o.Targets, target.Kind(s))
	}
	for _, s := range strings.Split(*workloads, ",") {
		o.Workloads = append(o.Workloads, bench.Workload(s))
	}
	bin, err := proc.OpenBin(ctx)
	if err != nil {
		return err
	}
	results, err := bench.Run(ctx, bin, o, func(s string) { fmt.Fprintln(os.Stderr, s) })
	if err != nil {
		return err
	}
	return report(os.Stdout, results)
}

// report prints results, with their ratios to the first target's of the same workload.
func report(out io.Writer, results []*bench.Result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "workload\ttarget\tops/s\t(slowest-fastest turn)\tp50\tp99\tCPU/op\tops/s ratio\tCPU ratio\t")
	var base *bench.Result
	for _, r := range results {
		if base == nil || base.Workload != r.Workload {
			base = r
		}
		fmt.Fprintf(w, "%s\t%s\t%.0f\t(%.0f-%.0f)\t%v\t%v\t%v\t%.2f\t%.2f\t\n", r.Workload, r.Target, r.Throughput(), r.Slowest, r.Fastest,
			r.Latency(50), r.Latency(99), r.CPUPerOp().Round(100*time.Nanosecond),
			r.Throughput()/base.Throughput(), float64(r.CPUPerOp())/float64(base.CPUPerOp()))
	}
	return w.Flush()
}

func runDifferential(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("differential", flag.ContinueOnError)
	kind := f.String("target", string(target.Core), "what to compare with etcd")
	seed := f.Uint64("seed", 0, "seed of the requests; 0 for a random one")
	steps := f.Int("steps", 100_000, "requests to send")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	dir, err := os.MkdirTemp("", "weir-differential-")
	if err != nil {
		return fmt.Errorf("make a directory for the targets: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bin, err := proc.OpenBin(ctx)
	if err != nil {
		return err
	}
	var targets [2]*target.Target
	for i, k := range []target.Kind{target.Etcd37, target.Kind(*kind)} {
		if targets[i], err = target.Start(ctx, bin, k, filepath.Join(dir, fmt.Sprint(i)), target.CheapPasswords); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, targets[i].Close()) }()
	}
	fmt.Printf("seed %d, %d steps\n", *seed, *steps)
	compared, err := differential.Run(ctx, targets[0], targets[1], *seed, *steps)
	fmt.Println(compared)
	return err
}

func join[T ~string](list ...T) string {
	var s []string
	for _, e := range list {
		s = append(s, string(e))
	}
	return strings.Join(s, ",")
}
