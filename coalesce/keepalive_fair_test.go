package coalesce

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// grantMany grants leases from 1000 on, all of which may be pinged at once.
func (b *keepaliveBench) grantMany(n int64) {
	b.cfg.Budget.maxPings = 1 << 18
	for i := range n {
		b.cluster.grant(1000+i, 100)
		b.Granted(1000+i, 100, time.Now())
	}
}

// flood has so many leases, from 1000 on, pinged at once by one client.
func (b *keepaliveBench) flood(n int) {
	var c fakeClient
	for i := range int64(n) {
		b.Ping(1000+i, time.Now(), &c, 0)
	}
}

// others has each of the leases 1 to 9 pinged by a client of its own, and returns how long the slowest of them waits.
func (b *keepaliveBench) others() time.Duration {
	b.Helper()
	var clients [9]fakeClient
	begun := time.Now()
	for i := range clients {
		b.Ping(int64(1+i), begun, &clients[i], 0)
	}
	b.until(begun.Sub(b.start) + time.Second)
	var slowest time.Duration
	for i := range clients {
		_, d := clients[i].slowest(begun)
		slowest = max(slowest, d)
		if got, want := fmt.Sprint(clients[i].take()), fmt.Sprintf("[%d: 10]", 1+i); got != want {
			b.Errorf("another client: got %s, want %s", got, want)
		}
	}
	return slowest
}

func TestFloodOfUnknownLeasesDelaysNobodysFirstPing(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.cfg.Budget.maxPings = 1 << 18
		b.cluster.latency = func() time.Duration { return time.Millisecond }
		b.flood(4000)
		synctest.Wait()
		// What is upstream of the flood goes first, and then one for each.
		if d := b.others(); d > (maxUpstream+2*9+2)*time.Millisecond {
			b.Errorf("the first ping of another took %v", d)
		}
	})
}

func TestFloodOfKnownLeasesDelaysNobody(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.grantMany(4000)
		b.others()
		b.cluster.latency = func() time.Duration { return time.Millisecond }
		b.flood(4000)
		synctest.Wait()
		if d := b.others(); d > (maxUpstream+2*9+2)*time.Millisecond {
			b.Errorf("the ping of another took %v", d)
		}
	})
}

func TestFloodOfOneLeaseDelaysNobody(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.cluster.grant(10, 100)
		b.cluster.latency = func() time.Duration { return time.Millisecond }
		var c fakeClient
		for range 900 {
			b.Ping(10, time.Now(), &c, 0)
		}
		if d := b.others(); d > 20*time.Millisecond {
			b.Errorf("the ping of another took %v", d)
		}
		if s := b.Stats(); s.Sent > 2+9 {
			b.Errorf("sent %d pings", s.Sent)
		}
	})
}

// A flood of leases that have expired holds up the doubtful stream, and all that is not known is looked up.
func TestFloodOfExpiredLeasesDelaysNobodyForLong(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.cfg.Budget.maxPings = 1 << 18
		b.cluster.latency = func() time.Duration { return 2 * time.Millisecond }
		b.cluster.change(func() {
			for i := range int64(4000) {
				b.cluster.leases[1000+i] = &fakeLease{ttl: 10}
			}
		})
		b.flood(4000)
		if d := b.others(); d > 2*silence+50*time.Millisecond {
			b.Errorf("the first ping of another took %v", d)
		}
	})
}

// As many clients as want ping leases that have expired, of which one is revoked now and then, so that a pong comes.
func TestExpiredLeasesOfManyClientsDelayNobodyForLong(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		const clients = 1000
		b.cfg.Budget.maxPings = 1 << 18
		b.cluster.latency = func() time.Duration { return time.Millisecond }
		b.cluster.change(func() {
			for i := range int64(4 * clients) {
				b.cluster.leases[1000+i] = &fakeLease{ttl: 10}
			}
		})
		var flood [clients]fakeClient
		for i := range int64(4 * clients) {
			b.Ping(1000+i, time.Now(), &flood[i%clients], 0)
		}
		for at := range 6 {
			b.until(time.Duration(at) * 50 * time.Millisecond)
			b.cluster.revoke(1000 + int64(at))
		}
		b.until(300 * time.Millisecond)
		if d := b.others(); d > 2*silence {
			b.Errorf("the first ping of another took %v", d)
		}
	})
}

