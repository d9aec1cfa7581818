package core

import (
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/core/auth"
	"weir/core/lease"
	"weir/core/mvcc"
)

// storedLease is what the store has of a lease.
func storedLease(t *testing.T, n *Node, id int64) (record lease.Record) {
	t.Helper()
	err := n.store.ForEach(mvcc.BucketLease, func(_, v []byte) error {
		r, err := lease.ParseRecord(v)
		if r.ID == id {
			record = r
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return record
}

// storedRemaining is what the store has as the checkpoint of a lease.
func storedRemaining(t *testing.T, n *Node, id int64) int64 {
	t.Helper()
	return storedLease(t, n, id).RemainingTTL
}

func TestWhatIsLeftOfALeaseOutlivesARestartAndAPingGivesItBack(t *testing.T) {
	dir, clock := t.TempDir(), newTestClock()
	withClock := func(c *Config) { c.Clock = clock }
	n := openNode(t, dir, withClock)
	mustGrant(t, n, 7, 1000)
	clock.advance(300 * time.Second)
	stored := int64(0)
	for stored == 0 {
		stored = storedRemaining(t, n, 7) // which waits for a commit
	}
	if stored != 700 {
		t.Errorf("a checkpoint of %d s", stored)
	}
	closeNode(t, n)

	n = openNode(t, dir, withClock)
	wantLeft(t, n, 7, 700)
	if ttl, err := n.LeaseRenew(t.Context(), 7); err != nil || ttl != 1000 {
		t.Errorf("ping: %d, %v", ttl, err)
	}
	if got := storedRemaining(t, n, 7); got != 0 {
		t.Errorf("the ping was answered while a checkpoint of %d s was stored", got)
	}
	closeNode(t, n)

	n = openNode(t, dir, withClock)
	defer closeNode(t, n)
	wantLeft(t, n, 7, 1000)
}

// wantLeft checks what is left of a lease after a start, which may add the time of an election.
func wantLeft(t *testing.T, n *Node, id, seconds int64) {
	t.Helper()
	s, err := n.leases.TimeToLive(id, false)
	if most := seconds + int64(n.cfg.ElectionTimeout/time.Second); err != nil || s.Remaining < seconds || s.Remaining > most {
		t.Errorf("%d s are left, want %d to %d; %v", s.Remaining, seconds, most, err)
	}
}

// A lease is revoked and granted again, with the same id, while a checkpoint of it is on its way. On every member the new one keeps
// its TTL, also where it was not known which grant was meant but from the store.
func TestACheckpointIsNotOfALeaseThatHasGotTheIDSince(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir)
	mustGrant(t, n, 7, 1000)
	first := storedLease(t, n, 7).Granted
	if _, err := n.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 7}); err != nil {
		t.Fatal(err)
	}
	mustGrant(t, n, 7, 1000)
	late := leaseCheckpoints{{ID: 7, Remaining: 100, Granted: first}}
	apply := func(n *Node, m leaseCheckpoints) int64 {
		t.Helper()
		if _, err := n.propose(t.Context(), kindLeaseCheckpoint, auth.Identity{}, m.encode(), m); err != nil {
			t.Fatal(err)
		}
		return storedRemaining(t, n, 7)
	}
	if got := apply(n, late); got != 0 {
		t.Errorf("the new lease has a checkpoint of %d s", got)
	}
	closeNode(t, n)
	n = openNode(t, dir)
	defer closeNode(t, n)
	if got := apply(n, late); got != 0 {
		t.Errorf("after a restart the new lease has a checkpoint of %d s", got)
	}
	if got := apply(n, leaseCheckpoints{{ID: 7, Remaining: 200, Granted: storedLease(t, n, 7).Granted}}); got != 200 {
		t.Errorf("its own checkpoint of 200 s is stored as %d s", got)
	}
}

func TestCheckpointsThatAreCutOffAreRefused(t *testing.T) {
	whole := leaseCheckpoints{{ID: -1, Remaining: 300, Granted: 1 << 40}, {ID: 1}}
	encoded := whole.encode()
	if got, err := parseCheckpoints(encoded); err != nil || !slices.Equal(got, whole) {
		t.Errorf("got %v, %v", got, err)
	}
	for n := 1; n < len(encoded); n++ {
		if got, err := parseCheckpoints(encoded[:n]); err == nil && len(got) != 1 {
			t.Errorf("of %d bytes of %d: %v", n, len(encoded), got)
		}
	}
}
