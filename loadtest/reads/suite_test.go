package reads

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

var (
	// bin is set by TestMain.
	bin *proc.Bin

	seed     = flag.Uint64("seed", 0, "seed of what is random; 0 for a random one")
	huge     = flag.Bool("huge", false, "read ranges of 1 GiB instead of 64 MiB")
	distinct = flag.Int("distinct", distinctInCI, "distinct reads during which memory must not grow")
)

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// testTimeout bounds what one test waits for. The tests of several packages share the machine.
func testTimeout() time.Duration {
	if *huge || *distinct > distinctInCI {
		return 2 * time.Hour
	}
	return 3 * time.Minute
}

const (
	// slack is what a busy machine adds to a time that is promised.
	slack = 500 * time.Millisecond
	// maxStaleness is the proxy's default of --max-staleness.
	maxStaleness = 2 * time.Second
)

// distinctInCI is how many distinct reads are made when no flag says otherwise.
const distinctInCI = 100_000

// cacheAll has everything kept in memory, from the start.
const cacheAll = "--cache-prefix="

// place says where clients read: at a member, or at the last of a row of proxies before it.
type place struct {
	member  proc.Program
	proxies int
}

func (p place) String() string {
	s := string(p.member)
	for range p.proxies {
		s = "proxy-over-" + s
	}
	return s
}

// Places for tests of what must hold everywhere, the one that proves the test first.
var (
	everywhere = []place{
		{proc.Etcd37, 0},
		{proc.Etcd37, 1}, {proc.Etcd36, 1}, {proc.Etcd35, 1}, {proc.Core, 1},
		{proc.Etcd37, 2},
	}
	somewhere = []place{{proc.Etcd37, 0}, {proc.Etcd37, 1}, {proc.Core, 2}}
)

// at runs a test at each place, all at the same time.
func at(t *testing.T, places []place, run func(*site), proxyArgs ...string) {
	t.Helper()
	for _, p := range places {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			run(newSite(t, p, 1, proxyArgs...))
		})
	}
}

// site is a cluster, and proxies before it.
type site struct {
	*testing.T
	place
	ctx       context.Context
	cluster   *target.Cluster
	proxies   []*target.Server // the one next to the clients last
	proxyArgs []string         // of each
}

func newSite(t *testing.T, p place, members int, proxyArgs ...string) *site {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout())
	t.Cleanup(cancel)
	s := &site{T: t, place: p, ctx: ctx, proxyArgs: proxyArgs}
	s.cluster = targettest.StartCluster(t, bin, p.member, target.ClusterOptions{Members: members})
	endpoints := s.cluster.Endpoints()
	for range p.proxies {
		s.proxies = append(s.proxies, s.startProxy(endpoints))
		endpoints = []string{s.endpoint()}
	}
	return s
}

// startProxy starts one more proxy of the site's kind, which is no part of its row.
func (s *site) startProxy(endpoints []string) *target.Server {
	s.Helper()
	return targettest.StartProxy(s, bin, endpoints, s.proxyArgs...)
}

// endpoint is where clients go.
func (s *site) endpoint() string {
	if len(s.proxies) == 0 {
		return s.cluster.Members[0].Addr
	}
	return s.proxies[len(s.proxies)-1].Addr
}

// must ends the test if err is not nil.
func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// eventually asks again and again until ask returns nil. It is for what gives no signal when it changes.
func (s *site) eventually(within time.Duration, what string, ask func() error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, within)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			s.Fatalf("%s: not within %v: %v", what, within, err)
		case <-tick.C:
		}
	}
}

// random is seeded by the flag, or at random; a failed test shows how.
func random(t testing.TB) *rand.Rand {
	n := *seed
	if n == 0 {
		n = rand.Uint64()
	}
	t.Logf("seed %d", n)
	return rand.New(rand.NewPCG(n, 0))
}

// prefixEnd is the end of the range of keys that begin with prefix.
func prefixEnd(prefix string) string {
	return prefix[:len(prefix)-1] + string(prefix[len(prefix)-1]+1)
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

var errNotYet = errors.New("not yet")

func keys(prefix string, n int) []string {
	var s []string
	for i := range n {
		s = append(s, fmt.Sprintf("%s%06d", prefix, i))
	}
	return s
}
