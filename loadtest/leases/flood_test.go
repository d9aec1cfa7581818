package leases

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// floodFor is how long others are disturbed: two of the longest leases.
const floodFor = 10 * time.Second

// A client that pings very many leases which are not there costs no other client a lease, old or new.
func TestFloodOfUnknownLeasesLosesNobodysLease(t *testing.T) {
	at(t, []target.Kind{target.ProxyEtcd37, target.ProxyCore, target.ProxyProxyEtcd37}, func(s *site) {
		const floods, clients = 20, 50
		ctx, cancel := context.WithTimeout(s.Ctx, floodFor)
		defer cancel()
		var (
			tasks   sync.WaitGroup
			flooded atomic.Int64
			lost    atomic.Int64
		)
		flooder, front := targettest.Dial(s, s.Endpoint()), s.front()
		for range floods {
			tasks.Go(func() { flood(ctx, pb.NewLeaseClient(flooder), &flooded) })
		}
		s.Eventually(testTimeout, "the flood is there", func() error {
			if flooded.Load() < 1000 {
				return context.DeadlineExceeded
			}
			return nil
		})
		for i := range clients {
			p := s.pinger(front)
			tasks.Go(func() {
				ttl := 3 + int64(i%3)
				// Half of them are granted elsewhere, so that nothing is known of them here.
				grants := []pb.LeaseClient{s.store(), p.client}[i%2]
				r, err := grants.LeaseGrant(s.Ctx, &pb.LeaseGrantRequest{ID: int64(1 + i), TTL: ttl})
				if err != nil {
					s.Errorf("grant lease %d: %v", 1+i, err)
					return
				}
				for ctx.Err() == nil {
					if got, err := p.try(r.ID); err != nil {
						p.stream = nil
					} else if got.TTL == 0 {
						lost.Add(1)
						return
					}
					time.Sleep(time.Duration(ttl) * time.Second / 3) // as clients do
				}
			})
		}
		tasks.Wait()
		targettest.Want(s, "leases that are lost", lost.Load(), 0)
		s.Logf("%d pings of the flood were answered", flooded.Load())
	})
}

// flood pings as fast as a stream takes it, and opens another when it has ended.
func flood(ctx context.Context, c pb.LeaseClient, answered *atomic.Int64) {
	for ctx.Err() == nil {
		stream, err := c.LeaseKeepAlive(ctx)
		if err != nil {
			continue
		}
		received := make(chan struct{})
		go func() {
			defer close(received)
			for {
				if _, err := stream.Recv(); err != nil {
					return
				}
				answered.Add(1)
			}
		}()
		for stream.Send(&pb.LeaseKeepAliveRequest{ID: 1<<40 + rand.Int64N(1<<40)}) == nil {
		}
		<-received
	}
}

// Of a hundred clients that upstream takes for the same user one pings a lease of another user all the time. The others notice
// nothing: at etcd the stream that all share ends by each such ping.
func TestClientThatIsRefusedDisturbsNobody(t *testing.T) {
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			refusedBesideOthers(newSite(t, kind, targettest.SiteOptions{MemberArgs: []string{target.CheapPasswords}}))
		})
	}
}

func refusedBesideOthers(s *site) {
	const clients, foreign = 100, 1000
	direct := targettest.Dial(s, s.Cluster.Members[0].Addr)
	addUsers(s, direct, "root", "alice", "bob")
	s.grant(1, clients, 5)
	s.grant(foreign, 1, 600)
	_, err := pb.NewKVClient(direct).Put(s.Ctx, &pb.PutRequest{Key: []byte("/b"), Lease: foreign})
	s.Must(err)
	_, err = pb.NewAuthClient(direct).AuthEnable(s.Ctx, &pb.AuthEnableRequest{})
	s.Must(err)
	r, err := pb.NewAuthClient(direct).Authenticate(s.Ctx, &pb.AuthenticateRequest{Name: "alice", Password: "alice's"})
	s.Must(err)
	alice := metadata.AppendToOutgoingContext(s.Ctx, "token", r.Token)

	ctx, cancel := context.WithTimeout(s.Ctx, floodFor/2)
	defer cancel()
	front := s.front()
	var (
		tasks   sync.WaitGroup
		refused atomic.Int64
		late    atomic.Int64
	)
	newPinger := func(conn *grpc.ClientConn) *pinger {
		p := s.pinger(conn)
		p.ctx = alice
		return p
	}
	for i := range int64(clients) {
		p := newPinger(front)
		tasks.Go(func() {
			for ctx.Err() == nil {
				switch got, err := p.try(1 + i); {
				case status.Code(err) == codes.Unavailable: // the machine is too busy
					late.Add(1)
					p.stream = nil
				case err != nil:
					s.Errorf("ping of lease %d: %v", 1+i, err)
					return
				case got.TTL != 5:
					s.Errorf("TTL of lease %d is %d", 1+i, got.TTL)
					return
				}
				time.Sleep(200 * time.Millisecond) // between pings
			}
		})
	}
	p := newPinger(front)
	for ctx.Err() == nil {
		switch _, err := p.try(foreign); status.Code(err) {
		case codes.PermissionDenied:
			refused.Add(1)
		case codes.Unavailable:
		default:
			s.Errorf("ping of another user's lease: %v", err)
			cancel()
		}
		p.stream = nil
	}
	tasks.Wait()
	targettest.Want(s, "somebody was refused", refused.Load() > 0, true)
	s.Logf("%d pings were refused, and %d of others came too late", refused.Load(), late.Load())
}
