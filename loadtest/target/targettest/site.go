package targettest

import (
	"context"
	"testing"
	"time"

	"weir/loadtest/network"
	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// Site is a cluster, and weir's proxies before it in a row, for one test. All of it ends with the test. Unlike a
// [target.Target] its parts can be reached, to do them harm and to ask what they have done.
type Site struct {
	*testing.T
	Kind      target.Kind
	Ctx       context.Context // ends when the test has taken too long
	Cluster   *target.Cluster
	Proxies   []*target.Server // the one next to the clients last
	ProxyArgs []string         // of each proxy that will be started

	Way   *Relay   // from the first proxy to the first member; nil unless asked for
	Peers []*Relay // to each member from the others; nil unless asked for

	bin *proc.Bin
}

// SiteOptions are what a site is made of besides its kind.
type SiteOptions struct {
	Timeout    time.Duration // of the test, without the building of programs
	Members    int           // 0 is 1
	MemberArgs []string
	ProxyArgs  []string         // of each proxy
	NoProxies  bool             // as yet: they will be started with StartProxies
	RelayWay   bool             // the first proxy is told of the first member only, and reaches it through a relay
	RelayPeers bool             // what members say to each other goes through relays
	Network    *network.Network // if set, the members are on its first hosts
}

// NewSite starts a site, of weir's proxies only, and returns when it serves.
func NewSite(t *testing.T, bin *proc.Bin, kind target.Kind, o SiteOptions) *Site {
	t.Helper()
	// What nobody has built yet takes as long as the machine needs for it, which is not the test's time.
	programs := []proc.Program{kind.Member()}
	if kind.Proxies() > 0 {
		programs = append(programs, proc.Proxy)
	}
	for _, p := range programs {
		if _, err := bin.Build(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.Timeout)
	t.Cleanup(cancel)
	s := &Site{T: t, Kind: kind, Ctx: ctx, ProxyArgs: o.ProxyArgs, bin: bin}
	// No test of a site takes away a machine's power, and what a killed process has written stays. Waiting for a disk
	// that other tests keep busy would only decide how many writes fit into a test's time.
	c := target.ClusterOptions{Members: o.Members, Network: o.Network, Args: append([]string{"--unsafe-no-fsync"}, o.MemberArgs...)}
	if o.RelayPeers {
		c.PeerVia = func(addr string) string {
			r := s.RelayTo(addr, 0)
			s.Peers = append(s.Peers, r)
			return r.Addr
		}
	}
	s.Cluster = StartCluster(t, bin, kind.Member(), c)
	endpoints := s.Cluster.Endpoints()
	if o.RelayWay {
		s.Way = s.RelayTo(endpoints[0], 0)
		endpoints = []string{s.Way.Addr}
	}
	if !o.NoProxies {
		s.StartProxies(endpoints)
	}
	return s
}

// StartProxies starts the proxies of the site's kind, the first of them before endpoints. Clients go there from now on.
func (s *Site) StartProxies(endpoints []string) {
	s.Helper()
	s.Proxies = nil
	for range s.Kind.Proxies() {
		s.Proxies = append(s.Proxies, s.StartProxy(endpoints))
		endpoints = []string{s.Endpoint()}
	}
}

// StartProxy starts one more proxy, which is no part of the row.
func (s *Site) StartProxy(endpoints []string) *target.Server {
	s.Helper()
	return StartProxy(s, s.bin, endpoints, s.ProxyArgs...)
}

// Front is the server that clients go to: the first member if there is no proxy.
func (s *Site) Front() *target.Server {
	if len(s.Proxies) == 0 {
		return s.Cluster.Members[0].Server
	}
	return s.Proxies[len(s.Proxies)-1]
}

// Endpoint is where clients go.
func (s *Site) Endpoint() string { return s.Front().Addr }

// Metric is the sum of all members' metrics whose name and labels begin so.
func (s *Site) Metric(name string) int {
	s.Helper()
	n, err := s.Cluster.Metric(s.Ctx, name)
	s.Must(err)
	return n
}

// Heap is how many bytes on the heap of the server that clients go to are in use, garbage not counted; it needs
// --enable-pprof.
func (s *Site) Heap() int {
	s.Helper()
	h, err := s.Front().Heap(s.Ctx)
	s.Must(err)
	return int(h.Alloc)
}

// Must ends the test if err is not nil.
func (s *Site) Must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// Eventually asks again and again until ask returns nil. It is for what gives no signal when it changes.
func (s *Site) Eventually(within time.Duration, what string, ask func() error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Ctx, within)
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
