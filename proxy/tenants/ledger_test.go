package tenants

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

var ann, bob = &caller{token: "good-ann"}, &caller{token: "good-bob"} // of twoTenants

// leaseUses are all ways to use a lease.
func leaseUses(id int64) map[string]proto.Message {
	put := &pb.PutRequest{Key: []byte("k"), Lease: id}
	op := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}}
	in := &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Failure: []*pb.RequestOp{op}}}}
	return map[string]proto.Message{
		pb.Lease_LeaseRevoke_FullMethodName:     &pb.LeaseRevokeRequest{ID: id},
		pb.Lease_LeaseTimeToLive_FullMethodName: &pb.LeaseTimeToLiveRequest{ID: id},
		pb.KV_Put_FullMethodName:                put,
		pb.KV_Txn_FullMethodName:                &pb.TxnRequest{Success: []*pb.RequestOp{in}},
		lockpb.Lock_Lock_FullMethodName:         &lockpb.LockRequest{Name: []byte("l"), Lease: id},
		lockpb.Election_Campaign_FullMethodName: &lockpb.CampaignRequest{Name: []byte("l"), Lease: id},
		lockpb.Election_Proclaim_FullMethodName: &lockpb.ProclaimRequest{Leader: &lockpb.LeaderKey{Key: []byte("l/1"), Lease: id}},
		lockpb.Election_Resign_FullMethodName:   &lockpb.ResignRequest{Leader: &lockpb.LeaderKey{Key: []byte("l/1"), Lease: id}},
		pb.Lease_LeaseKeepAlive_FullMethodName:  &pb.LeaseKeepAliveRequest{ID: id},
	}
}

// use has a client use a lease, by a message if the method is a stream.
func use(t *testing.T, table *Table, c *caller, method string, m proto.Message) error {
	t.Helper()
	if method != pb.Lease_LeaseKeepAlive_FullMethodName {
		return call(t, table, c, method, m)
	}
	v, err := table.Enter(c.ctx(t.Context()), method, nil)
	if err != nil {
		return err
	}
	defer v.Leave(nil, nil)
	return v.Message(marshal(t, m))
}

func TestLeaseIsForWhomItsKeysBelongTo(t *testing.T) {
	s := newStore(t)
	for id, keys := range map[int64][]string{
		1: {"/a/x", "/a/y"}, 2: {"/b/x"}, 3: {"/a/x", "/b/x"}, 4: {"elsewhere"}, 5: {"/a"},
	} {
		s.leases[id] = keys
	}
	for method := range leaseUses(0) {
		table := newTable(t, twoTenants, Config{Upstream: s})
		for id, owner := range map[int64]*caller{1: ann, 2: bob, 3: nil, 4: nil, 5: nil} {
			for range 2 {
				for _, c := range []*caller{ann, bob} {
					err := use(t, table, c, method, leaseUses(id)[method])
					want := rpctypes.ErrGRPCPermissionDenied
					if c == owner {
						want = nil
					}
					if err != want {
						t.Errorf("%s of lease %d by %s: %v, want %v", method, id, c.token, err, want)
					}
				}
			}
		}
		for _, c := range []*caller{ann, bob} { // one that does not exist is for upstream to refuse
			if err := use(t, table, c, method, leaseUses(99)[method]); err != nil {
				t.Errorf("%s of no lease: %v", method, err)
			}
		}
	}
}

func TestLeaseWithoutKeysIsWhoseItWasGrantedTo(t *testing.T) {
	s := newStore(t)
	s.leases[7], s.leases[8], s.leases[9] = nil, nil, nil
	for method, m := range leaseUses(7) {
		table := newTable(t, twoTenants+"- {name: free, users: [free]}\n", Config{Upstream: s})
		grant := func(c *caller, id int64) {
			v, err := table.Enter(c.ctx(t.Context()), pb.Lease_LeaseGrant_FullMethodName, nil)
			if err != nil {
				t.Fatal(err)
			}
			v.Leave(marshal(t, &pb.LeaseGrantResponse{ID: id}), nil)
		}
		grant(ann, 7)
		if err := use(t, table, bob, method, m); err != rpctypes.ErrGRPCPermissionDenied {
			t.Errorf("%s of ann's lease by bob: %v", method, err)
		}
		if err := use(t, table, ann, method, m); err != nil {
			t.Errorf("%s of ann's lease by ann: %v", method, err)
		}
		grant(&caller{token: "good-free"}, 8)
		if err := use(t, table, ann, method, leaseUses(8)[method]); err != rpctypes.ErrGRPCPermissionDenied {
			t.Errorf("%s by ann of a lease of who has no namespace: %v", method, err)
		}
		// Nobody here knows who has granted this one.
		if err := use(t, table, bob, method, leaseUses(9)[method]); err != nil {
			t.Errorf("%s of a lease of nobody: %v", method, err)
		}
		if err := use(t, table, ann, method, leaseUses(9)[method]); err != rpctypes.ErrGRPCPermissionDenied {
			t.Errorf("%s by ann of a lease that bob has used: %v", method, err)
		}
	}
}

