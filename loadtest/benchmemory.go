package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"weir/loadtest/bench"
	"weir/loadtest/proc"
)

func runBenchMemory(ctx context.Context, args []string) error {
	var o bench.MemoryOptions
	f := flag.NewFlagSet("bench memory", flag.ContinueOnError)
	f.IntVar(&o.Keys, "keys", 1_000_000, "keys that the proxy keeps")
	f.Int64Var(&o.Reads, "reads", 500_000, "different reads that it then answers")
	d := newDeeper("bench memory", args, f, "A proxy's memory", "What it takes a proxy to keep keys in memory, and what becomes of it when many different reads "+
		"are answered, half of them for keys that do not exist.")
	if err := parse(f, args); err != nil {
		return err
	}
	if o.Keys < 1 || o.Reads < bench.MemorySamples {
		return fmt.Errorf("there must be a key, and at least %d reads", bench.MemorySamples)
	}
	o.Reads -= o.Reads % bench.MemorySamples
	bin, err := proc.OpenBin(ctx)
	if err != nil {
		return err
	}
	r, err := bench.RunMemory(ctx, bin, o, func(s string) { fmt.Fprintln(os.Stderr, s) })
	if err != nil {
		return d.end(err)
	}
	return d.end(reportMemory(d, r))
}

// reportMemory adds the memory of a proxy as tables.
func reportMemory(d *deeper, r *bench.MemoryResult) error {
	bytes, keys := float64(r.Bytes), float64(r.Keys)
	perKey := func(n int64) string { return fmt.Sprintf("%.0f", float64(n)/keys) }
	kept := table{
		{"memory", "keys", "bytes/key", "ratio to keys and values", "aim"},
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
