package core

import (
	"errors"
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/grpcapi/wire"
)

func passed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestReadJoinsOnlyACheckNotYetSent(t *testing.T) {
	g := newReadGate(0)
	early := g.join()
	ctx := g.take()
	late := g.join()
	g.confirm(ctx, 0)
	if !passed(early) {
		t.Fatal("the read that the check was sent for still waits")
	}
	if passed(late) {
		t.Fatal("a read passed on a check that was sent before it came")
	}
	g.confirm(g.take(), 0)
	if !passed(late) {
		t.Fatal("the later read still waits")
	}
}

func TestReadWaitsUntilTheStoreHasReachedTheIndex(t *testing.T) {
	g := newReadGate(4)
	c := g.join()
	g.confirm(g.take(), 7)
	for index := uint64(5); index < 7; index++ {
		if g.reached(index); passed(c) {
			t.Fatalf("passed at index %d, the check said 7", index)
		}
	}
	if g.reached(7); !passed(c) {
		t.Fatal("still waits at index 7")
	}
}

func TestCheckWithoutAnAnswerIsSentAgain(t *testing.T) {
	g := newReadGate(0)
	c := g.join()
	ctx := g.take()
	for range retryTicks - 1 {
		if again := g.tick(); again != nil {
			t.Fatal("sent again too early")
		}
	}
	again := g.tick()
	if len(again) != 1 || string(again[0]) != string(ctx) {
		t.Fatalf("sent again: %v", again)
	}
	g.confirm(again[0], 0)
	g.confirm(ctx, 0) // both answers arrive
	if !passed(c) {
		t.Fatal("still waits")
	}
}

func TestOnlyAMemberThatHasBeenAloneInItsWholeTenureReadsWithoutACheck(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")}) // so that the tenure has begun
	checks := func() uint64 {
		n.reads.mu.Lock()
		defer n.reads.mu.Unlock()
		return n.reads.lastID
	}
	wantCheck := func(when string, want bool) {
		t.Helper()
		before := checks()
		if err := n.linearizableKeys(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := checks() > before; got != want {
			t.Errorf("%s: a read asks raft: %v", when, got)
		}
	}
	wantCheck("alone", false)
	added := mustAddLearner(t, n, "http://a:1").Member
	wantCheck("with another member", true)
	if _, err := n.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: added.ID}); err != nil {
		t.Fatal(err)
	}
	wantCheck("left alone", true)
	closeNode(t, n)
	n = openNode(t, dir)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	wantCheck("in the next tenure", false)
	closeNode(t, n)
}

// TestWhatIsSeenOfLeasesAndKeysIsSeenOfBoth: a transaction puts many keys under a lease, and a revocation takes them away, while somebody
// looks at one of the two, and as soon as that shows it, at the other.
func TestWhatIsSeenOfLeasesAndKeysIsSeenOfBoth(t *testing.T) {
	n := openNode(t, t.TempDir())
	defer closeNode(t, n)
	const keys = 10_000
	txn := &pb.TxnRequest{}
	for i := range keys {
		txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: fmt.Appendf(nil, "k%06d", i), Lease: 7}}})
	}
	first := &wire.RangeRequest{Key: []byte("k000000"), CountOnly: true}
	lease := &pb.LeaseTimeToLiveRequest{ID: 7, Keys: true}
	for range 5 {
		mustGrant(t, n, 7, 1000)
		put := make(chan error, 1)
		go func() {
			_, err := n.Txn(t.Context(), txn, mustMarshal(t, txn))
			put <- err
		}()
		for {
			s, err := n.LeaseTimeToLive(t.Context(), lease)
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Keys) > 0 {
				break
			}
		}
		if mustRange(t, n, first).Count == 0 {
			t.Error("the lease has keys that are not there")
		}
		if err := <-put; err != nil {
			t.Fatal(err)
		}
		revoked := make(chan error, 1)
		go func() {
			_, err := n.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 7})
			revoked <- err
		}()
		for mustRange(t, n, first).Count > 0 {
		}
		if _, err := n.LeaseTimeToLive(t.Context(), lease); !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
			t.Errorf("the keys of the lease are gone, and the lease is there: %v", err)
		}
		if err := <-revoked; err != nil {
			t.Fatal(err)
		}
	}
}
