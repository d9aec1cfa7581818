package linearizable

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

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
	*Load
	place
	rng    *rand.Rand
	admins []*grpc.ClientConn  // to each member
	lines  []*targettest.Relay // to members, of the first proxy if it is late
	hits   hits                // of all proxies
}

func newSite(t *testing.T, p place) *site {
	t.Helper()
	s := &site{
		Site: targettest.NewSite(t, bin, p.member, targettest.SiteOptions{
			Timeout: testTimeout + *duration, Members: p.members, MemberArgs: p.memberArgs,
		}),
		place: p, rng: targettest.Random(t, *seed),
	}
	s.Load = NewLoad(s.rng)
	s.Padding, s.NoStream, s.Most = p.padding, p.member == target.Etcd35, *histories
	t.Cleanup(func() {
		if err := s.Load.Close(); err != nil {
			t.Errorf("close connections: %v", err)
		}
	})
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
	at, err := s.add(at)
	s.Must(err)
	return at
}

// follow learns the truth at members: at those at the endpoints, or at all if none are given.
func (s *site) follow(endpoints ...string) *Follower {
	s.Helper()
	if len(endpoints) == 0 {
		endpoints = s.Cluster.Endpoints()
	}
	f, err := Follow(endpoints)
	s.Must(err)
	s.Cleanup(f.Close)
	return f
}

// finish compares everything with the truth.
func (s *site) finish(f *Follower, p Promises) {
	s.Helper()
	v, err := s.Judge(s.Ctx, f, p)
	s.Must(err)
	s.Log(v.Summary)
	logs := map[string]string{}
	for _, m := range s.Cluster.Members {
		logs[m.Name] = m.Log()
	}
	for i, p := range s.Proxies {
		s.countHits(p)
		logs[fmt.Sprintf("proxy-%d", i+1)] = p.Log()
	}
	s.Logf("from memory: %+v", s.hits)
	if len(s.Proxies) > 0 && (s.hits.Linearizable == 0 || s.hits.Serializable == 0) {
		s.Error("nothing was read from memory: the test proves nothing")
	}
	wrong, err := v.Errors(logs)
	for _, w := range wrong {
		s.Error(w)
	}
	s.Must(err)
}
