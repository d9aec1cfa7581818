package scale

import (
	"context"
	"errors"
	"fmt"

	"weir/loadtest/proc"
	"weir/loadtest/report"
)

// Options are the question, and what machines there are.
type Options struct {
	Watchers  int
	Events    float64 // a second
	Batch     float64 // events that are written together
	ValueSize int     // in bytes
	Cores     []int   // of machines that plans are made for
	// LinkGbit is what can leave a machine, in Gbit/s, and MemoryPerCore what it has, in GiB.
	LinkGbit, MemoryPerCore float64
	Use                     float64 // part of cores and links that may be busy
	Effort                  Effort
}

// DefaultOptions are a million watchers, of events that come one by one.
func DefaultOptions() Options {
	return Options{
		Watchers: 1_000_000, Events: 1_000, Batch: 1, ValueSize: 256,
		Cores: []int{4, 16}, LinkGbit: 10, MemoryPerCore: 4, Use: 0.5, Effort: Thorough(),
	}
}

// check says what is wrong with the options.
func (o Options) check() error {
	for _, is := range []struct {
		wrong bool
		what  string
	}{
		{o.Watchers < 1, "there must be a watcher"},
		{!(o.Events > 0), "there must be events"},
		{!(o.Batch >= 1), "a write has one event or more"},
		{o.ValueSize < 0, "values have a size of 0 or more"},
		{len(o.Cores) == 0, "there must be machines to plan for"},
		{!(o.LinkGbit > 0), "a machine must have a link"},
		{!(o.MemoryPerCore > 0), "a machine must have memory"},
		{!(o.Use > 0 && o.Use < 1), "the part of a machine that may be busy is above 0 and below 1"},
		{o.Effort.Rounds < 1 || o.Effort.Length <= 0, "something must be measured"},
	} {
		if is.wrong {
			return errors.New(is.what)
		}
	}
	for _, n := range o.Cores {
		if n < 1 {
			return errors.New("a machine has at least one core")
		}
	}
	return nil
}

// loads are the cases: who watches what.
func (o Options) loads() []Load {
	l := Load{
		Watchers: o.Watchers, PerConnection: 1, Share: 1,
		Events: o.Events, Batch: o.Batch, KeySize: keySize, ValueSize: o.ValueSize,
	}
	all, together, part, own := l, l, l, l
	all.Name = "every event to every watcher"
	together.Name, together.PerConnection = fmt.Sprintf("%s, %d watchers a connection", all.Name, perConnection), perConnection
	part.Name, part.Share = fmt.Sprintf("%.0f %% of the events to each watcher", 100*partial), partial
	own.Name, own.Share = "a key of its own for each watcher", 1/float64(o.Watchers)
	return []Load{all, together, part, own}
}

const (
	perConnection = 100  // as in an API server that watches for many
	partial       = 0.01 // as where each watches one of a hundred services
)

func (o Options) machine(cores int) Machine {
	const bitsOfByte = 8
	return Machine{
		Cores: cores, Use: o.Use,
		Memory: o.MemoryPerCore * float64(cores) * (1 << 30),
		Link:   o.LinkGbit * 1e9 / bitsOfByte,
	}
}

// plans are the best for each case and machine.
func (o Options) plans(m Model) []report.Plan {
	var all []report.Plan
	for _, l := range o.loads() {
		for _, cores := range o.Cores {
			plans, err := m.Plans(l, o.machine(cores))
			if err != nil {
				all = append(all, report.Plan{Case: l.Name, Cores: cores, Impossible: err.Error()})
				continue
			}
			best := plans[0].Report()
			if len(plans) > 1 {
				best.Note += fmt.Sprintf("; with one level more, and %s, it would be %.2f cores", proxiesText(plans[1].proxies()), plans[1].Core.Cores)
			}
			all = append(all, best)
		}
	}
	return all
}

// rate is how many writes a second the costs are measured with: that of the plans, if this machine bears it.
func (o Options) rate() float64 {
	const least, most = 20, 500 // below, too little happens in a run; above, the clients have too much to do
	return min(max(o.Events/o.Batch, least), most)
}

// Run measures, makes plans, and checks the model. It takes a minute with Quick and four with Thorough. An error is that something
// could not be measured; what cannot be served is not: the plans say so.
func Run(ctx context.Context, bin *proc.Bin, o Options, progress func(string)) (*report.Scale, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("scale: %w", err)
	}
	in, err := Measure(ctx, bin, o.rate(), o.Effort, progress)
	if err != nil {
		return nil, fmt.Errorf("scale: %w", err)
	}
	checks, err := Check(ctx, bin, in.Model, in.Rate, o.Effort, progress)
	if err != nil {
		return nil, fmt.Errorf("scale: check the model: %w", err)
	}
	return &report.Scale{
		Invalid: in.invalid(), Watchers: o.Watchers, Events: o.Events, Inputs: in.Report(), Method: o.method(), Plans: o.plans(in.Model), Checks: checks,
	}, nil
}
