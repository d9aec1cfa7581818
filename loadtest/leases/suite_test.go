package leases

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// bin is set by TestMain.
var bin *proc.Bin

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

const (
	// testTimeout bounds what one test waits for. The tests of several packages share the machine.
	testTimeout = 3 * time.Minute
	// slack is what a busy machine adds to a time that is promised.
	slack = 4 * time.Second
)

// Kinds for tests of what must hold everywhere, the one that proves the test first.
var (
	everywhere = []target.Kind{
		target.Etcd37, target.Core,
		target.ProxyEtcd37, target.ProxyEtcd36, target.ProxyEtcd35, target.ProxyCore, target.ProxyProxyEtcd37, target.ProxyProxyCore,
	}
	// proxies are kinds with a proxy.
	proxies = []target.Kind{target.ProxyEtcd37, target.ProxyEtcd35, target.ProxyCore, target.ProxyProxyEtcd37, target.ProxyProxyCore}
)

// site is where leases are.
type site struct{ *targettest.Site }

func newSite(t *testing.T, kind target.Kind, o targettest.SiteOptions) *site {
	t.Helper()
	o.Timeout = testTimeout
	return &site{targettest.NewSite(t, bin, kind, o)}
}

// at runs a test at each kind of site, all at the same time.
func at(t *testing.T, kinds []target.Kind, run func(*site)) {
	t.Helper()
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			run(newSite(t, kind, targettest.SiteOptions{}))
		})
	}
}

// store is the leases at a member, past the proxies.
func (s *site) store() pb.LeaseClient {
	s.Helper()
	return pb.NewLeaseClient(targettest.Dial(s, s.Cluster.Members[0].Addr))
}

// front is a connection to where clients go.
func (s *site) front() *grpc.ClientConn {
	s.Helper()
	return targettest.Dial(s, s.Endpoint())
}

// grant grants n leases, whose ids are from first on.
func (s *site) grant(first int64, n int, ttl int64) {
	s.Helper()
	const granters = 64
	var (
		granting sync.WaitGroup
		next     atomic.Int64
		store    = s.store()
	)
	for range min(n, granters) {
		granting.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if _, err := store.LeaseGrant(s.Ctx, &pb.LeaseGrantRequest{ID: first + i, TTL: ttl}); err != nil {
					s.Errorf("grant lease %d: %v", first+i, err)
					return
				}
			}
		})
	}
	granting.Wait()
	if s.Failed() {
		s.FailNow()
	}
}

// renewals is how often leases have been renewed upstream.
func (s *site) renewals() int { return s.Metric("etcd_debugging_lease_renewed_total") }

// isThere tells whether the store has a lease.
func (s *site) isThere(store pb.LeaseClient, id int64) bool {
	s.Helper()
	r, err := store.LeaseTimeToLive(s.Ctx, &pb.LeaseTimeToLiveRequest{ID: id})
	s.Must(err)
	return r.GrantedTTL > 0
}

// pinger is a client with one stream of pings, who waits for each answer, and opens another stream when one has ended, as
// clients do. A stream may end: a ping that is not answered within a second fails, and the machine may be too busy for that.
type pinger struct {
	*site
	ctx    context.Context // of streams
	client pb.LeaseClient
	stream pb.Lease_LeaseKeepAliveClient // nil if there is none
	sent   int                           // pings
}

func (s *site) pinger(conn *grpc.ClientConn) *pinger {
	return &pinger{site: s, ctx: s.Ctx, client: pb.NewLeaseClient(conn)}
}

// ping pings a lease and returns the TTL that it has again.
func (p *pinger) ping(id int64) int64 {
	p.Helper()
	for {
		r, err := p.try(id)
		if err == nil {
			targettest.Want(p, "lease that is answered", r.ID, id)
			if r.Header.GetRevision() == 0 || r.Header.GetClusterId() == 0 {
				p.Errorf("the header of an answer is %v", r.Header)
			}
			return r.TTL
		}
		p.stream = nil
		if status.Code(err) != codes.Unavailable || p.Ctx.Err() != nil {
			p.Fatalf("ping of lease %d: %v", id, err)
		}
		p.Logf("ping of lease %d: %v", id, err)
	}
}

// try pings once.
func (p *pinger) try(id int64) (*pb.LeaseKeepAliveResponse, error) {
	if p.stream == nil {
		stream, err := p.client.LeaseKeepAlive(p.ctx)
		if err != nil {
			return nil, err
		}
		p.stream = stream
	}
	p.sent++
	if err := p.stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return p.stream.Recv() // tells also why Send has failed
}
