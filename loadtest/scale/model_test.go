package scale

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// plain has costs that can be computed with in the head.
func plain() Model {
	return Model{
		Core: Costs{
			Idle: 0.01, Downstream: 0.001, In: Cost{Batch: 100, Event: 10, Byte: 0.01}, Out: Cost{Batch: 2, Event: 1, Byte: 0.001}, Wake: 5,
			Serial: 1, SerialWake: 0.5, Memory: 1 << 20, WatcherMemory: 1000, ConnectionMemory: 10_000,
		},
		Proxy: Costs{
			In: Cost{Batch: 50}, Out: Cost{Batch: 1}, Wake: 4,
			Serial: 0.5, Memory: 1 << 20, WatcherMemory: 1000, ConnectionMemory: 10_000,
		},
		Direct: Latency{P50: 2, P99: 5},
		Hop:    Latency{P50: 0.5, P99: 1},
	}
}

func machine(cores int) Machine {
	return Machine{Cores: cores, Memory: 64 << 30, Link: 1.25e9, Use: 0.5}
}

// near fails if got is not want, but for rounding.
func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-9*max(1, math.Abs(want)) {
		t.Errorf("%s is %v, not %v", what, got, want)
	}
}

func TestDemandIsWhatTheCostsAddUpTo(t *testing.T) {
	c := plain().Core
	l := Load{Watchers: 100, PerConnection: 10, Share: 1, Events: 1000, Batch: 10, KeySize: 20, ValueSize: 80}
	d := c.demand(l, false)
	// 100 batches a second of 10 events of 100 B; 10,000 messages and 100,000 events; 1,000 writes to connections.
	micro := 100*100 + 1000*(10+0.01*100) + 10_000*2 + 100_000*(1+0.001*100) + 1000*5
	near(t, "processor time", d.Cores, 0.01+micro/1e6)
	near(t, "one goroutine's", d.Serial, (10_000*1+1000*0.5)/1e6)
	near(t, "memory", d.Memory, 1<<20+100*1000+10*10_000)
	near(t, "what 100 proxies add", c.demand(l, true).Cores-d.Cores, 0.1)
}

func TestWatchersOfAPartGetMessagesWithThatPart(t *testing.T) {
	// Each batch is one event, which one watcher in four wants; two share a connection.
	l := Load{Watchers: 8, PerConnection: 2, Share: 0.25, Events: 100, Batch: 1}
	messages, events, wakes := l.messages()
	near(t, "messages", messages, 8*100*0.25)
	near(t, "events", events, 8*100*0.25)
	near(t, "wakes", wakes, 4*100*(1-0.75*0.75))
	// Of a batch of two events a watcher wants one or both with a chance of 1 - (3/4)², in one message.
	l.Batch, l.PerConnection = 2, 1
	messages, events, wakes = l.messages()
	near(t, "messages", messages, 8*50*(1-0.75*0.75))
	near(t, "events", events, 8*100*0.25)
	near(t, "wakes", wakes, messages)
	// Nobody gets anything.
	if messages, events, wakes = l.of(0).messages(); messages != 0 || events != 0 || wakes != 0 {
		t.Errorf("no watchers get %v messages, %v events, %v wakes", messages, events, wakes)
	}
}

func TestAKeyOfItsOwnIsOneMessageForEachEvent(t *testing.T) {
	const million = 1_000_000
	l := Load{Watchers: million, PerConnection: 1, Share: 1.0 / million, Events: 1000, Batch: 1}
	messages, _, wakes := l.messages()
	if math.Abs(messages-1000) > 1e-6 || math.Abs(wakes-1000) > 1e-6 {
		t.Errorf("1,000 events a second are %v messages in %v writes", messages, wakes)
	}
}

func TestAConnectionIsNotSharedByMoreWatchersThanThereAre(t *testing.T) {
	l := Load{Watchers: 3, PerConnection: 100, Share: 1, Events: 1, Batch: 1}
	if _, _, wakes := l.messages(); wakes != 1 {
		t.Errorf("3 watchers have %v connections", wakes)
	}
}

