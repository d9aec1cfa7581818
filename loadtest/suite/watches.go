package suite

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	"weir/loadtest/load"
	"weir/loadtest/report"
)

// watchScenarios are those of events: who watches what, and how soon and at what cost it is told.
//
// The rate of writes is one that the slowest system sustains on two cores which it shares with its clients: at the
// same rate latencies can be compared, and none is that of a queue that grows.
func watchScenarios() []Scenario {
	var all []Scenario
	for _, w := range []struct {
		name, description string
		long              bool
		load.Watches
		aims []report.Aim
	}{
		{
			name:        "watch-prefix-1k",
			description: "1,000 watchers of one prefix, on 100 connections, one stream each. 20 puts of 256 B a second, every one of them to all.",
			Watches:     load.Watches{Watchers: 1_000, ValueSize: 256, Puts: 1, Rate: 20},
			aims: append(cpuAims("A fifth to a quarter of what is measured is the put at etcd, and two fifths or more at a core. Without it, as "+
				"bench watch measures, it is 0.28 at a core and 0.30 to 0.41 with a proxy."), latencyAims()...),
		},
		{
			name:        "watch-prefix-10k",
			description: "10,000 watchers of one prefix, on 100 connections, one stream each. 10 puts of 256 B a second, every one of them to all.",
			long:        true,
			Watches:     load.Watches{Watchers: 10_000, ValueSize: 256, Puts: 1, Rate: 10},
			aims:        append(cpuAims(""), latencyAims()...),
		},
		{
			name: "watch-keys-10k",
			description: "10,000 watchers, each of a key of its own, on 100 connections, one stream each. 20 transactions a second, each of 100 puts of " +
				"256 B: every event goes to one watcher.",
			Watches: load.Watches{Watchers: 10_000, SingleKey: true, ValueSize: 256, Puts: 100, Rate: 20},
			aims: append(cpuAims("Half of what is measured is the puts at etcd, which alone is more than the aim allows a proxy before it, and three fifths at a "+
				"core. Without them, as bench watch measures, it is 0.57 to 0.65 at a core and 0.65 to 0.72 with a proxy. The events of one write go to a hundred "+
				"connections, one each, so every one takes a turn of gRPC's writer and a write to a socket: 40 % of what the proxy does, and 28 % at a core."), latencyAims()...),
		},
		{
			name:        "watch-streams-1k",
			description: "1,000 watchers of one prefix, each on a stream of its own, on 100 connections. 20 puts of 256 B a second, every one of them to all.",
			Watches:     load.Watches{Watchers: 1_000, OwnStream: true, ValueSize: 256, Puts: 1, Rate: 20},
			aims:        append(cpuAims("With 1,000 watchers the put itself is a large part of what is measured."), latencyAims()...),
		},
		{
			name:        "watch-streams-10k",
			description: "10,000 watchers of one prefix, each on a stream of its own, on 100 connections. 4 puts of 256 B a second, every one of them to all.",
			long:        true,
			Watches:     load.Watches{Watchers: 10_000, OwnStream: true, ValueSize: 256, Puts: 1, Rate: 4},
			aims:        append(cpuAims(""), latencyAims()...),
		},
	} {
		w.Prefix, w.Connections = watchPrefix, watchConnections
		all = append(all, watchScenario(report.Scenario{Name: w.name, Description: w.description, Aims: w.aims}, w.long, w.Watches))
	}
	return append(all, slowReaderScenarios()...)
}

const (
	watchPrefix      = Prefix + "watch/"
	watchConnections = 100
)

// watchScenario is a scenario of watchers of whom none is special.
func watchScenario(info report.Scenario, long bool, w load.Watches) Scenario {
	info.Kind, info.Unit, info.OpenLoop = "watches", "event", true
	first := &firstTurns{}
	return Scenario{Info: info, Long: long, MinTurn: leastTurn(w), Tolerance: eventsOff, New: func(s *System, r *Recorder) Load {
		return &watchLoad{system: s, recorder: r, watches: w, first: first.is(s)}
	}}
}

// eventsOff is by which part of the events that are due those may differ that come.
const eventsOff = 0.05

// leastTurn is how long a turn of watchers is at least: the latencies of one write's events depend on each other, so that there must be
// some writes.
func leastTurn(w load.Watches) time.Duration {
	const writes = 40
	return time.Duration(writes / w.Rate * float64(time.Second))
}

