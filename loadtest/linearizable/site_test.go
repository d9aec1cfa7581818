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

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// place says what is at a site.
type place struct {
	name       string
	member     proc.Program
	members    int
	memberArgs []string
	proxies    [][]string    // the arguments of each
	row        bool          // each proxy is before the one before it, not before the members
	late       time.Duration // the first proxy is on a line this long
	padding    int           // of values
}

// testTimeout bounds what one test waits for, beside its -duration. The tests of several packages share the machine.
const testTimeout = 90 * time.Second

// site is a cluster, the proxies before it, and connections to all of them.
type site struct {
	*testing.T
	place
	ctx     context.Context
	rng     *rand.Rand
	cluster *target.Cluster
	admins  []*grpc.ClientConn // to each member
	proxies []*target.Server
	servers []*server
	begun   time.Time
	conns   conns
	lines   []*line
	hits    hits // of all proxies
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
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout+*duration)
	t.Cleanup(cancel)
	n := *seed
	if n == 0 {
		n = rand.Uint64()
	}
	t.Logf("-seed=%d", n)
	s := &site{T: t, place: p, ctx: ctx, rng: rand.New(rand.NewPCG(n, 0)), begun: time.Now()}
	s.cluster = targettest.StartCluster(t, bin, p.member, target.ClusterOptions{Members: p.members, Args: p.memberArgs})
	endpoints := s.cluster.Endpoints()
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
	for _, m := range s.cluster.Members {
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

// linesTo returns the beginnings of lines to servers.
func (s *site) linesTo(endpoints []string, late time.Duration) []string {
	s.Helper()
	var begins []string
	for _, to := range endpoints {
		l := s.lineTo(to, late)
		s.lines, begins = append(s.lines, l), append(begins, l.addr)
	}
	return begins
}

func (s *site) startProxy(endpoints []string, args ...string) *server {
	s.Helper()
	proxy := targettest.StartProxy(s, bin, endpoints, args...)
	s.proxies = append(s.proxies, proxy)
	return s.serve(&server{name: fmt.Sprintf("proxy %d", len(s.proxies)), addr: proxy.Addr, proxy: true})
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

// must ends the test if err is not nil.
func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

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