func TestBytesOnTheNetworkAreThoseOfMessagesAndPackets(t *testing.T) {
	l := Load{Watchers: 2, PerConnection: 1, Share: 1, Events: 10, Batch: 1, KeySize: 14, ValueSize: 256}
	message := messageHead + responseSize() + float64(l.eventSize())
	near(t, "small messages", l.bytes(), 20*(message+packetHead))
	if over := message - 14 - 256; over < 40 || over > 90 {
		t.Errorf("%v bytes of a message are not key and value", over)
	}
	// A large message needs several packets.
	l.ValueSize = 10 * packetBytes
	if got, least := l.bytes(), 20*float64(10*packetBytes+10*packetHead); got < least {
		t.Errorf("%v bytes, not %v or more", got, least)
	}
}

func TestQueueIsThatOfPollaczekAndKhinchine(t *testing.T) {
	q := queue{took: 2, busy: 0.5}
	near(t, "mean wait", q.wait(), 1)
	near(t, "p50", q.p50(), 2)
	near(t, "wait of 99 in 100", q.wait99(), 2*math.Log(50))
	near(t, "wait at an idle server", queue{took: 2}.wait(), 0)
	near(t, "late wait at an idle server", queue{took: 2}.wait99(), 0)
	if w := (queue{took: 2, busy: 1}).wait(); !math.IsInf(w, 1) {
		t.Errorf("at a server that is busy all the time the wait is %v", w)
	}
}

func TestPlanOfOneLevelIsWhatCanBeComputedByHand(t *testing.T) {
	m := plain()
	l := Load{Watchers: 10_000, PerConnection: 1, Share: 1, Events: 100, Batch: 1}
	// The core has two cores to use, and takes 8 µs for a message: 0.01 + 100*(110 µs + n*8 µs) <= 2 with n up to 2,473 - but its one
	// goroutine takes 1.5 µs, which is nothing. A proxy takes 50 µs and n times 5 µs: 3,990 clients. So three proxies.
	plans, err := m.Plans(l, machine(4))
	if err != nil {
		t.Fatal(err)
	}
	p := plans[0]
	if len(p.Levels) != 1 || p.Levels[0].Proxies != 3 || p.Levels[0].Fanout != 3334 || p.Levels[0].Limit != processor {
		t.Fatalf("not one level of three proxies, but %+v", p.Levels)
	}
	near(t, "a proxy's processor time", p.Levels[0].Demand.Cores, 100*(50+3334*5)/1e6)
	near(t, "the core's", p.Core.Cores, 0.01+100*(110+3*8)/1e6+3*0.001)
	near(t, "what one more adds", p.NextProxy, 0.001+100*8/1e6)
	// Half of what a batch takes at the core, and at the proxy, with their waits.
	core := queue{took: (p.Core.Cores - 0.01) / 4 * 10, busy: (p.Core.Cores - 0.01) / 4}
	proxy := queue{took: p.Levels[0].Demand.Cores / 4 * 10, busy: p.Levels[0].Demand.Cores / 4}
	near(t, "p50", p.Latency.P50, 2+0.5+core.p50()+proxy.p50())
	near(t, "p99", p.Latency.P99, 5+1+core.p99()+proxy.p99())
}

func TestCoreServesAloneWhatItCan(t *testing.T) {
	plans, err := plain().Plans(Load{Watchers: 1, PerConnection: 1, Share: 1, Events: 1, Batch: 1}, machine(1))
	if err != nil {
		t.Fatal(err)
	}
	if p := plans[0]; len(p.Levels) != 0 || p.proxies() != 0 || p.Latency.P50 < 2 {
		t.Errorf("one watcher is not served by the core: %+v", p)
	}
	if r := plans[0].Report(); r.Proxies != 0 || !strings.Contains(r.Note, "no proxy is needed") {
		t.Errorf("the report has %+v", r)
	}
}

func TestWhatCannotBeServedIsAnErrorThatSaysWhatIsShort(t *testing.T) {
	l := Load{Watchers: 1000, PerConnection: 1, Share: 1, Events: 1e6, Batch: 1}
	for want, on := range map[string]Machine{processor: machine(1), memoryLimit: {Cores: 1e6, Memory: 1, Link: 1e15, Use: 0.5}} {
		_, err := plain().Plans(l, on)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "1000 watchers") {
			t.Errorf("the error is %v, and not that of the %s", err, want)
		}
	}
	o := DefaultOptions()
	o.Events = 1e9
	for _, p := range o.plans(plain()) {
		if p.Impossible == "" || p.Proxies != 0 {
			t.Errorf("a billion events a second are possible: %+v", p)
		}
	}
}

