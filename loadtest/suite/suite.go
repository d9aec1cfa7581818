package suite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/report"
	"weir/loadtest/target"
)

// Options are what Run measures, and how. Rounds and Turn must be positive.
type Options struct {
	// Systems are started for each scenario, from Bin. An etcd, if there is one, comes first, and ratios are to it.
	Systems []target.Kind
	Bin     *proc.Bin // may be nil if there are no Systems
	// External systems run already.
	External []External

	Scenarios []Scenario
	Rounds    int           // turns of each system in each scenario
	WarmUp    time.Duration // before a turn is measured; see firstWarmUp
	Turn      time.Duration // that is measured, at least; see Scenario.MinTurn

	Dir      string      // below which data is kept while it runs; the system's directory for temporary files if it is ""
	Command  string      // for the report
	Progress func(Event) // is told how it goes on, by one goroutine; may be nil
}

// Event is a step of a run.
type Event struct {
	Turns int    // that are over
	Of    int    // that there are in all; 0 as long as systems are built
	Now   string // what is going on
	// Report is what there is so far, not to be changed or kept.
	Report *report.Report
	// Ended is the scenario in it that has just ended, nil if none has.
	Ended *report.Scenario
}

// DirPrefix is what the name of the directory begins with in which a run has its data, below Options.Dir.
const DirPrefix = "weir-bench-"

