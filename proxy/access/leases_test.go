package access

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/grpcapi/lockpb"
	"weir/internal/bubble"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func TestLeasesAreListedToWhoMayReadAllTheirKeys(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := judgedCluster()
		c.leases = map[int64][]string{}
		for i := range 20 {
			c.leases[int64(i)+1] = []string{fmt.Sprint("a", i)}
		}
		g := newGuard(t, c, "root", nil)
		list := func() error {
			_, err := g.Outgoing(withCertificateIn(t.Context(), "alice"), pb.Lease_LeaseLeases_FullMethodName, nil)
			return err
		}
		if err := list(); err != nil {
			t.Error(err)
		}
		for i := range maxLeases {
			c.leases[int64(i)+1] = nil
		}
		c.leases[maxLeases+1] = nil
		if err := list(); !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
			t.Errorf("error %v", err)
		}
	})
}

func TestQuestionsForLeasesAreBoundedForEachUser(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := judgedCluster()
		g := newGuard(t, c, "root", nil)
		ask := func(user string, leases int) {
			j := judgement{guard: g, policy: &policy{generation: &generation{}}}
			for id := range int64(leases) {
				j.found.lacking = append(j.found.lacking, leaseQuestion{1 + id, func([]byte) error { return nil }})
			}
			if err := j.findOut(t.Context(), user, 0); err != nil {
				t.Error(err)
			}
		}
		ask("alice", 1) // with which the proxy has its token
		before := c.count("LeaseTimeToLive")
		c.set(func() { c.delay = 100 * time.Millisecond })
		var all sync.WaitGroup
		all.Go(func() { ask("alice", 3*maxLeaseCallsOfOne) })
		for range 3 * maxLeaseCallsOfOne {
			all.Go(func() { ask("alice", 1) })
		}
		synctest.Wait()
		if n := c.count("LeaseTimeToLive") - before; n != maxLeaseCallsOfOne {
			t.Errorf("%d questions of one user are upstream", n)
		}
		for i := range 3 * maxLeaseCalls {
			all.Go(func() { ask(fmt.Sprint(i), 1+i%2) })
		}
		synctest.Wait()
		if n := c.count("LeaseTimeToLive") - before; n != maxLeaseCalls {
			t.Errorf("%d questions are upstream", n)
		}
		all.Wait()
	})
}

// judgeAs judges a message of a stream, or a request, of who shows a certificate.
func judgeAs(t *testing.T, g *Guard, name, method string, req proto.Message) error {
	t.Helper()
	_, err := g.Judge(withCertificateIn(t.Context(), name), method, encode(t, req))
	return err
}

func TestWhatWaitsToHaveItsLeasesAskedAboutIsBoundedInBytes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := judgedCluster()
		g := newGuard(t, c, "root", nil)
		put := func(user, key string) error {
			return judgeAs(t, g, user, pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte(key), Lease: 1, Value: make([]byte, 1<<20)})
		}
		if err := put("alice", "a"); err != nil { // so that she is known, and the proxy has its token
			t.Fatal(err)
		}
		c.set(func() { c.delay = 100 * time.Millisecond })
		const requests = 2 * maxLeaseBytes >> 20
		refused := make(chan error, requests)
		for range requests {
			go func() {
				if err := put("alice", "a"); err != nil {
					refused <- err
				}
			}()
		}
		synctest.Wait()
		if n, want := len(refused), requests-maxLeaseCallsOfOne-maxLeaseBytes>>21; n < want || n > want+1 {
			t.Errorf("%d of %d requests were refused, want %d", n, requests, want)
		}
		if err := put("root", "a"); err != nil { // whose leases nobody asks about
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		for range len(refused) {
			if err := <-refused; status.Code(err) != codes.Unavailable {
				t.Errorf("one too many: error %v", err)
			}
		}
		if err := put("alice", "a"); err != nil {
			t.Errorf("after the others: error %v", err)
		}
	})
}

