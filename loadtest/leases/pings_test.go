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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// Nobody pings but clients, and when one stops its lease ends, while others' go on over the same streams.
func TestNobodyPingsForAClient(t *testing.T) {
	at(t, everywhere, func(s *site) {
		const ttl, pings = 5, 30
		s.grant(1, 1, ttl)
		s.grant(2, 1, 600)
		before := s.renewals()
		p := s.pinger(s.front())
		for range pings {
			targettest.Want(s, "TTL", p.ping(1), ttl)
		}
		pinged := time.Now()
		most := p.sent + s.sentAgain()
		if n := s.renewals() - before; n < pings || n > most {
			s.Errorf("%d renewals of %d pings, of which %d were answered", n, most, pings)
		}
		store := s.store()
		for s.isThere(store, 1) {
			if late := time.Since(pinged) - (ttl+2)*time.Second; late > slack {
				s.Fatalf("a lease that nobody pings is there %v too long", late)
			}
			targettest.Want(s, "TTL of another's lease", p.ping(2), 600)
			time.Sleep(50 * time.Millisecond) // between pings, as clients do
		}
		if early := ttl*time.Second - time.Since(pinged); early > 0 {
			s.Errorf("a lease ended %v early", early)
		}
		targettest.Want(s, "TTL of a lease that is gone", p.ping(1), 0)
	})
}

// sentAgain is how many more pings the proxy next to the members has sent than it was sent: those whose stream had fallen
// silent, or ended.
func (s *site) sentAgain() int {
	s.Helper()
	again := 0
	for _, p := range s.Proxies {
		var said struct{ Pings pingStats }
		s.Must(p.Status(s.Ctx, &said))
		again += max(0, said.Pings.Sent+said.Pings.Shared-said.Pings.Pings)
	}
	return again
}

// pingStats is what a proxy says of pings.
type pingStats struct{ Pings, Shared, Sent, Streams, Opened int }

func TestPingOfNoLeaseHasNoTTL(t *testing.T) {
	at(t, everywhere, func(s *site) {
		s.grant(1, 1, 600)
		p := s.pinger(s.front())
		targettest.Want(s, "TTL of a lease that never was", p.ping(77), 0)
		targettest.Want(s, "TTL", p.ping(1), 600)
		_, err := s.store().LeaseRevoke(s.Ctx, &pb.LeaseRevokeRequest{ID: 1})
		s.Must(err)
		targettest.Want(s, "TTL of a lease that was revoked", p.ping(1), 0)
		// Granted again it is another lease, and known at once.
		s.grant(1, 1, 500)
		targettest.Want(s, "TTL", p.ping(1), 500)
	})
}

// Whoever has said that no more pings will come is answered those that he has sent.
func TestClientThatHasClosedItsSideIsAnswered(t *testing.T) {
	at(t, everywhere, func(s *site) {
		const leases = 100
		s.grant(1, leases, 600)
		p := s.pinger(s.front())
		for rounds := 0; rounds < 5; {
			err := p.pingAndClose(1, leases)
			switch {
			case err == nil:
				rounds++
			case status.Code(err) == codes.Unavailable: // the machine is too busy
				s.Log(err)
			default:
				s.Fatal(err)
			}
		}
	})
}

// pingAndClose pings leases on a stream of their own, and takes the answers after it has closed its side.
func (p *pinger) pingAndClose(first int64, n int) error {
	stream, err := p.client.LeaseKeepAlive(p.ctx)
	if err != nil {
		return err
	}
	for i := range int64(n) {
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: first + i}); err != nil {
			break // Recv tells why
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	answered := map[int64]bool{}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		targettest.Want(p, "TTL", r.TTL, 600)
		answered[r.ID] = true
	}
	targettest.Want(p, "leases that are answered", len(answered), n)
	return nil
}

