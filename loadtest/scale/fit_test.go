package scale

import (
	"math"
	"strings"
	"testing"
)

// pretend fills in what the trials of a fitting would have measured, if the servers had exactly these costs.
func pretend(m Model, trials []fitTrial) {
	const seconds = 2
	for _, t := range trials {
		l := t.load()
		s := sample{seconds: seconds, writes: t.rate * seconds}
		busy := func(c Costs, l Load, proxies bool) float64 {
			if t.rate == 0 {
				return c.Idle * seconds * 1e6
			}
			return c.demand(l, proxies).Cores * seconds * 1e6
		}
		last := m.Core
		if len(t.proxies) == 0 {
			s.core = busy(m.Core, l, false)
		} else {
			last = m.Proxy
			s.core = busy(m.Core, l.ofDownstream(1), true)
			s.proxies = [][]float64{{busy(m.Proxy, l, false)}}
		}
		d := last.demand(l, false)
		s.memory = d.Memory
		if t.rate > 0 {
			s.serial = d.Serial * seconds * 1e6 / s.last()
		}
		*t.into = append(*t.into, s)
	}
}

func TestCostsAreFoundInWhatTheyWouldCause(t *testing.T) {
	m := plain()
	m.Proxy.In = Cost{Batch: 90, Event: 3, Byte: 0.012}
	m.Proxy.Out = Cost{Batch: 0.8, Event: 0.1, Byte: 0.0006}
	m.Proxy.Idle, m.Proxy.SerialWake = 0.003, 0.3
	for name, c := range map[string]struct {
		proxies []int
		want    Costs
	}{"core": {nil, m.Core}, "proxy": {[]int{1}, m.Proxy}} {
		var f fitting
		pretend(m, f.trials(name, c.proxies, 300))
		pretend(m, f.crowds(name, c.proxies))
		pretend(m, f.profiles(name, c.proxies))
		got := f.costs()
		got.Serial, got.SerialWake = f.serialCosts()
		check := func(what string, got, want float64) {
			if math.Abs(got-want) > 1e-6*max(1, want) {
				t.Errorf("%s: %s is %v, not %v", name, what, got, want)
			}
		}
		check("idle", got.Idle, c.want.Idle)
		check("in, a batch", got.In.Batch, c.want.In.Batch)
		check("in, an event", got.In.Event, c.want.In.Event)
		check("in, a byte", got.In.Byte, c.want.In.Byte)
		check("out, a message", got.Out.Batch, c.want.Out.Batch)
		check("out, an event", got.Out.Event, c.want.Out.Event)
		check("out, a byte", got.Out.Byte, c.want.Out.Byte)
		check("wake", got.Wake, c.want.Wake)
		check("serial", got.Serial, c.want.Serial)
		check("serial wake", got.SerialWake, c.want.SerialWake)
		check("memory of a watcher", got.WatcherMemory, c.want.WatcherMemory)
		check("memory of a connection", got.ConnectionMemory, c.want.ConnectionMemory)
	}
}

func TestNoCostIsBelowZero(t *testing.T) {
	// Everything took the same, whatever was asked for, or less: differences are noise.
	for _, step := range []float64{0, -1} {
		var f fitting
		for i, trial := range append(f.trials("proxy", []int{1}, 300), append(f.crowds("proxy", []int{1}), f.profiles("proxy", []int{1})...)...) {
			s := sample{seconds: 1, writes: 300, proxies: [][]float64{{1e5 + step*float64(i)*1e3}}, memory: 1e7, serial: 0.5}
			*trial.into = append(*trial.into, s)
		}
		c := f.costs()
		c.Serial, c.SerialWake = f.serialCosts()
		for _, x := range []float64{
			c.Idle, c.In.Batch, c.In.Event, c.In.Byte, c.Out.Batch, c.Out.Event, c.Out.Byte, c.Wake, c.Serial, c.SerialWake,
			c.WatcherMemory, c.ConnectionMemory,
		} {
			if !(x >= 0) || math.IsInf(x, 0) {
				t.Errorf("there is a cost of %v in %+v", x, c)
			}
		}
	}
}

func TestTheMedianOfSeveralRoundsCounts(t *testing.T) {
	s := samples{{core: 5}, {core: 1}, {core: 100}}
	near(t, "median of three", s.median(sample.last), 5)
	near(t, "median of four", append(s, sample{core: 7}).median(sample.last), 6)
}

func TestProfileIsReadAsTheToolPrintsIt(t *testing.T) {
	const top = `File: weir-proxy
Type: cpu
Duration: 2.01s, Total samples = 920ms (45.81%)
Showing nodes accounting for 920ms, 100% of 920ms total
      flat  flat%   sum%        cum   cum%
         0     0%     0%      410ms 44.57%  weir/coalesce.(*Feed).turn
      10ms  1.09%  1.09%      400ms 43.48%  weir/coalesce.(*broadcaster).turn
     380ms 41.30% 42.39%      380ms 41.30%  internal/runtime/syscall.Syscall6
`
	share, err := cumulative(top, deliverer)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "share", share, 0.4348)
	if _, err := cumulative("", deliverer); err == nil || !strings.Contains(err.Error(), deliverer) {
		t.Errorf("a profile without the function is no error that names it: %v", err)
	}
}

func TestBusyIsWhatTheKernelSays(t *testing.T) {
	parse := func(stat string) busy {
		b, err := parseBusy(stat)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	before := parse("cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 2 3\n")
	after := parse("cpu  150 0 150 760 140 0 0 0 90 0\n")
	near(t, "busy", after.since(before), 0.5)
	near(t, "busy in no time", after.since(after), 0)
	for _, bad := range []string{"", "cpu 1 2\n", "intr 1 2 3 4 5 6\n", "cpu 1 2 3 x 5 6 7 8\n"} {
		if _, err := parseBusy(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