func TestALeaseThatIsGoneIsNotAskedAboutForEachPing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := judgedCluster()
		g := newGuard(t, c, "root", nil)
		ping := func() error {
			return judgeAs(t, g, "alice", pb.Lease_LeaseKeepAlive_FullMethodName, &pb.LeaseKeepAliveRequest{ID: 7})
		}
		for range 10 {
			if err := ping(); err != nil {
				t.Error(err)
			}
		}
		if n := c.count("LeaseTimeToLive"); n != 1 {
			t.Errorf("upstream was asked %d times", n)
		}
		c.set(func() { c.leases[7] = []string{"z"} }) // somebody else's
		for method, req := range map[string]proto.Message{
			pb.Lease_LeaseRevoke_FullMethodName:     &pb.LeaseRevokeRequest{ID: 7},
			pb.KV_Put_FullMethodName:                &pb.PutRequest{Key: []byte("a"), Lease: 7},
			pb.Lease_LeaseTimeToLive_FullMethodName: &pb.LeaseTimeToLiveRequest{ID: 7, Keys: true},
		} {
			if err := judgeAs(t, g, "alice", method, req); !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
				t.Errorf("%s by what was known of it a moment ago: error %v", method, err)
			}
		}
		time.Sleep(maxAge + time.Nanosecond)
		if err := ping(); !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
			t.Errorf("a ping by what was known of it a second ago: error %v", err)
		}
	})
}

func TestLeasesThatAreGoneAreBounded(t *testing.T) {
	var l goneLeases
	for id := range int64(3 * maxGoneLeases) {
		l.add(id, 0)
		if !l.has(id, maxAge) || l.has(id, maxAge+1) {
			t.Fatal("what was just found is not known, or for too long")
		}
	}
	if n := len(l.at); n > maxGoneLeases {
		t.Errorf("%d leases", n)
	}
}

func TestLeasesOfATransactionAreAskedAboutOnceAndAreFew(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := judgedCluster()
		g := newGuard(t, c, "root", nil)
		txn := func(puts int, lease func(i int) int64) *pb.TxnRequest {
			in := &pb.TxnRequest{}
			for i := range puts {
				put := &pb.PutRequest{Key: []byte("a"), Lease: lease(i)}
				in.Failure = append(in.Failure, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
			}
			return &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: in}}}, Failure: in.Failure}
		}
		many := func(i int) int64 { return int64(100 + i) }
		withEmptyKey := txn(100, many)
		withEmptyKey.Failure = append(withEmptyKey.Failure, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{}}})
		for _, test := range []struct {
			what  string
			txn   *pb.TxnRequest
			asked int
			err   error
		}{
			{"her own lease", txn(1000, func(int) int64 { return 1 }), 1, nil},
			{"her own lease, and another's", txn(2, func(i int) int64 { return int64(2 - i) }), -1, rpctypes.ErrGRPCPermissionDenied},
			{"no lease", txn(1000, func(int) int64 { return 0 }), 0, nil},
			{"as many as there may be, and none", txn(maxPutLeases+1, func(i int) int64 { return int64(99+i) * min(int64(i), 1) }), maxPutLeases, nil},
			{"too many", txn(maxPutLeases+1, many), 0, rpctypes.ErrGRPCTooManyOps},
			{"far too many", txn(20_000, many), 0, rpctypes.ErrGRPCTooManyOps},
			{"an empty key behind them", withEmptyKey, 0, rpctypes.ErrGRPCEmptyKey},
		} {
			before := c.count("LeaseTimeToLive")
			err := judgeAs(t, g, "alice", pb.KV_Txn_FullMethodName, test.txn)
			if n := c.count("LeaseTimeToLive") - before; !errors.Is(err, test.err) || test.asked >= 0 && n != test.asked {
				t.Errorf("%s: upstream was asked %d times, want %d; error %v, want %v", test.what, n, test.asked, err, test.err)
			}
		}
		if err := judgeAs(t, g, "root", pb.KV_Txn_FullMethodName, txn(1000, many)); err != nil { // whose leases nobody asks about
			t.Error(err)
		}
	})
}

// putsOn is a transaction that puts a on so many leases, which have no keys.
func putsOn(leases int) *pb.TxnRequest {
	txn := &pb.TxnRequest{}
	for i := range leases {
		put := &pb.PutRequest{Key: []byte("a"), Lease: int64(100 + i)}
		txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	}
	return txn
}