func TestGrantedLeaseIsNotTakenForOneThatMayHaveExpired(t *testing.T) {
	onCluster(t, true, func(b *keepaliveBench) {
		b.Granted(3, 10, b.start)
		b.cluster.expireTwo()
		b.ping(2, 3, 4) // the stream of 4 is held up by 2
		b.expect("at once", "3: 10")
		b.until(10 * time.Second)
		b.Granted(5, 10, b.start.Add(-time.Second)) // and a tenth is for the clocks
		b.cluster.grant(5, 10)
		b.client.take()
		b.ping(2, 5)
		b.expect("a lease whose time may be over")
	})
}

// One client has a thousand streams, as many as it has pings.
func TestFloodOnManyStreamsOfOneClientDelaysNobody(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		const pings = 4000
		b.grantMany(pings)
		b.others()
		b.cluster.latency = func() time.Duration { return time.Millisecond }
		streams := make([]fakeClient, pings)
		for i := range streams {
			streams[i].of = "flood"
			b.Ping(1000+int64(i), time.Now(), &streams[i], 0)
		}
		synctest.Wait()
		if d := b.others(); d > (maxUpstream+2*9+2)*time.Millisecond {
			b.Errorf("the ping of another took %v", d)
		}
	})
}

// Many are taken for one client, because they come from one address.
func TestFloodOfOneStreamDelaysNoOtherStreamOfItsClient(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		const pings = 4000
		b.grantMany(pings)
		b.cluster.latency = func() time.Duration { return time.Millisecond }
		flood, quiet := fakeClient{of: "address"}, fakeClient{of: "address"}
		for i := range int64(pings - 1) {
			b.Ping(1000+i, time.Now(), &flood, 0)
		}
		synctest.Wait()
		begun := time.Now()
		b.Ping(1000+pings-1, begun, &quiet, 0)
		b.until(begun.Sub(b.start) + time.Second)
		if n, d := quiet.slowest(begun); n != 1 || d > (maxUpstream+2)*time.Millisecond {
			b.Errorf("%d answers, after %v", n, d)
		}
	})
}

// Those of one stream take all the places that one may have, until they are revoked, and a pong comes now and then.
func TestExpiredLeasesOfOneStreamHoldUpNoOtherStreamOfItsClient(t *testing.T) {
	onCluster(t, false, func(b *keepaliveBench) {
		b.cfg.Budget.maxPings = 1 << 18
		b.cluster.change(func() {
			for i := range int64(maxUpstream) {
				b.cluster.leases[1000+i] = &fakeLease{ttl: 10}
			}
		})
		flood, quiet := fakeClient{of: "address"}, fakeClient{of: "address"}
		for i := range int64(maxUpstream) {
			b.Ping(1000+i, time.Now(), &flood, 0)
		}
		var begun time.Time
		for at := range 8 {
			b.until(time.Duration(at) * 100 * time.Millisecond)
			b.ping(int64(2 + at)) // another client's, which is not known
			if at == 0 {
				begun = time.Now()
				b.Ping(1, begun, &quiet, 0)
			}
		}
		if n, d := quiet.slowest(begun); n != 1 || d > silence {
			b.Errorf("%d answers, after %v: %s", n, d, quiet.take())
		}
	})
}

// A client cannot take the places of others by having more streams.
func TestExpiredLeasesOnManyStreamsOfOneClientHoldUpNoOtherClient(t *testing.T) {
	onCluster(t, false, func(b *keepaliveBench) {
		const leases = 1000
		b.cfg.Budget.maxPings = 1 << 18
		b.cluster.latency = func() time.Duration { return time.Millisecond }
		b.cluster.change(func() {
			for i := range int64(leases) {
				b.cluster.leases[1000+i] = &fakeLease{ttl: 10}
			}
		})
		var flood [8]fakeClient
		for i := range int64(leases) {
			c := &flood[i%int64(len(flood))]
			c.of = "flood"
			b.Ping(1000+i, time.Now(), c, 0)
		}
		synctest.Wait()
		if d := b.others(); d > 10*time.Millisecond {
			b.Errorf("the first ping of another took %v", d)
		}
	})
}

