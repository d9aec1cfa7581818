package coalesce

import (
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestLeaseTableIsBounded(t *testing.T) {
	table := leaseTable{budget: NewKeepaliveBudget(0, 200)}
	for id := range int64(1000) {
		table.renewed(id, 10, time.Second, 0)
		table.renewed(5, 10, instant(id), 0) // never forgotten
		if n := table.n(); n > 200 || table.budget.leases.Load() != int64(n) {
			t.Fatalf("%d leases, %d in use", n, table.budget.leases.Load())
		}
	}
	if table.alive(5) != 999+9*time.Second || table.alive(999) != 10*time.Second || table.alive(700) != 0 {
		t.Errorf("got %v, %v, %v", table.alive(5), table.alive(999), table.alive(700))
	}
	table.gone(5)
	table.renewed(6, 1<<62, time.Second, 0)
	if table.alive(5) != 0 || table.alive(6) < 1000*time.Hour {
		t.Errorf("got %v, %v", table.alive(5), table.alive(6))
	}
	table.clear()
	if n := table.budget.leases.Load(); n != 0 {
		t.Errorf("%d leases in use when all are forgotten", n)
	}
}

func TestLeasesThatAreNotRenewedAreForgotten(t *testing.T) {
	table := leaseTable{budget: NewKeepaliveBudget(0, 1000)}
	for _, id := range []int64{1, 2} {
		table.renewed(id, 3600, 0, 0)
	}
	for now := instant(0); now < 3*leaseMemory; now += time.Minute {
		table.renewed(1, 3600, now, now)
	}
	if table.alive(1) == 0 || table.alive(2) != 0 || table.budget.leases.Load() != 1 {
		t.Errorf("got %v, %v, %d leases in use", table.alive(1), table.alive(2), table.budget.leases.Load())
	}
}

// However many tables share a budget, and whatever they are told, their sum is bounded, and each has a few.
func TestBudgetOfLeasesIsShared(t *testing.T) {
	const most, tables = 1000, 20
	budget := NewKeepaliveBudget(0, most)
	all := make([]leaseTable, tables)
	for i := range all {
		all[i].budget = budget
		for id := range int64(2000) {
			all[i].renewed(id, 10, 0, 0)
		}
	}
	sum := 0
	for i := range all {
		n := all[i].n()
		if sum += n; n < freeLeases {
			t.Errorf("table %d has %d leases", i, n)
		}
	}
	if sum > most+tables*freeLeases || int64(sum) != budget.leases.Load() {
		t.Errorf("%d leases, %d in use", sum, budget.leases.Load())
	}
	for i := range all {
		all[i].clear()
	}
	if n := budget.leases.Load(); n != 0 {
		t.Errorf("%d in use", n)
	}
}

// Whoever pings as much as he may has as many as he leaves to others, here and in all Keepalives of the same budget; and each who
// comes has a few in any case.
func TestBudgetOfPingsIsShared(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		other := NewKeepalives(KeepaliveConfig{Upstream: b.cluster, Budget: b.cfg.Budget})
		defer other.Close()
		b.cluster.silence(true)
		var greedy [9]fakeClient
		for id := range int64(1000) {
			for i := range greedy {
				[]*Keepalives{b.Keepalives, other}[i%2].Ping(id, time.Now(), &greedy[i], 0)
			}
		}
		want := message(rpctypes.ErrGRPCRequestTooManyRequests)
		for i := range greedy {
			refused := greedy[i].take()
			if n := len(refused); n != 900 || refused[0] != "100: "+want {
				b.Errorf("client %d: %d pings were refused", i, n)
			}
		}
		const late = 20
		var few int
		for i := range late {
			var client fakeClient
			for id := range int64(100) {
				[]*Keepalives{b.Keepalives, other}[i%2].Ping(id, time.Now(), &client, 0)
			}
			switch n := 100 - len(client.take()); {
			case i == 0 && n != 50:
				b.Errorf("the first who came when others had what they could had %d", n)
			case n < freePings:
				b.Errorf("one has %d", n)
			case n == freePings:
				few++
			}
		}
		if n := b.cfg.Budget.pings.Load(); few == 0 || n > 1000+late*freePings {
			b.Errorf("%d pings in use, %d have a few", n, few)
		}
		b.until(time.Second)
		if n := b.cfg.Budget.pings.Load(); n != 0 {
			b.Errorf("%d pings in use when all have failed", n)
		}
		b.mu.Lock()
		left := len(b.pingers)
		b.mu.Unlock()
		if left != 0 {
			b.Errorf("%d clients are remembered", left)
		}
		b.cluster.silence(false)
	})
}

// Many who are taken for one client share what the budget leaves to one. Who has all of that leaves the others some.
func TestBudgetOfAClientIsNotTakenByOneOfItsStreams(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.cluster.silence(true)
		flood := fakeClient{of: "address"}
		for i := range b.cfg.Budget.maxPings {
			b.Ping(10+i, time.Now(), &flood, 0)
		}
		if n := len(flood.take()); n < 400 {
			b.Errorf("%d pings were refused", n)
		}
		var others [20]fakeClient
		admitted := 0
		for i := range others {
			others[i].of = "address"
			for id := range int64(10) {
				b.Ping(id, time.Now(), &others[i], 0)
			}
			n := 10 - len(others[i].take())
			if admitted += n; i == 0 && n != freePingsOfSink {
				b.Errorf("another stream had %d pings", n)
			}
		}
		if most := int(freePingsOfSink * b.cfg.Budget.maxPings / freeSinksPart); admitted > most {
			b.Errorf("other streams had %d pings, beside what the budget leaves to one client", admitted)
		}
	})
}

func TestLeasesAreForgottenWhenNobodyPings(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.Granted(77, 3600, b.start)
		b.until(idleStreams - 1)
		if n := b.Stats().Leases; n != 1 {
			b.Errorf("%d leases before", n)
		}
		b.until(2 * idleStreams)
		if n, used := b.Stats().Leases, b.cfg.Budget.leases.Load(); n != 0 || used != 0 {
			b.Errorf("%d leases after, %d in use", n, used)
		}
		b.Granted(77, 3600, time.Now())
		b.Keepalives.Close()
		b.Granted(78, 3600, time.Now())
		if used := b.cfg.Budget.leases.Load(); used != 0 {
			b.Errorf("%d in use after Close", used)
		}
	})
}

// There is no room to remember leases, and the stream of those of which nothing is known was held up a moment ago.
func TestLeaseThatCannotBeRememberedIsLookedUpOnce(t *testing.T) {
	onCluster(t, true, func(b *keepaliveBench) {
		b.cfg.Budget.leases.Add(b.cfg.Budget.maxLeases) // of others
		b.cluster.latency = func() time.Duration { return time.Millisecond }
		for id := range int64(freeLeases) {
			b.Granted(1000+id, 3600, b.start)
		}
		b.cluster.expireTwo()
		b.ping(2)
		b.until(silence + 10*time.Millisecond)
		before := b.Stats().Lookups
		b.ping(3)
		b.until(2 * silence)
		b.expect("a lease that lives", "3: 10")
		if n := b.Stats().Lookups - before; n > 3 { // that of the other one, too
			b.Errorf("%d look-ups", n)
		}
	})
}
