package linearizable

import (
	"context"
	"testing"
	"time"

	"weir/loadtest/target"
)

const maxStaleness = 500 * time.Millisecond

var (
	fixedPrefixes = []string{cached, apart}

	fixed = []string{"--cache-prefix=" + cached, "--cache-prefix=" + apart, "--max-staleness=500ms"}
	whole = []string{"--cache-prefix=", "--max-staleness=500ms"}
	hot   = []string{"--cache-bytes=262144", "--max-staleness=500ms"} // what becomes hot is soon dropped again
	quick = []string{"--heartbeat-interval=50", "--election-timeout=500"}
)

// Whatever is done to the processes, all that clients are told at the proxies and at the members is what they could have been told
// by one store.
func TestReadsAreLinearizable(t *testing.T) {
	for _, p := range []place{
		{name: "etcd", member: target.Etcd37, members: 1}, // proves the test
		{name: "two proxies over etcd", member: target.Etcd37, members: 1, proxies: [][]string{fixed, append(fixed, "--read-check-interval=3ms")}, late: 10 * time.Millisecond},
		{name: "two proxies over three etcds", member: target.Etcd37, members: 3, memberArgs: quick, proxies: [][]string{fixed, fixed}, late: 20 * time.Millisecond},
		{name: "two proxies over core", member: target.Core, members: 1, proxies: [][]string{fixed, fixed}, late: 5 * time.Millisecond},
		{name: "two proxies over three cores", member: target.Core, members: 3, memberArgs: quick, proxies: [][]string{fixed, fixed}, late: 20 * time.Millisecond},
		{name: "proxy over proxy over three etcds", member: target.Etcd37, members: 3, memberArgs: quick, proxies: [][]string{whole, fixed}, row: true},
		{name: "hot ranges over etcd 3.5", member: target.Etcd35, members: 1, proxies: [][]string{hot, hot}, padding: 200},
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, p)
			truth := s.follow()
			f := newFaults(s, truth)
			run(s, f)
			s.finish(truth, Promises{MaxStaleness: maxStaleness, Disturbed: f.disturbed, Compactions: f.compactions})
			t.Log(f.done)
		})
	}
}

// run lets clients work while harm is done, for as long as the flags say.
func run(s *site, f *faults) {
	ctx, cancel := context.WithTimeout(s.Ctx, *duration)
	defer cancel()
	harm := make(chan error, 1)
	go func() { harm <- f.run(ctx) }()
	s.Load.Run(ctx)
	cancel()
	s.Must(<-harm)
}