// cpuAims are for all that proxies do, over whatever store, for an event.
func cpuAims(why string) []report.Aim {
	var aims []report.Aim
	for _, system := range []string{ofCore, ofProxyCore, ofProxyEtcd} {
		aims = append(aims, report.Aim{System: system, Measure: report.CPURatio, Bound: 1.0 / 3, Why: why,
			Source: "a third of etcd's processor time for an event, all servers together"})
	}
	return aims
}

func latencyAims() []report.Aim {
	var aims []report.Aim
	for _, system := range []string{ofCore, ofProxyCore, ofProxyEtcd} {
		aim := report.Aim{System: system, Measure: report.P99Ratio, Bound: 1, Source: "an event comes no later than from etcd at the same rate"}
		if system != ofCore {
			aim.Why = "A proxy is one more process on the way, and on this machine."
		}
		aims = append(aims, aim)
	}
	return aims
}

// watchLoad is the Load of watchers.
type watchLoad struct {
	system   *System
	recorder *Recorder
	watches  load.Watches
	first    bool // turn of the system: its memory grows as watchers are created, and does not again later

	*load.Watchers // nil if it did not connect
}

// warmUps are writes before there are watchers, so that what a server needs for writes is not taken for what it needs for those.
const warmUps = 3

// Connect connects the clients and creates the watchers.
func (l *watchLoad) Connect(ctx context.Context) error {
	if err := l.connect(ctx); err != nil {
		return err
	}
	if err := l.Write(warmUps); err != nil {
		return err
	}
	grown, err := l.system.growth(l.Watch)
	if err == nil && l.first && grown.known {
		l.recorder.Extra("RSS/watcher B", float64(grown.bytes)/float64(l.watches.Watchers))
	}
	return err
}

func (l *watchLoad) connect(ctx context.Context) (err error) {
	l.Watchers, err = load.NewWatchers(ctx, l.system.place(), l.watches, func(int) load.Track { return l.recorder.Track() })
	return err
}

// Run writes, and waits until all watchers have every event.
func (l *watchLoad) Run(ctx context.Context, stop <-chan struct{}) error {
	if err := l.WriteUntil(stop); err != nil {
		return err
	}
	l.recorder.Due(l.Due(l.recorder.Window()), l.watches.EventsPerWrite())
	if err := l.Await(); err != nil {
		return err
	}
	n, known, err := l.system.upstreamWatchers(ctx)
	if known {
		l.recorder.Extra("watches upstream", float64(n))
	}
	return err
}

// Close ends the watches.
func (l *watchLoad) Close() error {
	if l.Watchers == nil {
		return nil
	}
	return l.Watchers.Close()
}

// firstTurns knows which turns are the first of a system in a scenario.
type firstTurns struct {
	mu   sync.Mutex // guards seen
	seen map[*System]bool
}

// is tells whether a turn of the system, which begins, is the first.
func (f *firstTurns) is(s *System) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen[s] {
		return false
	}
	if f.seen == nil {
		f.seen = map[*System]bool{}
	}
	f.seen[s] = true
	return true
}

// place is where the loads of package load find the system.
func (s *System) place() load.Place {
	return load.Place{Endpoint: s.Endpoint, Client: s.Client, Dial: func() (*grpc.ClientConn, error) { return s.DialStore(0) }}
}

// growth is by how many bytes the RSS of all servers has grown.
type growth struct {
	bytes int64
	known bool
}

// growth is that while something is done.
func (s *System) growth(do func() error) (growth, error) {
	before, known, err := s.Memory()
	if err != nil {
		return growth{}, err
	}
	if err := do(); err != nil || !known {
		return growth{}, err
	}
	after, _, err := s.Memory()
	return growth{bytes: after - before, known: true}, err
}

// upstreamWatchers is how many watches the stores behind proxies have; false if there is no proxy, or nobody tells.
func (s *System) upstreamWatchers(ctx context.Context) (n int, known bool, err error) {
	started, ok := s.servers.(*startedServers)
	if !ok || started.target.Kind.Proxies() == 0 {
		return 0, false, nil
	}
	for _, store := range started.target.Servers()[:started.target.Kind.Members()] {
		has, err := store.Metric(ctx, "etcd_debugging_mvcc_watcher_total")
		if err != nil {
			return 0, false, fmt.Errorf("watches upstream: %w", err)
		}
		n += has
	}
	return n, started.target.Kind.Members() > 0, nil
}