// Two streams have all that is their client's. A third one pings a lease that lives.
func TestExpiredLeasesOfSomeStreamsHoldUpNoOtherStreamOfTheirClientForLong(t *testing.T) {
	onCluster(t, false, func(b *keepaliveBench) {
		b.cfg.Budget.maxPings = 1 << 18
		b.cluster.change(func() {
			for i := range int64(2 * maxUpstream) {
				b.cluster.leases[1000+i] = &fakeLease{ttl: 10}
			}
		})
		flood, quiet := [2]fakeClient{{of: "address"}, {of: "address"}}, fakeClient{of: "address"}
		for i := range int64(2 * maxUpstream) {
			b.Ping(1000+i, time.Now(), &flood[i%2], 0)
		}
		synctest.Wait()
		begun := time.Now()
		b.Ping(1, begun, &quiet, 0)
		for at := range 8 {
			b.until(time.Duration(at) * 100 * time.Millisecond)
			b.ping(int64(2 + at)) // another client's, which is not known, so that a pong comes
		}
		if n, d := quiet.slowest(begun); n != 1 || d > silence {
			b.Errorf("%d answers, after %v: %s", n, d, quiet.take())
		}
	})
}

// After a start nothing is known of any lease. All clients are one: one user, or one address. Some leases have expired meanwhile.
func TestAllPlacesAreOneClientsIfNobodyElseWantsThem(t *testing.T) {
	const latency = 9 * time.Millisecond
	const pings = int64(PingLife/latency) * maxUpstream * 7 / 10
	for name, c := range map[string]struct {
		expired int64
		streams int64
	}{
		"many streams":                        {0, pings},
		"one stream":                          {0, 1},
		"many streams, of expired leases too": {maxUpstream / 4, pings},
	} {
		t.Run(name, func(t *testing.T) {
			onCluster(t, false, func(b *keepaliveBench) {
				b.cfg.Budget = NewKeepaliveBudget(1<<18, 1<<18)
				b.cluster.latency = func() time.Duration { return latency }
				streams := make([]fakeClient, c.streams)
				for i := range pings {
					b.cluster.leases[1000+i] = &fakeLease{10, time.Now().Add(10 * time.Second)}
					if i < c.expired {
						b.cluster.leases[1000+i] = &fakeLease{ttl: 10}
					}
				}
				for i := range pings {
					s := &streams[i%c.streams]
					s.of = "address"
					b.Ping(1000+i, time.Now(), s, 0)
				}
				b.until(PingLife + latency)
				if n := b.Stats().Failed; n > uint64(c.expired) {
					b.Errorf("%d of %d pings have failed", n, pings)
				}
			})
		})
	}
}

func TestLookupsForManyStreamsOfOneClientLeaveRoomToOthers(t *testing.T) {
	onCluster(t, true, func(b *keepaliveBench) {
		b.cluster.expireTwo()
		b.ping(2)
		b.until(silence) // from now on all that is not known is looked up
		b.cluster.silence(true)
		var flood [8]fakeClient
		for i := range int64(1000) {
			c := &flood[i%int64(len(flood))]
			c.of = "flood"
			b.Ping(1000+i, time.Now(), c, 0)
		}
		synctest.Wait()
		b.mu.Lock()
		all := b.lookups.queue.out
		b.mu.Unlock()
		if all != maxLookups {
			b.Errorf("%d look-ups at a time, and nobody else wants the other places", all)
		}
		before := b.Stats().Lookups
		var others [maxLookups - maxLookupsOfClient - 1]fakeClient // but for that of 2
		for i := range others {
			b.Ping(int64(3+i), time.Now(), &others[i], 0)
		}
		synctest.Wait()
		if n := b.Stats().Lookups - before; n != uint64(len(others)) {
			b.Errorf("%d leases of others are looked up at once", n)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if n := b.lookups.queue.out; n >= 2*maxLookups {
			b.Errorf("%d look-ups at a time", n)
		}
	})
}

// All streams of a client together have what the budget leaves to one.
func TestBudgetOfPingsIsThatOfAClientOnAllItsStreams(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.cluster.silence(true)
		streams, refused := make([]fakeClient, 2*b.cfg.Budget.maxPings), 0
		for i := range streams {
			streams[i].of = "many"
			b.Ping(int64(i), time.Now(), &streams[i], 0)
			refused += len(streams[i].take())
		}
		if got, want := len(streams)-refused, int(b.cfg.Budget.maxPings/2); got < want || got > want+1 {
			b.Errorf("%d pings were admitted, want %d", got, want)
		}
	})
}