// random is a model, a load and a machine of any kind.
func random(r *rand.Rand) (Model, Load, Machine) {
	upTo := func(x float64) float64 { return x * r.Float64() }
	costs := func() Costs {
		return Costs{
			Idle: upTo(0.1), Downstream: upTo(0.01), In: Cost{upTo(500), upTo(10), upTo(0.1)}, Out: Cost{upTo(5), upTo(1), upTo(0.01)},
			Wake: upTo(10), Serial: upTo(1), SerialWake: upTo(1), Memory: upTo(1e8), WatcherMemory: upTo(5e3), ConnectionMemory: upTo(5e4),
		}
	}
	l := Load{
		Watchers: 1 + r.IntN(2_000_000), PerConnection: 1 + upTo(100), Share: math.Pow(10, -upTo(6)),
		Events: 1 + upTo(1000), Batch: 1 + upTo(20), KeySize: 14, ValueSize: r.IntN(4096),
	}
	return Model{Core: costs(), Proxy: costs()}, l, Machine{Cores: 1 + r.IntN(32), Memory: 1e9 + upTo(1e11), Link: 1e8 + upTo(1e10), Use: 0.1 + upTo(0.8)}
}

func TestPlansKeepAllLimitsAndServeEverybody(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	possible := 0
	for i := range 300 {
		m, l, on := random(r)
		plans, err := m.Plans(l, on)
		if err != nil {
			continue
		}
		possible++
		for _, p := range plans {
			if err := keeps(p, m); err != nil {
				t.Fatalf("case %d, %+v on %+v: %v", i, l, on, err)
			}
			if p.proxies() < plans[0].proxies() {
				t.Fatalf("case %d: the first plan has %d proxies, another %d", i, plans[0].proxies(), p.proxies())
			}
		}
	}
	if possible < 100 {
		t.Fatalf("only %d cases were possible: the test says little", possible)
	}
}

// keeps tells what a plan breaks. One client more at each proxy of a level, with one proxy less, would be too much.
func keeps(p Plan, m Model) error {
	if !p.Machine.holds(p.Core) {
		return fmt.Errorf("the core needs %+v", p.Core)
	}
	below := p.Load.Watchers
	for i := len(p.Levels) - 1; i >= 0; i-- {
		level := p.Levels[i]
		l, proxies := p.Load, i < len(p.Levels)-1
		if proxies {
			l = l.ofDownstream(0)
		}
		if !p.Machine.holds(level.Demand) {
			return fmt.Errorf("level %d needs %+v", i+1, level.Demand)
		}
		if level.Proxies*level.Fanout < below {
			return fmt.Errorf("level %d serves %d, not %d", i+1, level.Proxies*level.Fanout, below)
		}
		if n := level.Proxies - 1; n > 0 && p.Machine.holds(m.Proxy.demand(l.of(ceilDiv(below, n)), proxies)) {
			return fmt.Errorf("level %d has %d proxies, and one less would do", i+1, level.Proxies)
		}
		below = level.Proxies
	}
	return nil
}

func TestMoreToServeNeverNeedsFewerProxies(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 300 {
		m, l, on := random(r)
		for what, more := range map[string]Load{
			"watchers": func(l Load) Load { l.Watchers += 1 + r.IntN(l.Watchers); return l }(l),
			"events":   func(l Load) Load { l.Events *= 1 + r.Float64(); return l }(l),
			"bytes":    func(l Load) Load { l.ValueSize += 1 + r.IntN(1000); return l }(l),
		} {
			few, err := m.Plans(l, on)
			if err != nil {
				continue
			}
			many, err := m.Plans(more, on)
			if err == nil && many[0].proxies() < few[0].proxies() {
				t.Fatalf("case %d: %+v needs %d proxies, with more %s %d", i, l, few[0].proxies(), what, many[0].proxies())
			}
		}
	}
}