func TestLeaseIsLookedUpOnceAMinuteAndBeforeItIsRevoked(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newStore(t)
		s.leases[1] = []string{"/a/x"}
		table := newTable(t, twoTenants, Config{Upstream: s})
		defer s.hub.Close()
		defer table.Close()
		ping := leaseUses(1)[pb.Lease_LeaseKeepAlive_FullMethodName]
		for range 120 {
			if err := use(t, table, ann, pb.Lease_LeaseKeepAlive_FullMethodName, ping); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if s.lookUps != 2 {
			t.Errorf("looked up %d times in 120 s, want 2", s.lookUps)
		}
		s.leases[1] = []string{"/a/x", "/b/x"}
		if err := use(t, table, ann, pb.Lease_LeaseRevoke_FullMethodName, leaseUses(1)[pb.Lease_LeaseRevoke_FullMethodName]); err != rpctypes.ErrGRPCPermissionDenied {
			t.Errorf("a lease that has got a key of somebody else was revoked: %v", err)
		}
		// It has ended, and the number was granted again elsewhere.
		time.Sleep(2 * time.Minute)
		s.leases[1] = []string{"/b/x"}
		if err := use(t, table, bob, pb.Lease_LeaseKeepAlive_FullMethodName, ping); err != nil {
			t.Errorf("its new owner: %v", err)
		}
		if err := use(t, table, ann, pb.Lease_LeaseKeepAlive_FullMethodName, ping); err != rpctypes.ErrGRPCPermissionDenied {
			t.Errorf("its former owner: %v", err)
		}
	})
}

func TestLeaseThatCannotBeLookedUpIsRefused(t *testing.T) {
	s := newStore(t)
	s.leases[1], s.down = []string{"/a/x"}, true
	table := newTable(t, twoTenants, Config{Upstream: s})
	for method, m := range leaseUses(1) {
		if err := use(t, table, ann, method, m); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", method, err)
		}
	}
	if err := use(t, table, ann, pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte("k")}); err != nil {
		t.Errorf("a put without a lease: %v", err)
	}
}

func TestNamespaceInsideAnotherIsPartOfIt(t *testing.T) {
	s := newStore(t)
	s.leases[1] = []string{"/a/b/x"}
	l := newLedger(s, 10, 100)
	for _, namespace := range []string{"/a/", "/a/b/", "/a/", "/a/b/"} {
		if err := l.check(t.Context(), namespace, 1, 0, revoked); err != nil {
			t.Errorf("%s: %v", namespace, err)
		}
	}
	if err := l.check(t.Context(), "/a/b/c/", 1, 0, revoked); !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
		t.Errorf("got %v", err)
	}
}

func TestLedgerIsBounded(t *testing.T) {
	s := newStore(t)
	l := newLedger(s, 10, 100)
	for i := range int64(1000) {
		l.granted(fmt.Sprint(i), i)
	}
	if n := len(l.claims); n != 10 {
		t.Errorf("it has %d claims, want 10", n)
	}
	for id := range l.claims { // they are gone upstream
		if err := l.check(t.Context(), fmt.Sprint(id), id, 0, revoked); err != nil {
			t.Error(err)
		}
	}
	if n := len(l.claims); n != 0 {
		t.Errorf("it has %d claims of leases that are gone", n)
	}
}

func TestLeaseThatIsGoneIsNotLookedUpForEachPing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newStore(t)
		l := newLedger(s, 10, 100)
		check := func(use leaseUse, lookUps int) {
			t.Helper()
			if err := l.check(t.Context(), "/a/", 1, 0, use); err != nil || s.lookUps != lookUps {
				t.Errorf("%d lookups, want %d; error %v", s.lookUps, lookUps, err)
			}
		}
		for range 10 {
			check(pinged, 1)
		}
		check(revoked, 2)
		check(used, 3)
		time.Sleep(goneAge)
		check(pinged, 4)
		s.leases[1] = []string{"/b/x"}
		l.granted("/b/", 1)
		if err := l.check(t.Context(), "/a/", 1, 0, pinged); !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
			t.Errorf("another's, granted since it was gone: %v", err)
		}
	})
}

// heldUpstream answers lookups only when it is told to.
type heldUpstream struct {
	Upstream
	open    chan struct{} // closed: it answers
	waiting atomic.Int64
}

func (u *heldUpstream) Call(ctx context.Context, method string, req []byte) (wire.Raw, error) {
	u.waiting.Add(1)
	select {
	case <-u.open:
		return u.Upstream.Call(ctx, method, req)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestLookupsOfLeasesAreBoundedForEachNamespace(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		u := &heldUpstream{Upstream: newStore(t), open: make(chan struct{})}
		l := newLedger(u, 10, 100)
		var all sync.WaitGroup
		ask := func(namespace string, id int64) {
			all.Go(func() {
				if err := l.check(t.Context(), namespace, id, 0, used); err != nil {
					t.Error(err)
				}
			})
		}
		for i := range int64(3 * maxLookupsOfOne) {
			ask("/a/", i)
		}
		synctest.Wait()
		if n := u.waiting.Load(); n != maxLookupsOfOne {
			t.Errorf("%d lookups of one namespace are upstream", n)
		}
		for i := range int64(3 * maxLookups) {
			ask(fmt.Sprintf("/%d/", i), 1000+i)
		}
		synctest.Wait()
		if n := u.waiting.Load(); n != maxLookups {
			t.Errorf("%d lookups are upstream", n)
		}
		close(u.open)
		all.Wait()
	})
}
