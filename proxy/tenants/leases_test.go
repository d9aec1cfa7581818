package tenants

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"weir/internal/bubble"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// putsOn is a transaction of so many puts in each branch, and as many in one inside, with the lease that each is to have.
func putsOn(n int, lease func(i int) int64) *pb.TxnRequest {
	puts := func(from int) (ops []*pb.RequestOp) {
		for i := range n {
			put := &pb.PutRequest{Key: []byte("k"), Lease: lease(from + i)}
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		}
		return ops
	}
	in := &pb.TxnRequest{Success: puts(2 * n)}
	return &pb.TxnRequest{
		Success: append(puts(0), &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: in}}),
		Failure: puts(n),
	}
}

func TestLeasesOfOneTransactionAreFew(t *testing.T) {
	s := newStore(t)
	table := newTable(t, accessFile, Config{Upstream: s})
	confined, free := &caller{token: "good-confined"}, &caller{token: "good-free"}
	const puts = (maxLeases + 1) / 3
	for _, c := range []struct {
		what    string
		txn     *pb.TxnRequest
		lookUps int
		err     error
	}{
		{"one lease, which is gone", putsOn(1000, func(int) int64 { return 7 }), 1, nil},
		{"as many as there may be", putsOn(puts, func(i int) int64 { return int64(1 + i%maxLeases) }), maxLeases, nil},
		{"too many", putsOn(puts, func(i int) int64 { return int64(100_000 + i) }), 0, rpctypes.ErrGRPCTooManyOps},
		{"far too many", putsOn(3000, func(i int) int64 { return int64(100_000 + i) }), 0, rpctypes.ErrGRPCTooManyOps},
	} {
		before := s.lookUps
		if err := call(t, table, confined, pb.KV_Txn_FullMethodName, c.txn); !errors.Is(err, c.err) || s.lookUps-before != c.lookUps {
			t.Errorf("%s: %d lookups, want %d; error %v, want %v", c.what, s.lookUps-before, c.lookUps, err, c.err)
		}
		if err := call(t, table, free, pb.KV_Txn_FullMethodName, c.txn); err != nil {
			t.Errorf("%s, by who may use every lease: %v", c.what, err)
		}
	}
	d, err := read(pb.KV_Txn_FullMethodName, marshal(t, putsOn(3000, func(i int) int64 { return int64(1 + i) })))
	if err != nil || len(d.leases) != maxLeases+1 {
		t.Errorf("%d leases are kept of a transaction, error %v", len(d.leases), err)
	}
}

// What is kept of a transaction of tiny puts while its leases are looked up is several times as large as the transaction.
func TestTransactionsThatWaitForTheirLeasesAreBoundedWithWhatTheyAskFor(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newStore(t)
		u := &heldUpstream{Upstream: s, open: make(chan struct{})}
		table := newTable(t, twoTenants, Config{Upstream: u})
		defer s.hub.Close()
		defer table.Close()
		const transactions, puts = 200, 5000
		txn := putsOn(puts/4, func(int) int64 { return 7 })
		done := make(chan error, transactions)
		for range transactions {
			go func() { done <- call(t, table, bob, pb.KV_Txn_FullMethodName, txn) }()
		}
		synctest.Wait()
		waiting := transactions - len(done) - maxLookupsOfOne
		most := maxLookupBytes / 2 / (len(marshal(t, txn)) + puts*int(unsafe.Sizeof(put{})))
		if waiting < most/2 || waiting > most {
			t.Errorf("%d transactions wait, which is memory for %d", waiting, most)
		}
		close(u.open)
		for range transactions {
			if err := <-done; err != nil && status.Code(err) != codes.Unavailable {
				t.Error(err)
			}
		}
	})
}

// Bob has used the number while there was no such lease. Then ann is granted it by another proxy, and puts a key on it.
func TestLeaseThatWasGoneIsNotToBeUsedByWhoMayNot(t *testing.T) {
	for method := range leaseUses(0) {
		for _, first := range []string{pb.KV_Put_FullMethodName, pb.Lease_LeaseKeepAlive_FullMethodName} {
			s := newStore(t)
			table := newTable(t, twoTenants, Config{Upstream: s})
			if err := use(t, table, bob, first, leaseUses(7)[first]); err != nil {
				t.Fatal(err) // upstream refuses it: there is no such lease
			}
			s.leases[7] = []string{"/a/x"}
			err := use(t, table, bob, method, leaseUses(7)[method])
			if method == pb.Lease_LeaseKeepAlive_FullMethodName {
				if err != nil {
					t.Errorf("a ping of a lease that was gone a moment ago: %v", err)
				}
			} else if !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
				t.Errorf("%s on ann's lease by bob: %v", method, err)
			}
		}
	}
}

func TestLeaseThatIsGrantedWhileItIsFoundToBeGoneIsWhoseItWasGrantedTo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newStore(t)
		u := &heldUpstream{Upstream: s, open: make(chan struct{})}
		l := newLedger(u, 10, 100)
		done := make(chan error)
		go func() { done <- l.check(t.Context(), "/b/", 7, 0, pinged) }()
		synctest.Wait()
		time.Sleep(time.Nanosecond)
		l.granted("/a/", 7)
		close(u.open) // what it says is from before
		if err := <-done; err != nil {
			t.Error(err)
		}
		s.leases[7] = nil
		for _, use := range []leaseUse{used, pinged, revoked} {
			if err := l.check(t.Context(), "/b/", 7, 0, use); !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
				t.Errorf("another's: %v", err)
			}
		}
	})
}
