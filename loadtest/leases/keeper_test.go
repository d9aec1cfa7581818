package leases

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// keeper is clients of etcd's own library that keep leases alive.
type keeper struct {
	*site
	leases int
	ctx    context.Context
	stop   context.CancelFunc
	lost   atomic.Int64 // leases that a client was told are gone
	pongs  atomic.Int64
	tasks  sync.WaitGroup
}

const (
	keptTTL = 10 // of leases with a keeper, in seconds
	// keptFor is how long a lease takes at most to end that nobody pings any more, counted from a change of the leader too.
	keptFor = (keptTTL + 2) * time.Second
)

// keep grants leases and has each kept alive by one of so many clients.
func (s *site) keep(clients, leases int) *keeper {
	s.Helper()
	k := &keeper{site: s, leases: leases}
	k.ctx, k.stop = context.WithCancel(s.Ctx)
	s.Cleanup(func() {
		k.stop()
		k.tasks.Wait()
	})
	var all []*clientv3.Client
	for range clients {
		all = append(all, targettest.Client(s, s.Endpoint()))
	}
	s.grant(1, leases, keptTTL)
	for i := range leases {
		ch, err := all[i%clients].KeepAlive(k.ctx, clientv3.LeaseID(1+i))
		s.Must(err)
		k.tasks.Go(func() {
			for range ch {
				k.pongs.Add(1)
			}
			if k.ctx.Err() == nil {
				k.lost.Add(1)
			}
		})
	}
	k.awaitPongs()
	return k
}

// awaitPongs waits for as many answers as there are leases.
func (k *keeper) awaitPongs() {
	k.Helper()
	want := k.pongs.Load() + int64(k.leases)
	k.Eventually(testTimeout, "pings are answered", func() error {
		if n := k.lost.Load(); n > 0 {
			k.Fatalf("clients have lost %d leases", n)
		}
		if n := k.pongs.Load(); n < want {
			return fmt.Errorf("%d are missing", want-n)
		}
		return nil
	})
}

// wantAll lets pass the time in which a lease would have ended that was not pinged, and wants all to be there, until their
// clients stop.
func (k *keeper) wantAll() {
	k.Helper()
	for end := time.Now().Add(keptFor + slack); time.Now().Before(end); {
		k.awaitPongs()
	}
	targettest.Want(k, "leases that are there", k.count(), k.leases)
	k.stop()
	k.Eventually(keptFor+slack, "leases end when their clients stop", func() error {
		if n := k.count(); n > 0 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
}

// count counts the leases at some member that answers.
func (k *keeper) count() int {
	k.Helper()
	var err error
	for _, m := range k.Cluster.Members {
		ctx, cancel := context.WithTimeout(k.Ctx, 2*time.Second)
		var r *pb.LeaseLeasesResponse
		r, err = pb.NewLeaseClient(targettest.Dial(k, m.Addr)).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
		cancel()
		if err == nil {
			return len(r.Leases)
		}
	}
	k.Fatalf("no member tells its leases: %v", err)
	return 0
}

// leader is the member that leads.
func (s *site) leader() (leads *target.Member) {
	s.Helper()
	s.Eventually(testTimeout, "a leader", func() error {
		for _, m := range s.Cluster.Members {
			ctx, cancel := context.WithTimeout(s.Ctx, time.Second)
			r, err := pb.NewMaintenanceClient(targettest.Dial(s, m.Addr)).Status(ctx, &pb.StatusRequest{})
			cancel()
			if err == nil && r.Leader == r.Header.MemberId {
				leads = m
				return nil
			}
		}
		return fmt.Errorf("nobody leads")
	})
	return leads
}

// Two thousand leases outlive the leader, however it goes. What a member is for clients that know no other does not count.
func TestNoLeaseIsLostWithTheLeader(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		kinds []target.Kind
		harm  func(*site) (mend func() error)
	}{
		{"killed", []target.Kind{target.ProxyEtcd37, target.ProxyProxyEtcd37}, func(s *site) func() error {
			m := s.leader()
			s.Must(m.Kill())
			return m.Restart
		}},
		{"hangs", []target.Kind{target.ProxyEtcd37}, func(s *site) func() error {
			m := s.leader()
			s.Must(m.Pause())
			return m.Resume
		}},
		{"hands over", []target.Kind{target.Etcd37, target.ProxyEtcd37}, func(s *site) func() error {
			s.handOver()
			return func() error { return nil }
		}},
	} {
		for _, kind := range c.kinds {
			t.Run(c.name+"/"+string(kind), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, kind, targettest.SiteOptions{Members: 3})
				k := s.keep(20, 2000)
				mend := c.harm(s)
				k.awaitPongs()
				s.Must(mend())
				k.wantAll()
			})
		}
	}
}

