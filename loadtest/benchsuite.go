package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/report"
	"weir/loadtest/scale"
	"weir/loadtest/suite"
	"weir/loadtest/target"
)

// suiteSystems are what the suite starts by default.
func suiteSystems() []target.Kind {
	return []target.Kind{target.Etcd37, target.GRPCProxyEtcd37, target.Core, target.ProxyCore, target.ProxyEtcd37}
}

// benchOptions are what the flags of the suite say.
type benchOptions struct {
	suite.Options
	out   string // folder for the report
	scale bool   // plan for more machines too
	quick bool
}

// runBench is the suite.
func runBench(ctx context.Context, args []string) error {
	o, err := parseBench(args)
	if err != nil {
		return err
	}
	if err := prepareReport(o.out); err != nil {
		return err
	}
	if left := leftovers(o.Dir); len(left) > 0 {
		fmt.Fprintln(os.Stderr, "of runs that were killed, or are under way, there is: "+strings.Join(left, " "))
	}
	if len(o.Systems) > 0 || o.scale {
		if o.Bin, err = proc.OpenBin(ctx); err != nil {
			return err
		}
	}
	for _, e := range o.External {
		fmt.Fprintln(os.Stderr, leavesBehind(e))
	}
	bar := newProgress(os.Stderr)
	o.Progress = func(e suite.Event) {
		if e.Ended == nil {
			bar.show(e.Turns, e.Of, e.Now)
			return
		}
		bar.clear()
		if err := printScenario(os.Stdout, e.Report, e.Ended); err != nil {
			bar.say(err.Error())
		}
	}
	r, err := suite.Run(ctx, o.Options)
	bar.clear()
	if r == nil {
		return err
	}
	if o.scale && measured(r) {
		err = addScale(r, err, func() (*report.Scale, error) { return o.plan(ctx) })
	}
	broken, excused := suite.Broken(r)
	for _, line := range broken {
		fmt.Fprintln(os.Stderr, "failed: "+line)
	}
	for _, line := range excused {
		fmt.Fprintln(os.Stderr, "failed, which is no failure of the run: "+line)
	}
	files, writeErr := writeReport(o.out, reportName(ctx, r), r)
	err = errors.Join(err, writeErr)
	if len(files) > 0 {
		fmt.Printf("\nThe report is in %s.\n", strings.Join(files, ", "))
	}
	if len(files) > 0 && !measured(r) {
		fmt.Println("Nothing was measured: report.* of an earlier run, if there is one, stays as it was.")
	}
	if len(broken) > 0 {
		err = errors.Join(err, errors.New("what failed is named above, and in the report"))
	}
	return err
}

// leavesBehind says, before anything is written to a system that runs already, what will be of it afterwards.
func leavesBehind(e suite.External) string {
	text := fmt.Sprintf("%s: keys are put below %s, where there may be none, and deleted when each scenario has ended. Each change stays in its history: ", e.Name, suite.Prefix)
	if e.Compact {
		return text + "that is compacted when the run has ended, up to the newest revision, and each endpoint is defragmented."
	}
	return text + "the run neither compacts nor defragments it, unless -compact is given."
}

// reportName is what the files of a report are called. If ctx has ended the report is not whole, and if nothing was measured it has nothing
// but failures: one of an earlier run that is better stays.
func reportName(ctx context.Context, r *report.Report) string {
	switch {
	case ctx.Err() != nil:
		return "report-partial"
	case !measured(r):
		return "report-failed"
	}
	return "report"
}

// measured tells whether any system has a turn that did not fail.
func measured(r *report.Report) bool {
	return slices.ContainsFunc(r.Scenarios, func(s report.Scenario) bool {
		return slices.ContainsFunc(s.Results, func(of report.Result) bool { return len(of.Turns) > 0 })
	})
}

// leftovers are the directories of other runs where this one will have its own: whoever is killed leaves it behind.
func leftovers(dir string) []string {
	left, err := filepath.Glob(filepath.Join(cmp.Or(dir, os.TempDir()), suite.DirPrefix+"*"))
	if err != nil {
		return nil // the name is no pattern, and nothing depends on it
	}
	return left
}

// addScale adds to a report what plan returns, or why it is missing: the run before it may have ended with an error, which is returned
// then, or it may fail itself.
func addScale(r *report.Report, err error, plan func() (*report.Scale, error)) error {
	if err != nil {
		r.Scale = &report.Scale{Failed: fmt.Sprintf("the run before it did not end well: %v", err)}
		return err
	}
	if r.Scale, err = plan(); err != nil {
		r.Scale = &report.Scale{Failed: err.Error()}
	}
	r.Took = time.Since(r.Started)
	return err
}

// plan plans for more machines, as bench scale does.
func (o *benchOptions) plan(ctx context.Context) (*report.Scale, error) {
	s := scale.DefaultOptions()
	if o.quick {
		s.Effort = scale.Quick()
	}
	bar, begun := newProgress(os.Stderr), 0
	defer bar.clear()
	return scale.Run(ctx, o.Bin, s, func(what string) {
		bar.show(begun, s.Effort.Trials(), "scale: "+what)
		begun++
	})
}

