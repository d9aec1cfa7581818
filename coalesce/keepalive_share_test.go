package coalesce

import (
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestWhoSharesAPingHasTheWholeOfAPingsLife(t *testing.T) {
	for name, came := range map[string][2]time.Duration{
		"who joins came later":  {0, 900 * time.Millisecond},
		"who joins came before": {900 * time.Millisecond, 0},
	} {
		t.Run(name, func(t *testing.T) {
			onKeepalives(t, func(b *keepaliveBench) {
				b.cluster.change(func() { b.cluster.closed = true })
				var clients [2]fakeClient
				b.until(900 * time.Millisecond)
				for i := range clients {
					b.Ping(1, b.start.Add(came[i]), &clients[i], 0)
				}
				if n := b.Stats().Shared; n != 1 {
					b.Fatalf("%d pings are shared", n)
				}
				b.until(2 * PingLife)
				for i := range clients {
					if n, d := clients[i].slowest(b.start); n != 1 || d != came[i]+PingLife {
						b.Errorf("client %d had %d answers, the last after %v: %v", i, n, d-came[i], clients[i].take())
					}
				}
				if n := b.Stats().Failed; n != 2 {
					b.Errorf("%d pings have failed", n)
				}
				b.cluster.change(func() { b.cluster.closed = false })
			})
		})
	}
}

// Of those who share a ping the first is late, wherever the ping is by then: the others are answered by it.
func TestPingGoesOnForThoseWhoAreNotLate(t *testing.T) {
	for name, hold := range map[string]func(b *keepaliveBench){
		"it waits":       func(b *keepaliveBench) { b.cluster.change(func() { b.cluster.closed = true }) },
		"it is upstream": func(*keepaliveBench) {},
	} {
		t.Run(name, func(t *testing.T) {
			onKeepalives(t, func(b *keepaliveBench) {
				b.until(2 * time.Second)
				b.cluster.silence(true)
				hold(b)
				came := b.start.Add(2*time.Second - 900*time.Millisecond)
				var first, second, third fakeClient
				b.Ping(1, came, &first, 0)
				b.Ping(1, time.Now(), &second, 0)
				b.Ping(1, came, &third, 0)
				b.until(2150 * time.Millisecond)
				want := message(rpctypes.ErrGRPCTimeout)
				for _, c := range []*fakeClient{&first, &third} {
					if got := c.take(); len(got) != 1 || got[0] != "1: "+want {
						b.Errorf("who is late is told %q", got)
					}
				}
				b.cluster.change(func() { b.cluster.silent, b.cluster.closed = false, false })
				b.until(2500 * time.Millisecond)
				if got := second.take(); len(got) != 1 || got[0] != "1: 10" {
					b.Errorf("who is not is told %q", got)
				}
				b.until(5 * time.Second)
				s := b.Stats()
				if len(first.take())+len(second.take())+len(third.take()) != 0 || s.Waiting != 0 || s.Failed != 2 || s.Sent != 1 {
					b.Errorf("got %+v", s)
				}
				b.mu.Lock()
				defer b.mu.Unlock()
				if len(b.pingers) != 0 || b.cfg.Budget.pings.Load() != 0 {
					b.Errorf("%d clients are remembered, and %d pings in use", len(b.pingers), b.cfg.Budget.pings.Load())
				}
			})
		})
	}
}

// Who pings for many leases has the pings of them all wait, but not for others.
func TestSharedPingDoesNotWaitInTheLineOfWhoPingsForMany(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		const leases = 3000
		b.grantMany(leases)
		b.cluster.latency = func() time.Duration { return time.Millisecond }
		b.flood(leases)
		synctest.Wait()
		var other fakeClient
		begun := time.Now()
		b.Ping(1000+leases-1, begun, &other, 0)
		b.until(begun.Sub(b.start) + time.Second)
		if n, d := other.slowest(begun); n != 1 || d > (maxUpstream+2)*time.Millisecond {
			b.Errorf("%d answers, after %v: %s", n, d, other.take())
		}
		if b.Stats().Shared != 1 {
			b.Error("the ping was not shared")
		}
	})
}

// Who has leases that have expired could have the pings of others wait for them, if these were taken over by him.
func TestSharedPingIsNotTakenOverByWhoIsHeldUp(t *testing.T) {
	onCluster(t, false, func(b *keepaliveBench) {
		const leases = 2 * maxDoubtful
		b.cfg.Budget.maxPings = 1 << 18
		var heldUp, victim fakeClient
		for i := range int64(maxDoubtfulOfSink) {
			b.cluster.change(func() { b.cluster.leases[3000+i] = &fakeLease{ttl: 10} })
			b.Ping(3000+i, time.Now(), &heldUp, 0)
		}
		synctest.Wait() // all are upstream, and stay there
		b.cluster.latency = func() time.Duration { return time.Millisecond }
		begun := time.Now()
		for id := range int64(leases) {
			b.cluster.grant(2000+id, 100)
			b.Ping(2000+id, begun, &victim, 0)
			b.Ping(2000+id, begun, &heldUp, 0)
		}
		b.until(begun.Sub(b.start) + 2*PingLife)
		if n, d := victim.slowest(begun); n != leases || d > 10*time.Millisecond {
			b.Errorf("%d answers, after %v: %s", n, d, victim.take())
		}
	})
}

// Two clients could have a ping go from one to the other, each time to the end of all who have their turns.
func TestSharedPingIsNotPutOffByThoseWhoJoinIt(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		const clients, leases, latency = 60, 100, 2 * time.Millisecond
		b.cfg.Budget.maxLeases = 1 << 18
		b.grantMany(clients * leases)
		b.cluster.grant(1, 100)
		b.Granted(1, 100, time.Now())
		b.cluster.latency = func() time.Duration { return latency }
		others := make([]fakeClient, clients)
		for i := range others {
			for l := range leases {
				b.Ping(int64(1000+i*leases+l), time.Now(), &others[i], 0)
			}
		}
		b.until(20 * time.Millisecond)
		begun := time.Now()
		var victim fakeClient
		var joining [2]fakeClient
		b.Ping(1, begun, &victim, 0)
		for at := range 25 {
			b.until(begun.Sub(b.start) + time.Duration(40*at)*time.Millisecond)
			b.Ping(1, time.Now(), &joining[at%2], 0)
		}
		b.until(begun.Sub(b.start) + PingLife)
		most := (maxUpstream + 2*clients + 2) * latency // what is upstream, and two turns of each
		if n, d := victim.slowest(begun); n != 1 || d > most {
			b.Errorf("%d answers, after %v, want %v: %s", n, d, most, victim.take())
		}
	})
}