// handOver has the leader make another member lead.
func (s *site) handOver() {
	s.Helper()
	m := s.leader()
	for _, other := range s.Cluster.Members {
		if other == m {
			continue
		}
		r, err := pb.NewMaintenanceClient(targettest.Dial(s, other.Addr)).Status(s.Ctx, &pb.StatusRequest{})
		s.Must(err)
		_, err = pb.NewMaintenanceClient(targettest.Dial(s, m.Addr)).MoveLeader(s.Ctx, &pb.MoveLeaderRequest{TargetID: r.Header.MemberId})
		s.Must(err)
		return
	}
}

// Proxies keep nothing that a lease would need.
func TestNoLeaseIsLostWithTheProxy(t *testing.T) {
	t.Parallel()
	at(t, proxies, func(s *site) {
		k := s.keep(10, 500)
		for _, p := range s.Proxies {
			s.Must(p.Kill())
		}
		for _, p := range s.Proxies {
			s.Must(p.Restart())
		}
		k.wantAll()
	})
}

// A core, of one member, that is killed gives each lease its whole TTL again.
func TestNoLeaseIsLostWithTheCore(t *testing.T) {
	t.Parallel()
	at(t, []target.Kind{target.ProxyCore, target.ProxyProxyCore}, func(s *site) {
		k := s.keep(10, 500)
		s.Must(s.Cluster.Members[0].Kill())
		s.Must(s.Cluster.Members[0].Restart())
		k.wantAll()
	})
}

// An outage does not save up pings: whose client has stopped during it loses the lease when upstream is back, no later than
// upstream would have ended it then.
func TestPingsAreNotKeptThroughAnOutage(t *testing.T) {
	t.Parallel()
	at(t, proxies, func(s *site) {
		const leases = 5
		s.grant(1, leases, 600)
		p := s.pinger(s.front())
		for id := range int64(leases) {
			p.ping(1 + id)
		}
		s.Must(s.Cluster.Members[0].Pause())
		for id := range int64(leases) {
			_, err := p.try(1 + id)
			if err == nil {
				s.Fatal("a ping was answered by a member that hangs")
			}
			p.stream = nil
		}
		s.Must(s.Cluster.Members[0].Resume())
		s.Must(s.Cluster.Members[0].WaitReady(s.Ctx, target.Serves(s.Cluster.Members[0].Addr)))
		// What had reached the member, or was on its way there, is renewed now, and nothing after it.
		s.Eventually(testTimeout, "renewals come to an end", func() error {
			before := s.renewals()
			time.Sleep(300 * time.Millisecond)
			if n := s.renewals() - before; n > 0 {
				return fmt.Errorf("%d more", n)
			}
			return nil
		})
		before, again := s.renewals(), s.sentAgain()
		q := s.pinger(s.front())
		targettest.Want(s, "TTL", q.ping(2), 600)
		if n, most := s.renewals()-before, q.sent+s.sentAgain()-again; n < 1 || n > most {
			s.Errorf("%d renewals of %d pings", n, most)
		}
	})
}
