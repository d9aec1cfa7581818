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
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"

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

// command is a word of the command line, or two, and what they do with the arguments behind them.
type command struct {
	name, does string
	run        func(ctx context.Context, args []string) error
}

// commands are all but flood, which bench fairness starts.
func commands() []command {
	return []command{
		{"bench", "everything for a while: throughput, latency, processor time per operation, memory; makes a report", runBench},
		{"bench list", "what that is: scenarios and systems", func(context.Context, []string) error { return listBench(os.Stdout) }},
		{"bench watch", "watchers: what an event and a watcher cost, with their live memory", runBenchWatch},
		{"bench memory", "a proxy that keeps a million keys: what it takes, and what many different reads make of it", runBenchMemory},
		{"bench fairness", "what others feel of a client that asks for ten times its share", runBenchFairness},
		{"bench cluster", "three members: requests, recovery when the leader is killed, start and memory with a million keys", runBenchCluster},
		{"bench scale", "how many proxies serve a million watchers: by a model, its inputs measured, its predictions checked", runBenchScale},
		{"report", "makes the report again, from its JSON, with what the benches of one thing have written with -json", runReport},
		{"differential", "the same random requests to etcd and to weir, all answers compared", runDifferential},
	}
}

func run(ctx context.Context, args []string) error {
	name, rest := split(args)
	if slices.Contains([]string{"help", "-h", "-help", "--help"}, name) {
		return usage(os.Stdout, "loadtest", commands())
	}
	if name == "flood" {
		return bench.RunFlood(ctx, rest, os.Stdout)
	}
	for _, c := range commands() {
		if c.name == name {
			return c.run(ctx, rest)
		}
	}
	said := fmt.Errorf("there is no command %q", name)
	if name == "" {
		said = errors.New("what to do?")
	}
	return errors.Join(usage(os.Stderr, "loadtest", commands()), said)
}

// usage tells what commands there are.
func usage(out io.Writer, program string, all []command) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s takes one of these words, and flags behind it, which -help lists:\n\n", program)
	for _, c := range all {
		fmt.Fprintf(t, "  %s\t%s\n", c.name, c.does)
	}
	return t.Flush()
}

// split parts the command from its arguments.
func split(args []string) (name string, rest []string) {
	if len(args) == 0 {
		return "", nil
	}
	if args[0] == "bench" && len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		return args[0] + " " + args[1], args[2:]
	}
	return args[0], args[1:]
}

// parse parses a command's flags, behind which there may be nothing.
func parse(f *flag.FlagSet, args []string) error {
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("%s does not know %q", f.Name(), f.Arg(0))
	}
	return nil
}

func runDifferential(ctx context.Context, args []string) (err error) {
	f := flag.NewFlagSet("differential", flag.ContinueOnError)
	kind := f.String("target", string(target.Core), "what to compare with etcd")
	seed := f.Uint64("seed", 0, "seed of the requests; 0 for a random one")
	steps := f.Int("steps", 100_000, "requests to send")
	if err := parse(f, args); err != nil {
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
