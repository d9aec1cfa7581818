package linearizable

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// place says what is at a site.
type place struct {
	name       string
	member     target.Kind
	members    int
	memberArgs []string
	proxies    [][]string    // the arguments of each
	row        bool          // each proxy is before the one before it, not before the members
	late       time.Duration // what the first proxy sends and is sent is late by up to that
	padding    int           // of values
}

// testTimeout bounds what one test waits for, beside its -duration. The tests of several packages share the machine.
const testTimeout = 90 * time.Second

// site is a cluster, the proxies before it, and connections to all of them.
type site struct {
	*targettest.Site
	place
	rng     *rand.Rand
	admins  []*grpc.ClientConn // to each member
	servers []*server
	begun   time.Time
	conns   conns
	lines   []*targettest.Relay // to members, of the first proxy if it is late
	hits    hits                // of all proxies
}

// server is where clients go.
type server struct {
	name  string
	addr  string
	proxy bool
	links []*link
}

// linksEach is how many connections there are to each server. Clients share them.
const linksEach = 4

func newSite(t *testing.T, p place) *site {
	t.Helper()
	s := &site{
		Site: targettest.NewSite(t, bin, p.member, targettest.SiteOptions{
			Timeout: testTimeout + *duration, Members: p.members, MemberArgs: p.memberArgs,
		}),
		place: p, rng: targettest.Random(t, *seed), begun: time.Now(),
	}
	endpoints := s.Cluster.Endpoints()
	for i, args := range p.proxies {
		way := endpoints
		if i == 0 && p.late > 0 {
			way = s.linesTo(endpoints, p.late)
		}
		proxy := s.startProxy(way, args...)
		if p.row {
			endpoints = []string{proxy.addr}
		}
	}
	for _, m := range s.Cluster.Members {
		s.serve(&server{name: m.Name, addr: m.Addr})
		s.admins = append(s.admins, targettest.Dial(s, m.Addr))
	}
	return s
}

// leader is the place of the member that says it is the leader; below 0 if none does.
func (s *site) leader(ctx context.Context) int {
	for i := range s.admins {
		if r, err := s.status(ctx, i); err == nil && r.Leader == r.Header.MemberId {
			return i
		}
	}
	return -1
}

func (s *site) status(ctx context.Context, member int) (*pb.StatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return pb.NewMaintenanceClient(s.admins[member]).Status(ctx, &pb.StatusRequest{})
}

// linesTo returns where relays to servers begin.
func (s *site) linesTo(endpoints []string, late time.Duration) []string {
	s.Helper()
	var begins []string
	for _, to := range endpoints {
		l := s.RelayTo(to, late)
		s.lines, begins = append(s.lines, l), append(begins, l.Addr)
	}
	return begins
}

func (s *site) startProxy(endpoints []string, args ...string) *server {
	s.Helper()
	proxy := targettest.StartProxy(s, bin, endpoints, args...)
	s.Proxies = append(s.Proxies, proxy)
	return s.serve(&server{name: fmt.Sprintf("proxy %d", len(s.Proxies)), addr: proxy.Addr, proxy: true})
}

// serve lets clients go to a server.
func (s *site) serve(at *server) *server {
	s.Helper()
	for range linksEach {
		at.links = append(at.links, s.link(at))
	}
	s.servers = append(s.servers, at)
	return at
}

// now is the time since the beginning of the test.
func (s *site) now() time.Duration { return time.Since(s.begun) }

// link is a connection to a server, made again whenever it breaks.
type link struct {
	server *server
	kv     pb.KVClient
}

func (s *site) link(to *server) *link {
	s.Helper()
	cc := targettest.Dial(s, to.addr, grpc.WithContextDialer(s.conns.dial))
	return &link{to, pb.NewKVClient(cc)}
}

// do sends a request, waiting for the server if it is away, and notes how it ended.
func (s *site) do(ctx context.Context, r Request, client int, on *link) *Op {
	o := &Op{Request: r, Server: on.server.name, Proxy: on.server.proxy, Client: client, Call: s.now()}
	var by peer.Peer
	o.Response, o.Err = r.Send(ctx, on.kv, grpc.Peer(&by), grpc.WaitForReady(true))
	o.Return = s.now()
	if id, ok := by.LocalAddr.(connID); ok {
		o.Conn = int64(id)
	} else if o.Err == nil {
		o.Response, o.Err = nil, fmt.Errorf("the answer came over %v, not over a connection of ours", by.LocalAddr)
	}
	return o
}
