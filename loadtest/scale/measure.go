package scale

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir/loadtest/proc"
)

// Effort is how much is measured.
type Effort struct {
	Rounds int           // of each trial, of which the median counts; above 0
	Length time.Duration // of a trial, beside what it takes to start; half a second or more
}

// Thorough takes about four minutes, for Measure and Check together.
func Thorough() Effort { return Effort{Rounds: 3, Length: 2 * time.Second} }

// Quick takes one, and tells that it works.
func Quick() Effort { return Effort{Rounds: 1, Length: time.Second} }

// Trials is how many runs Measure and Check make of it, together; progress is told of each when it begins.
func (e Effort) Trials() int {
	var f fitting
	one := []int{1}
	each := len(f.trials("", nil, 1)) + len(f.trials("", one, 1)) + len(f.profiles("", one)) + 1 + len(checkTrials(1))
	return e.Rounds*each + len(f.crowds("", nil)) + len(f.crowds("", one))
}

// fullBusy is how busy the machine may be. With more, what is measured is how processes wait for each other.
const fullBusy = 0.7

// saturated is how busy it is when what is measured depends on nothing but the waiting: no cost comes from it, nor a check.
const saturated = 0.95

// Measure finds the costs of a core and a proxy that are built by bin. Everything runs on this machine, the clients too, one trial
// after the other, each with processes of its own, and most with so many writes a second: a server that has hardly anything to do takes
// more for each write, so this should be about what plans are made for, as far as a machine can that has the clients too. progress
// is told what is going on.
func Measure(ctx context.Context, bin *proc.Bin, rate float64, e Effort, progress func(string)) (in Inputs, err error) {
	b, err := newBench(bin, e, progress)
	if err != nil {
		return in, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var core, proxy fitting
	var several samples // the core behind several proxies, when nothing is going on
	quiet := fitTrial{trial{
		name: fmt.Sprintf("%d proxies, quiet", quietProxies), proxies: []int{quietProxies},
		watchers: quietProxies, connections: quietProxies, batch: 1, valueSize: smallValue,
	}, &several}
	one := []int{1}
	for range e.Rounds {
		if err := b.runAll(ctx, core.trials("core", nil, rate), proxy.trials("proxy", one, rate), proxy.profiles("proxy", one), []fitTrial{quiet}); err != nil {
			return in, err
		}
	}
	if err := b.runAll(ctx, core.crowds("core", nil), proxy.crowds("proxy", one)); err != nil {
		return in, err
	}
	m := Model{Core: core.costs(), Proxy: proxy.costs()}
	m.Proxy.Serial, m.Proxy.SerialWake = proxy.serialCosts()
	m.Core.Serial, m.Core.SerialWake = m.Proxy.Serial, m.Proxy.SerialWake // the same program does it
	busyCore := func(s sample) float64 { return s.core / s.seconds / 1e6 }
	m.Core.Downstream = max(0, several.median(busyCore)-proxy.quiet.median(busyCore)) / (quietProxies - 1)
	m.Proxy.Downstream = m.Core.Downstream // a proxy asks its upstream the same, whatever that is
	p50 := func(s sample) float64 { return s.latency.P50 }
	p99 := func(s sample) float64 { return s.latency.P99 }
	m.Direct = Latency{P50: core.few.median(p50), P99: core.few.median(p99)}
	m.Hop = Latency{P50: max(0, proxy.few.median(p50)-m.Direct.P50), P99: max(0, proxy.few.median(p99)-m.Direct.P99)}
	return Inputs{Model: m, Rate: rate, Busiest: b.busiest, BusiestTrial: b.busiestTrial}, nil
}

// quietProxies is how many proxies there are in the trial for what one costs the core when nothing is going on.
const quietProxies = 4

// runAll runs the i-th trials of all lists after each other, so that what is compared was measured at about the same time.
func (b *bench) runAll(ctx context.Context, lists ...[]fitTrial) error {
	for i := 0; ; i++ {
		ran := false
		for _, list := range lists {
			if i >= len(list) {
				continue
			}
			ran = true
			s, err := b.run(ctx, list[i].trial)
			if err != nil {
				return err
			}
			*list[i].into = append(*list[i].into, s)
		}
		if !ran {
			return nil
		}
	}
}
