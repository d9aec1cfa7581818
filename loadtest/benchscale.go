package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"

	"weir/loadtest/proc"
	"weir/loadtest/scale"
)

func runBenchScale(ctx context.Context, args []string) error {
	o := scale.DefaultOptions()
	f := flag.NewFlagSet("bench scale", flag.ContinueOnError)
	f.IntVar(&o.Watchers, "watchers", o.Watchers, "watchers to plan for")
	f.Float64Var(&o.Events, "events", o.Events, "events a second to plan for")
	f.Float64Var(&o.Batch, "batch", o.Batch, "events that are written together, in one transaction")
	f.IntVar(&o.ValueSize, "value-size", o.ValueSize, "bytes of a value")
	cores := f.String("cores", strings.ReplaceAll(strings.Trim(fmt.Sprint(o.Cores), "[]"), " ", ","), "cores of the machines to plan for, with one plan for each number of these")
	f.Float64Var(&o.MemoryPerCore, "memory", o.MemoryPerCore, "GiB of memory that a machine has for each core")
	f.Float64Var(&o.LinkGbit, "link", o.LinkGbit, "Gbit/s that can leave a machine")
	f.Float64Var(&o.Use, "use", o.Use, "part of a machine's cores, memory and link that may be used")
	f.IntVar(&o.Effort.Rounds, "rounds", o.Effort.Rounds, "runs of each trial")
	f.DurationVar(&o.Effort.Length, "length", o.Effort.Length, "time that is measured in each run")
	quick := f.Bool("quick", false, "one short run of each trial: a minute, to see that it works")
	if err := parse(f, args); err != nil {
		return err
	}
	if *quick {
		o.Effort = scale.Quick()
	}
	o.Cores = nil
	for _, s := range strings.FieldsFunc(*cores, func(r rune) bool { return r == ' ' || r == ',' }) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("cores of machines: %w", err)
		}
		o.Cores = append(o.Cores, n)
	}
	bin, err := proc.OpenBin(ctx)
	if err != nil {
		return err
	}
	s, err := scale.Run(ctx, bin, o, func(what string) { fmt.Fprintln(os.Stderr, what) })
	if err != nil {
		return err
	}
	return s.WriteMarkdown(os.Stdout)
}
