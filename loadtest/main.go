package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"weir/loadtest/bench"
	"weir/loadtest/differential"
	"weir/loadtest/proc"
	"weir/loadtest/target"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // whoever does not want to wait until everything is put away sends a second signal
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "loadtest: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch command, args := split(args); command {
	case "bench":
		return runBench(ctx, args)
	case "bench list":
		return listBench(os.Stdout)
	case "bench watch":
		return runBenchWatch(ctx, args)
	case "bench reads":
		return runBenchReads(ctx, args)
	case "bench leases":
		return runBenchLeases(ctx, args)
	case "bench fairness":
		return runBenchFairness(ctx, args)
	case "bench cluster":
		return runBenchCluster(ctx, args)
	case "bench scale":
		return runBenchScale(ctx, args)
	case "report":
		return runReport(args)
	case "differential":
		return runDifferential(ctx, args)
	case "flood": // is started by bench fairness
		return bench.RunFlood(ctx, args, os.Stdout)
	default:
		return fmt.Errorf("what to do? give bench, bench list, bench watch, bench reads, bench leases, bench fairness, bench cluster, "+
			"bench scale, report or differential, not %q", command)
	}
}

// split parts the command from its flags.
func split(args []string) (command string, flags []string) {
	if len(args) == 0 {
		return "", nil
	}
	if args[0] == "bench" && len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		return args[0] + " " + args[1], args[2:]
	}
	return args[0], args[1:]
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