func parseBench(args []string) (o benchOptions, err error) {
	var external externalFlags
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.Usage = func() {
		var others []command
		for _, c := range commands() {
			if strings.HasPrefix(c.name, "bench ") {
				others = append(others, c)
			}
		}
		_ = usage(f.Output(), "bench", others)
		fmt.Fprint(f.Output(), "\nAlone it measures everything for a while, and makes a report. Its flags:\n\n")
		f.PrintDefaults()
	}
	scenarios := f.String("scenarios", "", "what to load systems with, of the names that bench list prints; all of them if it is not given")
	systems := f.String("systems", join(suiteSystems()...), "what to start and measure, of the names that bench list prints; nothing is started if -target is given and this is not")
	f.IntVar(&o.Rounds, "rounds", 3, "turns of each system in each scenario")
	f.DurationVar(&o.Turn, "turn", 3*time.Second, "time that a turn is measured")
	f.DurationVar(&o.WarmUp, "warm-up", time.Second, "time before a turn is measured")
	f.BoolVar(&o.quick, "quick", false, "short turns, and few, without the scenarios that take long: a few minutes")
	f.StringVar(&o.out, "out", "../bin/report", "folder for report.json, report.html and report.md, or report-partial.* if the run is cut off, or report-failed.* if nothing could be measured")
	f.StringVar(&o.Dir, "dir", "", "where the data of the systems is, which should be a real disk; the system's directory for temporary files if it is not given")
	f.BoolVar(&o.scale, "scale", false, "afterwards plan for more machines than there are, as bench scale does: five minutes, one with -quick")
	external.define(f)
	if err := parse(f, args); err != nil {
		return o, err
	}
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if o.quick {
		quicker(&o.Options, given)
	}
	if o.External, err = external.systems(); err != nil {
		return o, err
	}
	if len(o.External) == 0 || given["systems"] {
		if o.Systems, err = target.FindKinds(strings.Split(*systems, ",")); err != nil {
			return o, err
		}
	}
	if *scenarios != "" {
		o.Scenarios, err = suite.FindScenarios(strings.Split(*scenarios, ","))
	} else {
		for _, s := range suite.Scenarios() {
			if !s.Long || !o.quick {
				o.Scenarios = append(o.Scenarios, s)
			}
		}
	}
	o.Command = commandLine("bench", args)
	return o, err
}

// quicker has turns be few and short, as far as they are not given.
func quicker(o *suite.Options, given map[string]bool) {
	if !given["rounds"] {
		o.Rounds = 2
	}
	if !given["turn"] {
		o.Turn = 700 * time.Millisecond
	}
	if !given["warm-up"] {
		o.WarmUp = 300 * time.Millisecond
	}
}

// commandLine is the command without a password in it.
func commandLine(command string, args []string) string {
	words := []string{"go", "run", ".", command}
	user := false // is the value of the flag before
	for _, a := range args {
		name, value, joined := strings.Cut(strings.TrimLeft(a, "-"), "=")
		switch {
		case user:
			a = withoutPassword(a)
			user = false
		case strings.HasPrefix(a, "-") && name == "user" && joined:
			a = "-user=" + withoutPassword(value)
		case strings.HasPrefix(a, "-") && name == "user":
			user = true
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

func withoutPassword(user string) string {
	name, _, _ := strings.Cut(user, ":")
	return name + ":***"
}

// listBench prints what bench can measure.
func listBench(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "scenario\tkind\twhat")
	for _, s := range suite.Scenarios() {
		fmt.Fprintf(t, "%s\t%s\t%s\n", s.Info.Name, s.Info.Kind, s.Info.Description)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	var others []target.Kind
	for _, k := range target.AllKinds() {
		if !slices.Contains(suiteSystems(), k) {
			others = append(others, k)
		}
	}
	_, err := fmt.Fprintf(out, "\nsystems: %s\nwith -systems also: %s\nwith -target one that runs already\n", join(suiteSystems()...), join(others...))
	return err
}

// printScenario prints what has been measured in a scenario.
func printScenario(out io.Writer, r *report.Report, s *report.Scenario) error {
	measures := []report.Measure{report.Throughput, report.ThroughputRatio, report.CPU, report.CPURatio, report.P50, report.P99, report.P999, report.Memory, report.Upstream}
	heads := []string{s.Name, s.Unit + "s/s", "ratio", "CPU µs/" + s.Unit, "ratio", "p50 ms", "p99 ms", "p99.9 ms", "MiB", "upstream/" + s.Unit}
	t := report.Table{Head: heads, Words: 1}
	for _, of := range s.Results {
		row := []string{of.System}
		switch {
		case of.Unsupported != "":
			row[0] += ": not supported"
		case len(of.Turns) == 0 && len(of.Failed) > 0:
			row[0] += ": failed"
		case len(of.Turns) == 0:
			row[0] += ": not measured"
		case len(of.Failed) > 0:
			row[0] += fmt.Sprintf(": %d of %d turns failed", len(of.Failed), len(of.Turns)+len(of.Failed))
		}
		for _, m := range measures {
			n := r.Number(s, of.System, m)
			if m == report.Memory {
				n.Median, n.Min, n.Max = n.Median/(1<<20), n.Min/(1<<20), n.Max/(1<<20)
			}
			row = append(row, n.String())
		}
		t.Rows = append(t.Rows, row)
	}
	t = withoutEmpty(t)
	return t.WriteMarkdown(out)
}

// withoutEmpty leaves out the columns in which no row has a number.
func withoutEmpty(t report.Table) report.Table {
	kept := report.Table{Words: t.Words, Rows: make([][]string, len(t.Rows))}
	missing := report.Number{Missing: "nothing"}.String()
	for i, head := range t.Head {
		if i >= t.Words && !slices.ContainsFunc(t.Rows, func(row []string) bool { return row[i] != missing }) {
			continue
		}
		kept.Head = append(kept.Head, head)
		for r, row := range t.Rows {
			kept.Rows[r] = append(kept.Rows[r], row[i])
		}
	}
	return kept
}
