package scale

import (
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/report"
)

func TestOptionsThatMakeNoSenseAreRefusedByName(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"watcher":   func(o *Options) { o.Watchers = 0 },
		"events":    func(o *Options) { o.Events = math.NaN() },
		"write":     func(o *Options) { o.Batch = 0.5 },
		"values":    func(o *Options) { o.ValueSize = -1 },
		"machines":  func(o *Options) { o.Cores = nil },
		"core":      func(o *Options) { o.Cores = []int{0} },
		"link":      func(o *Options) { o.LinkGbit = 0 },
		"memory":    func(o *Options) { o.MemoryPerCore = -1 },
		"below 1":   func(o *Options) { o.Use = 1 },
		"something": func(o *Options) { o.Effort.Rounds = 0 },
	} {
		o := DefaultOptions()
		change(&o)
		if err := o.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, and has nothing of %q", err, want)
		}
	}
	if err := DefaultOptions().check(); err != nil {
		t.Error(err)
	}
}

func TestEachCaseAndMachineHasAPlan(t *testing.T) {
	o := DefaultOptions()
	plans := o.plans(plain())
	if want := len(o.loads()) * len(o.Cores); len(plans) != want {
		t.Fatalf("%d plans, not %d", len(plans), want)
	}
	for _, p := range plans {
		if p.Case == "" || p.Impossible == "" && (p.StoreCores == 0 || p.LatencyP99 < p.LatencyP50 || p.Note == "") {
			t.Errorf("a plan lacks something: %+v", p)
		}
	}
}

func TestEachInputHasANameAUnitAndWhereItIsFrom(t *testing.T) {
	names := map[string]bool{}
	for _, in := range (Inputs{Model: plain(), Rate: 500, Busiest: 0.4, BusiestTrial: "a trial"}).Report() {
		if in.Name == "" || in.Unit == "" || in.From == "" || strings.Contains(in.From, "%!") {
			t.Errorf("an input lacks something: %+v", in)
		}
		if names[in.Name] {
			t.Errorf("two inputs are called %q", in.Name)
		}
		names[in.Name] = true
	}
}

func TestPlansOfAMachineWithoutRestAreNotValid(t *testing.T) {
	for busiest, want := range map[float64]bool{0.5: true, 0.8: true, 1: false} {
		if got := (Inputs{Busiest: busiest, BusiestTrial: "a trial"}).invalid(); (got == "") != want || !want && !strings.Contains(got, "100 % busy") {
			t.Errorf("of a machine that was busy for %v is said %q", busiest, got)
		}
	}
}

// The model predicts what a run measures, if the run is as the model: this checks the comparison, not the model.
func TestCheckComparesTheSameThings(t *testing.T) {
	m := plain()
	tr := trial{proxies: []int{1, 3}, watchers: 30, connections: 30, rate: 100, batch: 1, valueSize: 100}
	tree := m.Tree(tr.load(), Machine{Cores: runtime.NumCPU(), Use: 1}, tr.proxies)
	s := sample{writes: 200, seconds: 2, core: tree.Core.Cores * 2e6, latency: tree.Latency, upstream: 1, busy: 0.5, sent: 2 * tr.load().of(10).messageBytes()}
	for _, level := range tree.Levels {
		s.proxies = append(s.proxies, slices.Repeat([]float64{level.Demand.Cores * 2e6}, level.Proxies))
	}
	checks := m.check(tr, samples{s, s})
	if len(checks) != 6 {
		t.Fatalf("%d checks, not of the core, two levels, bytes, latency and upstream watches", len(checks))
	}
	for _, c := range checks {
		near(t, c.Measure, c.Predicted, c.Measured)
		if c.Note != "" || c.Invalid || c.Low != c.Measured || c.High != c.Measured || c.Unit == "" {
			t.Errorf("a check has %+v", c)
		}
	}
	s.busy = 0.9
	for _, c := range m.check(tr, samples{s}) {
		if !strings.Contains(c.Note, "90 % busy") {
			t.Errorf("a check on a machine that was full says %q", c.Note)
		}
	}
	s.busy = 1
	for _, c := range m.check(tr, samples{s}) {
		if !c.Invalid || c.Note == "" {
			t.Errorf("a check on a machine without rest is %+v", c)
		}
	}
	// More is written than the core can take: there is no latency to predict.
	m.Core.In.Batch = 1e6
	if checks := m.check(tr, samples{s}); slices.ContainsFunc(checks, func(c report.Check) bool { return math.IsInf(c.Predicted, 0) || c.Note == "" }) {
		t.Errorf("a prediction has no end, or no note: %+v", checks)
	}
}

func TestTrialsLoadTheTreeThatTheySay(t *testing.T) {
	bin, err := proc.OpenBin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBench(bin, Effort{Rounds: 1, Length: 500 * time.Millisecond}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	}()
	s, err := b.run(t.Context(), trial{
		name: "tree", proxies: []int{1, 2}, watchers: 20, connections: 4, rate: 40, batch: 2, valueSize: 100,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.proxies) != 2 || len(s.proxies[0]) != 1 || len(s.proxies[1]) != 2 {
		t.Errorf("the proxies are not as they should be: %v", s.proxies)
	}
	if want := 20.0 * 2 * 10 * 100; s.sent < want || s.sent > 2*want {
		t.Errorf("one of two proxies has sent %v bytes, of which the values are %v", s.sent, want)
	}
	if s.writes != 20 || s.upstream != 1 || s.core <= 0 || s.last() <= 0 || s.memory <= 0 || s.latency.P50 <= 0 || s.latency.P99 < s.latency.P50 {
		t.Errorf("measured was %+v", s)
	}
}