// Run measures. It takes about Systems x Scenarios x Rounds x (WarmUp + Turn), and some seconds more for each scenario.
//
// What goes wrong with a system is in the report: see Broken. An error is about the run itself. If ctx ends before the run, the
// report of what was measured until then is returned with the error, and says so; before that all that was put is taken away again.
func Run(ctx context.Context, o Options) (r *report.Report, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(o.Dir, DirPrefix)
	if err != nil {
		return nil, fmt.Errorf("make a directory for the systems' data: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	machine, err := machineOf(dir)
	if err != nil {
		return nil, err
	}
	var hosts []host
	for _, kind := range baseFirst(o.Systems) {
		if o.Progress != nil {
			o.Progress(Event{Now: "build " + string(kind)})
		}
		h, err := newStarted(ctx, o.Bin, kind, dir)
		if ctx.Err() != nil {
			return nil, fmt.Errorf("cut off before the first turn: %w", context.Cause(ctx))
		}
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	for _, e := range o.External {
		hosts = append(hosts, e.host())
	}
	r = &report.Report{Started: time.Now(), Command: o.Command, Machine: machine}
	return r, (&run{Options: o, hosts: hosts, report: r}).all(ctx)
}

// check tells what cannot be run, or not be told apart.
func (o *Options) check() error {
	if o.Rounds < 1 || o.Turn <= 0 || o.WarmUp < 0 {
		return fmt.Errorf("%d rounds of %v after %v cannot be measured", o.Rounds, o.Turn, o.WarmUp)
	}
	var names []string
	for _, kind := range o.Systems {
		names = append(names, string(kind))
	}
	for _, e := range o.External {
		names = append(names, e.Name)
		for _, pid := range e.PIDs {
			names = append(names, "process "+strconv.Itoa(pid))
		}
	}
	if len(names) == 0 || len(o.Scenarios) == 0 {
		return errors.New("nothing to measure: it takes a system and a scenario")
	}
	for _, s := range o.Scenarios {
		names = append(names, s.Info.Name)
	}
	slices.Sort(names)
	for i, name := range names[1:] {
		if name == names[i] {
			return fmt.Errorf("%s is there twice", name)
		}
	}
	return nil
}

// Broken is what went wrong with systems in a run, a line for each system and reason; none if nothing did. What a system does not
// support is not among it, unless that is all that it was asked for. Excused is the same of systems that are optional, beside others
// that are not.
func Broken(r *report.Report) (broken, excused []string) {
	needed := func(s report.System) bool { return !s.Optional }
	all := !slices.ContainsFunc(r.Systems, needed)
	for _, s := range r.Systems {
		lines := failed(r, s.Name)
		if why := useless(r, s.Name); why != "" {
			lines = append(lines, fmt.Sprintf("all scenarios: %s: nothing is supported: %s", s.Name, why))
		}
		if all || needed(s) {
			broken = append(broken, lines...)
		} else {
			excused = append(excused, lines...)
		}
	}
	return broken, excused
}

// useless is why a system does not support the first scenario of a run, if it supports none of them; else it is "".
func useless(r *report.Report, system string) (why string) {
	for _, s := range r.Scenarios {
		of := s.Result(system)
		if of == nil || of.Unsupported == "" {
			return ""
		}
		why = cmp.Or(why, of.Unsupported)
	}
	return why
}

// failed are the reasons for which a system's turns failed, each with the scenarios.
func failed(r *report.Report, system string) []string {
	var reasons []string
	in := map[string][]string{} // scenarios of each reason
	for _, s := range r.Scenarios {
		of := s.Result(system)
		if of == nil {
			continue
		}
		for _, f := range of.Failed {
			if in[f.Reason] == nil {
				reasons = append(reasons, f.Reason)
			}
			if !slices.Contains(in[f.Reason], s.Name) {
				in[f.Reason] = append(in[f.Reason], s.Name)
			}
		}
	}
	for i, reason := range reasons {
		reasons[i] = strings.Join(in[reason], ", ") + ": " + system + ": " + reason
	}
	return reasons
}

// baseFirst puts an etcd first.
func baseFirst(kinds []target.Kind) []target.Kind {
	kinds = slices.Clone(kinds)
	if i := slices.IndexFunc(kinds, isEtcd); i > 0 {
		etcd := kinds[i]
		kinds = slices.Insert(slices.Delete(kinds, i, i+1), 0, etcd)
	}
	return kinds
}

// hasWeirProxy tells whether one of weir's proxies is part of a kind.
func hasWeirProxy(k target.Kind) bool { return k.Proxies() > 0 && k != target.GRPCProxyEtcd37 }

// isEtcd tells whether clients of a kind ask an etcd, without a proxy.
func isEtcd(k target.Kind) bool {
	return k.Proxies() == 0 && slices.Contains([]proc.Program{proc.Etcd37, proc.Etcd36, proc.Etcd35}, k.Member())
}

// host has one System after another: one for each scenario.
type host interface {
	// describe is what the report says of the systems.
	describe(ctx context.Context) report.System
	// start has a system ready for a scenario, with no keys below Prefix.
	start(ctx context.Context, s Scenario) (*System, error)
	// end says what is left of the run, "" for nothing, also if ctx has ended.
	end(ctx context.Context) (caveat string, err error)
}

// run is a run under way.
type run struct {
	Options
	hosts  []host
	report *report.Report
	done   int // turns
	// refused: all there is runs already, and nothing of it was ready for a scenario, for reasons that are the same in each.
	refused bool
}

// all runs all scenarios.
func (r *run) all(ctx context.Context) error {
	for i, h := range r.hosts {
		s := h.describe(ctx)
		s.Base = i == 0 && s.Base
		r.report.Systems = append(r.report.Systems, s)
	}
	r.report.Caveats = caveats(r.report.Systems, r.External)
	for _, s := range r.Scenarios {
		if ctx.Err() != nil {
			break
		}
		r.report.Scenarios = append(r.report.Scenarios, r.scenario(ctx, s))
		r.tell(s.Info.Name+" has ended", &r.report.Scenarios[len(r.report.Scenarios)-1])
		if r.refused && ctx.Err() == nil && r.done < r.turns() {
			r.report.Caveats = slices.Insert(r.report.Caveats, 0, "This run is not whole: it ended when no target had answered in its first scenario, as none would "+
				"have in the others. "+r.missing())
			break
		}
	}
	left := r.end(ctx)
	r.report.Took = time.Since(r.report.Started)
	if ctx.Err() == nil {
		return left
	}
	err := fmt.Errorf("cut off after %d of %d turns: %w", r.done, r.turns(), context.Cause(ctx))
	r.report.Caveats = slices.Insert(r.report.Caveats, 0, fmt.Sprintf("This run is not whole: it was %v. %s", err, r.missing()))
	return errors.Join(err, left)
}

// end has all hosts say what is left of the run.
func (r *run) end(ctx context.Context) error {
	var errs []error
	for _, h := range r.hosts {
		caveat, err := h.end(ctx)
		if caveat != "" {
			r.report.Caveats = append(r.report.Caveats, caveat)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// missing says which scenarios a run that was cut off lacks, some turns of the first of them at least.
func (r *run) missing() string {
	var names []string
	for _, s := range r.Scenarios[r.done/(len(r.hosts)*r.Rounds):] {
		names = append(names, s.Info.Name)
	}
	return "It lacks turns of " + strings.Join(names, ", ") + "."
}

func (r *run) turns() int { return len(r.Scenarios) * len(r.hosts) * r.Rounds }

func (r *run) tell(now string, ended *report.Scenario) {
	if r.Progress != nil {
		r.Progress(Event{Turns: r.done, Of: r.turns(), Now: now, Report: r.report, Ended: ended})
	}
}

// contender is a system in one scenario.
type contender struct {
	name   string
	host   host
	system *System // nil if it did not start
	err    error   // why it has no turns: it did not start, or lacks what it is asked for
	result *report.Result
}

// scenario has all systems started, and measures them in turns.
func (r *run) scenario(ctx context.Context, s Scenario) report.Scenario {
	info := s.Info
	if len(s.ProxyArgs) > 0 && slices.ContainsFunc(r.Systems, hasWeirProxy) {
		info.Description += " Weir's proxies that were started run with " + strings.Join(s.ProxyArgs, " ") + "."
	}
	if len(s.MemberArgs) > 0 && len(r.Systems) > 0 {
		info.Description += " Members that were started run with " + strings.Join(s.MemberArgs, " ") + "."
	}
	if s.MinTurn > r.Turn {
		info.Description += fmt.Sprintf(" A turn takes %v: in a shorter one there would be too little.", s.MinTurn)
	}
	var contenders []*contender
	info.Results = make([]report.Result, len(r.hosts))
	for i, h := range r.hosts {
		info.Results[i].System = r.report.Systems[i].Name
		contenders = append(contenders, &contender{name: r.report.Systems[i].Name, host: h, result: &info.Results[i]})
	}
	begin, finish := ": start all systems", ": end all systems"
	if len(r.External) == len(r.hosts) {
		begin, finish = ": ask whether the target is ready, and fill it", ": delete the keys"
	}
	r.tell(s.Info.Name+begin, nil)
	each(contenders, func(c *contender) { c.start(ctx, s) })
	r.refused = len(r.External) == len(r.hosts) && !slices.ContainsFunc(contenders, func(c *contender) bool { return c.system != nil })
	for round := 1; round <= r.Rounds && ctx.Err() == nil; round++ {
		for i := range contenders {
			c := contenders[(i+round-1)%len(contenders)] // nobody always follows the same one
			r.tell(fmt.Sprintf("%s, round %d of %d: %s", s.Info.Name, round, r.Rounds, c.name), nil)
			warmUp := r.WarmUp
			if round == 1 {
				warmUp *= firstWarmUp
			}
			t, err := c.turn(ctx, s, warmUp, max(r.Turn, s.MinTurn))
			if ctx.Err() != nil {
				break
			}
			r.done++
			t.Round = round
			c.note(t, err)
		}
	}
	r.tell(s.Info.Name+finish, nil)
	each(contenders, func(c *contender) { c.end(ctx, r.Rounds) })
	return info
}

// firstWarmUp is how many times as long the warm-up of a system's first turn in a scenario is: its processes have just been started,
// their heaps grow, and proxies find out what to keep.
const firstWarmUp = 3

// each does something with all at a time: most of the starting and ending is waiting.
func each(contenders []*contender, do func(*contender)) {
	var all sync.WaitGroup
	for _, c := range contenders {
		all.Go(func() { do(c) })
	}
	all.Wait()
}

// start starts the system, and fills it.
func (c *contender) start(ctx context.Context, s Scenario) {
	if c.system, c.err = c.host.start(ctx, s); c.err != nil || s.Fill == nil {
		return
	}
	if err := s.Fill(ctx, c.system); err != nil {
		c.err = fmt.Errorf("fill the store: %w", err)
	}
}

// turn is one turn, of a system that may not have started.
func (c *contender) turn(ctx context.Context, s Scenario, warmUp, length time.Duration) (report.Turn, error) {
	if c.err != nil {
		return report.Turn{}, c.err
	}
	return measure(ctx, c.system, s, warmUp, length)
}

// note adds a turn to the result. What a system does not support is what its load was told, not what went wrong before there was one.
func (c *contender) note(t report.Turn, err error) {
	switch {
	case err == nil:
		c.result.Turns = append(c.result.Turns, t)
	case c.result.Unsupported != "": // was noted in an earlier round
	case c.err == nil && unsupported(err) && len(c.result.Turns) == 0:
		c.result.Unsupported, c.err = err.Error(), err
	default:
		c.fail(t.Round, err)
	}
}

func (c *contender) fail(round int, err error) {
	c.result.Failed = append(c.result.Failed, report.Failure{Round: round, Reason: err.Error()})
}

// end takes away what is left of the system, also when the run was cut off. What it cannot take away counts as a failure of the last
// turn.
func (c *contender) end(ctx context.Context, lastRound int) {
	if c.system == nil {
		return
	}
	if err := c.system.servers.clear(ctx, c.system); err != nil {
		c.fail(lastRound, fmt.Errorf("when the scenario had ended: %w", err))
	}
}