func TestWhatWaitsForItsLeasesIsNotAllowedByAnOldPolicy(t *testing.T) {
	for method, c := range map[string]struct {
		req   proto.Message
		delay time.Duration // of each answer
	}{
		pb.KV_Txn_FullMethodName:            {putsOn(maxPutLeases), 100 * time.Millisecond},
		pb.KV_Put_FullMethodName:            {&pb.PutRequest{Key: []byte("a"), Lease: 1}, 1500 * time.Millisecond},
		pb.Lease_LeaseRevoke_FullMethodName: {&pb.LeaseRevokeRequest{ID: 1}, 1500 * time.Millisecond},
		pb.Lease_LeaseLeases_FullMethodName: {&pb.LeaseLeasesRequest{}, 1500 * time.Millisecond},
		lockpb.Lock_Lock_FullMethodName:     {&lockpb.LockRequest{Name: []byte("a1"), Lease: 1}, 1500 * time.Millisecond},
	} {
		bubble.Test(t, func(t *testing.T) {
			cluster := judgedCluster()
			delete(cluster.leases, 2)
			g := newGuard(t, cluster, "root", nil)
			if err := judgeAs(t, g, "alice", method, c.req); err != nil {
				t.Fatal(err)
			}
			first := true
			cluster.set(func() {
				cluster.before = func(asked string) {
					if asked != "LeaseTimeToLive" && asked != "LeaseLeases" {
						return
					}
					cluster.mu.Lock()
					was := first
					first = false
					cluster.mu.Unlock()
					if was {
						cluster.change(func() { cluster.users["alice"].roles = nil })
					}
					time.Sleep(c.delay)
				}
			})
			begun := time.Now()
			err := judgeAs(t, g, "alice", method, c.req)
			if took := time.Since(begun); textOrNone(err) != denied || took > leasePatience {
				t.Errorf("%s is judged for %v, and the right to it is taken away when that begins: %v", method, took, err)
			}
		})
	}
}

// What a user may do with a lease is asked again when rights have changed meanwhile, whosever they are.
func TestRightsThatChangeWhileLeasesAreAskedAboutCount(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*cluster)
		lease  int64
		asked  int
		want   error
	}{
		"another's":    {func(c *cluster) { c.users["reader"].roles = nil }, 1, 2, nil},
		"a new one":    {func(c *cluster) { c.users["alice"].roles = append(c.users["alice"].roles, "z") }, 2, 2, nil},
		"none":         {nil, 1, 1, nil},
		"none of hers": {nil, 2, 1, rpctypes.ErrGRPCPermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				cluster := judgedCluster()
				cluster.roles["z"] = []*authpb.Permission{permission(authpb.READWRITE, "z", "")}
				g := newGuard(t, cluster, "root", nil)
				put := func(lease int64) error {
					return judgeAs(t, g, "alice", pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte("a"), Lease: lease})
				}
				if err := put(0); err != nil { // so that she is known
					t.Fatal(err)
				}
				cluster.set(func() {
					cluster.before = func(asked string) {
						if asked != "LeaseTimeToLive" {
							return
						}
						if cluster.count(asked) == 1 && c.change != nil {
							cluster.change(func() { c.change(cluster) })
						}
						time.Sleep(1500 * time.Millisecond)
					}
				})
				if err := put(c.lease); !errors.Is(err, c.want) {
					t.Errorf("error %v; want %v", err, c.want)
				}
				if n := cluster.count("LeaseTimeToLive"); n != c.asked {
					t.Errorf("upstream was asked %d times; want %d", n, c.asked)
				}
			})
		})
	}
}

func TestAMemberThatHangsKeepsNoSlotForTheLeasesOfWhoWaitsForLong(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := judgedCluster()
		g := newGuard(t, c, "root", nil)
		lock := func() error {
			return judgeAs(t, g, "alice", lockpb.Lock_Lock_FullMethodName, &lockpb.LockRequest{Name: []byte("a1"), Lease: 1})
		}
		if err := lock(); err != nil {
			t.Fatal(err)
		}
		c.set(func() { c.hangs = "LeaseTimeToLive" })
		begun := time.Now()
		for range 2 * maxLeaseCallsOfOne {
			go func() { _ = lock() }()
		}
		if err := lock(); status.Code(err) != codes.Unavailable || time.Since(begun) != leasePatience {
			t.Errorf("after %v: error %v", time.Since(begun), err)
		}
		synctest.Wait()
		c.set(func() { c.hangs = "" })
		if err := lock(); err != nil {
			t.Errorf("when the member answers again: error %v", err)
		}
	})
}