// Leases that have expired, and are not yet revoked, block a stream at etcd. Behind a proxy nobody has to wait for those of
// others: for a member that revokes 1000 a second, 4000 take seconds.
func TestExpiredLeasesHoldUpNoOthers(t *testing.T) {
	at(t, proxies, func(s *site) {
		const expired, ttl = 4000, 2
		conn := s.front()
		s.grant(1, 1, 600)
		mine, others := s.pinger(conn), s.pinger(conn)
		mine.ping(1)
		s.grant(1000, expired, ttl)
		var cancel context.CancelFunc
		others.ctx, cancel = context.WithCancel(s.Ctx)
		gone := make(chan error, 1)
		store := s.store()
		go func() { gone <- others.pingUntilGone(store, 1000, expired) }()
		defer func() {
			cancel()
			s.Must(<-gone)
		}()
		var slowest time.Duration
		for waiting := true; waiting; {
			select {
			case err := <-gone:
				gone <- err
				waiting = false
			case <-time.After(20 * time.Millisecond): // between pings, as clients do
				begun := time.Now()
				targettest.Want(s, "TTL", mine.ping(1), 600)
				slowest = max(slowest, time.Since(begun))
			}
		}
		s.Logf("the slowest ping of a lease that lives took %v", slowest)
		if slowest > time.Second+slack {
			s.Errorf("a ping of a lease that lives took %v", slowest)
		}
	})
}

// pingUntilGone pings leases from when they have expired, many at a time, until each of them has been answered to be gone.
func (p *pinger) pingUntilGone(store pb.LeaseClient, first int64, n int) error {
	left := map[int64]bool{}
	for i := range int64(n) {
		left[first+i] = true
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for p.ctx.Err() == nil {
		r, err := store.LeaseTimeToLive(p.ctx, &pb.LeaseTimeToLiveRequest{ID: first + int64(n) - 1})
		if err == nil && r.TTL <= 0 {
			time.Sleep(time.Second) // it may have less than that left
			break
		}
		<-tick.C
	}
	for len(left) > 0 && p.ctx.Err() == nil {
		if err := p.pingSome(left); err != nil && status.Code(err) != codes.Unavailable {
			return err
		}
	}
	return nil
}

// pingSome pings some leases on a stream of their own and takes away those that are gone.
func (p *pinger) pingSome(left map[int64]bool) error {
	const many = 500
	stream, err := p.client.LeaseKeepAlive(p.ctx)
	if err != nil {
		return err
	}
	sent := 0
	for id := range left {
		if sent++; sent > many || stream.Send(&pb.LeaseKeepAliveRequest{ID: id}) != nil {
			break
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if r.TTL == 0 {
			delete(left, r.ID)
		}
	}
}

// Twenty thousand leases of two hundred clients need no more streams upstream than one client does.
func TestManyLeasesNeedFewStreams(t *testing.T) {
	at(t, []target.Kind{target.ProxyEtcd37, target.ProxyCore, target.ProxyProxyEtcd37}, func(s *site) {
		const clients, leases = 200, 100
		s.grant(1, clients*leases, 600)
		before, conn := s.renewals(), s.front()
		var (
			pinging sync.WaitGroup
			sent    atomic.Int64
			most    int
		)
		for c := range clients {
			p := s.pinger(conn)
			pinging.Go(func() {
				for i := range leases {
					if ttl := p.ping(int64(1 + c*leases + i)); ttl != 600 {
						s.Errorf("TTL is %d", ttl)
					}
				}
				sent.Add(int64(p.sent))
			})
		}
		done := make(chan struct{})
		go func() {
			pinging.Wait()
			close(done)
		}()
		for pinged := false; !pinged; {
			select {
			case <-done:
				pinged = true
			case <-time.After(50 * time.Millisecond): // between looks
			}
			most = max(most, s.streams())
		}
		if n := s.renewals() - before; n < clients*leases || n > int(sent.Load())+s.sentAgain() {
			s.Errorf("%d renewals of %d leases by %d pings", n, clients*leases, sent.Load())
		}
		targettest.Want(s, "at most 4 streams upstream", most <= 4, true)
		s.Logf("%d streams upstream", most)
	})
}

// streams is how many streams of pings the proxy next to the members has upstream.
func (s *site) streams() int {
	s.Helper()
	var said struct{ Pings pingStats }
	s.Must(s.Proxies[0].Status(s.Ctx, &said))
	return said.Pings.Streams
}
