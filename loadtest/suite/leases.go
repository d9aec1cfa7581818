package suite

import (
	"context"
	"errors"
	"time"

	"weir/loadtest/load"
	"weir/loadtest/report"
)

// leaseScenarios are those of leases that are kept alive.
func leaseScenarios() []Scenario {
	of := func(name, number string, long bool, leases int) Scenario {
		return keepAlive(report.Scenario{
			Name: name,
			Description: number + " leases with a TTL of 30 s, of 8 clients with a connection and one stream of pings each. 16 pings of each client are " +
				"under way at a time, 128 in all: another is sent when one is answered, each lease in its turn.",
			Aims: []report.Aim{
				{System: ofProxyCore, Measure: report.CPURatio, Bound: 1, Source: "proxy and core together take no more processor time for a ping than etcd alone"},
				{System: ofCore, Measure: report.CPURatio, Bound: 1, Source: "a core takes no more processor time for a ping than etcd"},
			},
		}, long, load.Leases{Clients: 8, Leases: leases, TTL: 30, InFlight: 16})
	}
	byTheClock := func(name, number string, leases int) Scenario {
		s := keepAlive(report.Scenario{
			Name: name, OpenLoop: true,
			Description: number + " leases with a TTL of 10 s, of 100 clients with a connection and one stream of pings each. Each lease is pinged whenever a third of " +
				"its TTL has passed, as clients do.",
		}, true, load.Leases{Clients: 100, Leases: leases, TTL: 10})
		s.MemberArgs = []string{"--unsafe-no-fsync"} // to grant, and to revoke, so many; pings write nothing
		s.MinTurn = 4 * time.Second                  // in which each is pinged once at least
		return s
	}
	return []Scenario{
		of("lease-keepalive", "1,000", false, 1_000), of("lease-keepalive-10k", "10,000", true, 10_000),
		keepAlive(report.Scenario{
			Name:        "lease-keepalive-1-client",
			Description: "One client with 16 leases with a TTL of 30 s, and one ping under way: what a round trip takes.",
		}, true, load.Leases{Clients: 1, Leases: 16, TTL: 30, InFlight: 1}),
		byTheClock("lease-clock-10k", "10,000", 10_000),
		byTheClock("lease-clock-100k", "100,000", 100_000),
	}
}

// keepAlive is a scenario of clients who ping.
func keepAlive(info report.Scenario, long bool, leases load.Leases) Scenario {
	info.Kind, info.Unit = "leases", "ping"
	return Scenario{Info: info, Long: long, New: func(s *System, r *Recorder) Load {
		return &leaseLoad{system: s, recorder: r, leases: leases}
	}}
}

// leaseLoad is the Load of those who keep leases alive.
type leaseLoad struct {
	system   *System
	recorder *Recorder
	leases   load.Leases
	keepers  *load.Keepers // nil if it did not connect
}

// Connect connects the clients, and grants the leases.
func (l *leaseLoad) Connect(ctx context.Context) (err error) {
	if l.keepers, err = load.NewKeepers(ctx, l.system.place(), l.leases, func(int) load.Track { return l.recorder.Track() }); err != nil {
		return err
	}
	return l.keepers.Grant()
}

// Run pings.
func (l *leaseLoad) Run(_ context.Context, stop <-chan struct{}) error {
	if err := l.keepers.Ping(); err != nil {
		return err
	}
	select {
	case <-stop:
		if l.leases.InFlight == 0 { // else the end of a stream is an error
			l.recorder.Extra("streams ended", float64(l.keepers.Ended()))
		}
		return l.keepers.Stop()
	case <-l.keepers.Failed().Done():
		return context.Cause(l.keepers.Failed())
	}
}

// Close revokes the leases, so that they do not expire while another system has its turn, and ends the connections.
func (l *leaseLoad) Close() error {
	if l.keepers == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), load.Patience)
	defer cancel()
	return errors.Join(l.keepers.Revoke(ctx), l.keepers.Close())
}
