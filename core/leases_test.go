package core

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/grpcapi/wire"
)

// testClock stands still until it is moved.
type testClock struct {
	mu     sync.Mutex // guards all below
	now    time.Time
	timers []testTimer
}

type testTimer struct {
	at time.Time
	c  chan time.Time
}

func newTestClock() *testClock { return &testClock{now: time.Unix(1_000_000, 0)} }

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) At(t time.Time) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	timer := testTimer{t, make(chan time.Time, 1)}
	c.timers = append(c.timers, timer)
	c.fire()
	return timer.c
}

func (c *testClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.fire()
}

func (c *testClock) fire() {
	kept := c.timers[:0]
	for _, t := range c.timers {
		if t.at.After(c.now) {
			kept = append(kept, t)
		} else {
			t.c <- c.now
		}
	}
	c.timers = kept
}

func mustGrant(t *testing.T, n *Node, id, ttl int64) {
	t.Helper()
	if _, err := n.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: id, TTL: ttl}); err != nil {
		t.Fatalf("grant: %v", err)
	}
}

func TestExpiryDeletesTheKeysInOneRevision(t *testing.T) {
	clock := newTestClock()
	n := openNode(t, t.TempDir(), func(c *Config) { c.Clock = clock })
	defer closeNode(t, n)
	mustGrant(t, n, 7, 10)
	var rev int64
	for _, key := range []string{"b", "a", "c"} {
		rev = mustPut(t, n, &pb.PutRequest{Key: []byte(key), Lease: 7}).Header.Revision
	}
	clock.advance(9 * time.Second)
	if got, err := n.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: 7, Keys: true}); err != nil || got.TTL != 1 || len(got.Keys) != 3 {
		t.Fatalf("a second before its end: %v, %v", got, err)
	}
	clock.advance(time.Second)
	// A ping of an expired lease is answered once the lease is revoked.
	if _, err := n.LeaseRenew(t.Context(), 7); !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		t.Fatalf("ping after the end: %v", err)
	}
	got := mustRange(t, n, &wire.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if got.Count != 0 || got.Header.Revision != rev+1 {
		t.Fatalf("%d keys at revision %d, want none at %d", got.Count, got.Header.Revision, rev+1)
	}
}

func TestLeasesSurviveARestartWithTheirKeys(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir)
	mustGrant(t, n, 7, 100)
	mustGrant(t, n, 8, 100)
	mustPut(t, n, &pb.PutRequest{Key: []byte("mine"), Lease: 7})
	mustPut(t, n, &pb.PutRequest{Key: []byte("moved"), Lease: 7})
	mustPut(t, n, &pb.PutRequest{Key: []byte("moved"), Lease: 8})
	mustPut(t, n, &pb.PutRequest{Key: []byte("freed"), Lease: 7})
	mustPut(t, n, &pb.PutRequest{Key: []byte("freed")})
	closeNode(t, n)

	n = openNode(t, dir)
	defer closeNode(t, n)
	for id, want := range map[int64]string{7: "mine", 8: "moved"} {
		got, err := n.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
		if err != nil || got.GrantedTTL != 100 || len(got.Keys) != 1 || string(got.Keys[0]) != want {
			t.Errorf("lease %d: %v, %v", id, got, err)
		}
	}
	if _, err := n.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 7}); err != nil {
		t.Fatal(err)
	}
	if got := mustRange(t, n, &wire.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}); got.Count != 2 {
		t.Fatalf("left after the revocation: %v", got.Kvs)
	}
}

func TestLeaseMistakesHaveEtcdsErrors(t *testing.T) {
	n := openNode(t, t.TempDir())
	defer closeNode(t, n)
	mustGrant(t, n, 7, 100)
	grant := func(id, ttl int64) error {
		_, err := n.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: id, TTL: ttl})
		return err
	}
	if err := grant(7, 5); !errors.Is(err, rpctypes.ErrGRPCLeaseExist) {
		t.Errorf("id taken: %v", err)
	}
	if err := grant(9, 9_000_000_001); !errors.Is(err, rpctypes.ErrGRPCLeaseTTLTooLarge) {
		t.Errorf("huge TTL: %v", err)
	}
	if _, err := n.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 9}); !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		t.Errorf("revoke of an unknown lease: %v", err)
	}
	if _, err := n.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: 9}); !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		t.Errorf("time to live of an unknown lease: %v", err)
	}
}

// Pings of a batch that must wait, or may not be, are told apart from those that are done, and LeaseRenew tells why.
func TestPingsOfABatch(t *testing.T) {
	clock := newTestClock()
	u := openUsers(t, func(c *Config) { c.Clock = clock })
	n, root, alice, bob := u.n, u.as("root"), u.as("alice"), u.as("bob")
	grant := func(id, ttl int64) {
		_, err := n.LeaseGrant(root, &pb.LeaseGrantRequest{ID: id, TTL: ttl})
		u.must(err)
	}
	grant(1, 100)
	grant(2, 50)
	u.must(u.put(root, &pb.PutRequest{Key: []byte("/a/1"), Lease: 1}))
	for _, c := range []struct {
		name       string
		ctx        context.Context
		ids, want  []int64
		reasonOf   int64
		reasonText error
	}{
		{"root", root, []int64{1, 2, 3}, []int64{100, 50, 0}, 3, rpctypes.ErrGRPCLeaseNotFound},
		{"who may write the keys", alice, []int64{1, 2}, []int64{100, 50}, 0, nil},
		{"who may not", bob, []int64{2, 1}, []int64{0, 0}, 1, rpctypes.ErrGRPCPermissionDenied},
		{"who may, of those without", bob, []int64{2}, []int64{50}, 0, nil},
		{"nobody", t.Context(), []int64{2}, []int64{0}, 2, rpctypes.ErrGRPCUserEmpty},
		{"a stranger", withToken(t.Context(), "forged"), []int64{2}, []int64{0}, 2, rpctypes.ErrGRPCInvalidAuthToken},
	} {
		ttls := slices.Repeat([]int64{-1}, len(c.ids))
		n.LeaseRenewNow(c.ctx, c.ids, ttls)
		if !slices.Equal(ttls, c.want) {
			t.Errorf("%s: TTLs of %d are %d, want %d", c.name, c.ids, ttls, c.want)
		}
		if c.reasonOf == 0 {
			continue
		}
		if _, err := n.LeaseRenew(c.ctx, c.reasonOf); !errors.Is(err, c.reasonText) {
			t.Errorf("%s: lease %d: %v, want %v", c.name, c.reasonOf, err, c.reasonText)
		}
	}
	clock.advance(99 * time.Second) // 2 has expired, and is revoked by and by
	ttls := []int64{-1, -1}
	n.LeaseRenewNow(root, []int64{1, 2}, ttls)
	if !slices.Equal(ttls, []int64{100, 0}) {
		t.Errorf("at the end: TTLs are %d", ttls)
	}
}
