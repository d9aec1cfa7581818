package tenants

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
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

// quotaTable makes a table of one tenant with a quota, whose user is ann.
func quotaTable(t *testing.T, s *store, quota string) *Table {
	t.Helper()
	return newTable(t, "tenants:\n- {name: a, users: [ann], namespace: /a/, "+quota+"}\n", Config{Upstream: s, Hub: s.hub})
}

// inBubble runs a test with a store whose time is its own.
func inBubble(t *testing.T, test func(t *testing.T, s *store)) {
	bubble.Test(t, func(t *testing.T) { test(t, newStore(t)) })
}

// putValue puts a value through a table to a store.
func putValue(t *testing.T, table *Table, s *store, key string, size int) error {
	t.Helper()
	v, err := table.Enter(ann.ctx(t.Context()), pb.KV_Put_FullMethodName, marshal(t, &pb.PutRequest{Key: []byte(key), Value: make([]byte, size)}))
	if err != nil {
		return err
	}
	rev := s.write(map[string]int{"/a/" + key: size})
	v.Leave(marshal(t, &pb.PutResponse{Header: &pb.ResponseHeader{Revision: rev}}), nil)
	return nil
}

// wantUsage waits until nothing moves, and checks what is counted.
func wantUsage(t *testing.T, table *Table, known bool, want amount) {
	t.Helper()
	synctest.Wait()
	u := table.Status().Usage[0]
	if got := (amount{u.Keys, u.Bytes}); u.Known != known || got != want {
		t.Errorf("usage %+v, want known %v, %+v", u, known, want)
	}
}

func TestQuotaOfKeysAndBytes(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.write(map[string]int{"/a/old": 7, "/b/other": 1000, "/a": 1000, "/a0": 1000})
		table := quotaTable(t, s, "max-keys: 3, max-bytes: 30")
		wantUsage(t, table, true, amount{1, 10})
		for _, c := range []struct {
			key  string
			size int
			want error
		}{
			{"k1", 8, nil},
			{"k2", 9, rpctypes.ErrGRPCNoSpace}, // one byte too many
			{"k2", 8, nil},                     // full
			{"k3", 0, rpctypes.ErrGRPCNoSpace},
			{"k1", 9, rpctypes.ErrGRPCNoSpace},
			{"k1", 8, nil},
			{"k1", 2, nil},
			{"k2", 14, nil},
			{"k3", 0, rpctypes.ErrGRPCNoSpace}, // room for bytes, not for a key
		} {
			if err := putValue(t, table, s, c.key, c.size); err != c.want {
				t.Errorf("put %s of %d bytes: %v, want %v", c.key, c.size, err, c.want)
			}
			synctest.Wait()
		}
		wantUsage(t, table, true, amount{3, 30})
		s.write(map[string]int{"/a/old": -1})
		wantUsage(t, table, true, amount{2, 20})
		if err := putValue(t, table, s, "k3", 8); err != nil {
			t.Errorf("after a deletion: %v", err)
		}
		if got := table.Status().Refused; got != (Refused{Quota: 4}) {
			t.Errorf("refused %+v", got)
		}
	})
}

func TestWritesThatPutNothingLargerNeedNoRoom(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.write(map[string]int{"/a/k": 100, "/a/l": 100}) // far above it
		table := quotaTable(t, s, "max-keys: 1, max-bytes: 10")
		wantUsage(t, table, true, amount{2, 202})
		op := func(r *pb.PutRequest) *pb.RequestOp {
			return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
		}
		for _, c := range []struct {
			method string
			req    proto.Message
			fits   bool
		}{
			{pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte("k"), Value: make([]byte, 100)}, true},
			{pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte("k"), Value: make([]byte, 101)}, false},
			{pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte("m"), IgnoreValue: true}, true},
			{pb.KV_Put_FullMethodName, &pb.PutRequest{}, true}, // which upstream refuses
			{pb.KV_DeleteRange_FullMethodName, &pb.DeleteRangeRequest{Key: []byte("k")}, true},
			{pb.KV_Txn_FullMethodName, &pb.TxnRequest{Success: []*pb.RequestOp{op(&pb.PutRequest{Key: []byte("l")})}}, true},
			{pb.KV_Txn_FullMethodName, &pb.TxnRequest{Failure: []*pb.RequestOp{op(&pb.PutRequest{Key: []byte("m")})}}, false},
			{lockpb.Lock_Lock_FullMethodName, &lockpb.LockRequest{Name: []byte("lock")}, false},
			{lockpb.Lock_Lock_FullMethodName, &lockpb.LockRequest{Name: []byte("lock"), Lease: 99}, false},
			{lockpb.Lock_Unlock_FullMethodName, &lockpb.UnlockRequest{Key: []byte("lock/1")}, true},
			{lockpb.Election_Campaign_FullMethodName, &lockpb.CampaignRequest{Name: []byte("e")}, false},
			{lockpb.Election_Campaign_FullMethodName, &lockpb.CampaignRequest{Name: []byte("e"), Lease: 99}, false},
			{lockpb.Election_Proclaim_FullMethodName, &lockpb.ProclaimRequest{Leader: &lockpb.LeaderKey{Key: []byte("l")}, Value: make([]byte, 101)}, false},
			{lockpb.Election_Proclaim_FullMethodName, &lockpb.ProclaimRequest{Leader: &lockpb.LeaderKey{Key: []byte("l")}, Value: make([]byte, 100)}, true},
			{lockpb.Election_Proclaim_FullMethodName, &lockpb.ProclaimRequest{}, true}, // which upstream refuses
		} {
			want := rpctypes.ErrGRPCNoSpace
			if c.fits {
				want = nil
			}
			if err := call(t, table, ann, c.method, c.req); err != want {
				t.Errorf("%s %v: %v, want %v", c.method, c.req, err, want)
			}
		}
	})
}

func TestLockTakesTheRoomOfItsKey(t *testing.T) {
	for _, c := range []struct {
		lease int64
		size  int64
	}{{lease: 0x2af, size: int64(len("lock/2af"))}, {lease: -1, size: int64(len("lock/ffffffffffffffff"))}, {size: int64(len("lock/ffffffffffffffff"))}} {
		for _, method := range []string{lockpb.Lock_Lock_FullMethodName, lockpb.Election_Campaign_FullMethodName} {
			d, err := read(method, marshal(t, &lockpb.LockRequest{Name: []byte("lock"), Lease: c.lease}))
			if err != nil || len(d.branches) != 1 || len(d.branches[0]) != 1 || d.branches[0][0].size != c.size {
				t.Errorf("%s under lease %x: %+v, %v", method, c.lease, d, err)
			}
		}
	}
}

func TestNothingGrowsWhileUsageIsNotKnown(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		s.down = true
		table := quotaTable(t, s, "max-keys: 10")
		wantUsage(t, table, false, amount{})
		if err := putValue(t, table, s, "k", 1); status.Code(err) != codes.Unavailable {
			t.Errorf("a put: %v", err)
		}
		for method, m := range map[string]proto.Message{
			pb.KV_Range_FullMethodName: &pb.RangeRequest{Key: []byte("k")}, pb.KV_DeleteRange_FullMethodName: &pb.DeleteRangeRequest{Key: []byte("k")},
			pb.KV_Txn_FullMethodName: &pb.TxnRequest{}, pb.Lease_LeaseGrant_FullMethodName: &pb.LeaseGrantRequest{TTL: 1},
		} {
			if err := call(t, table, ann, method, m); err != nil {
				t.Errorf("%s: %v", method, err)
			}
		}
		s.set(func() { s.down = false })
		time.Sleep(retryAfter)
		wantUsage(t, table, true, amount{})
		if err := putValue(t, table, s, "k", 1); err != nil {
			t.Errorf("when it is known: %v", err)
		}

		s.hub.End(errors.New("another era"))
		wantUsage(t, table, false, amount{})
		if err := putValue(t, table, s, "l", 1); status.Code(err) != codes.Unavailable {
			t.Errorf("when the watch has ended: %v", err)
		}
		s.write(map[string]int{"/a/meanwhile": 5})
		time.Sleep(retryAfter)
		wantUsage(t, table, true, amount{2, 16})
		table.Close()
		if err := putValue(t, table, s, "l", 1); status.Code(err) != codes.Unavailable {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestWhoMayNotReadTheNamespaceIsToldThatItTakesAUser(t *testing.T) {
	for _, refusal := range []error{rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCInvalidAuthToken} {
		inBubble(t, func(t *testing.T, s *store) {
			s.refusal = refusal
			var log strings.Builder
			file := filepath.Join(t.TempDir(), "tenants.yaml")
			if err := os.WriteFile(file, []byte("tenants:\n- {name: a, users: [ann], namespace: /a/, max-keys: 10}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			table, err := New(Config{File: file, Users: &users{}, Upstream: s, Hub: s.hub, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer table.Close()
			wantUsage(t, table, false, amount{})
			time.Sleep(10 * retryAfter)
			if err := putValue(t, table, s, "k", 1); err != errBarredUsage {
				t.Errorf("a put: %v", err)
			}
			if u := table.Status().Usage[0]; !strings.Contains(u.Error, rpctypes.ErrorDesc(refusal)) {
				t.Errorf("the status says %+v", u)
			}
			s.set(func() { s.refusal = nil })
			time.Sleep(retryAfter)
			wantUsage(t, table, true, amount{})
			if u := table.Status().Usage[0]; u.Error != "" {
				t.Errorf("the status says %+v", u)
			}
			if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), "--user") {
				t.Errorf("the log was told %d times:\n%s", n, log.String())
			}
		})
	}
}

func TestWhoShareANamespaceShareItsQuota(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		table := newTable(t, `
tenants:
- {name: a, users: [ann], namespace: /a/, max-keys: 2}
- {name: b, users: [bob], namespace-of: a}
`, Config{Upstream: s, Hub: s.hub})
		synctest.Wait()
		put := func(c *caller, key string) (wire.Visit, error) {
			return table.Enter(c.ctx(t.Context()), pb.KV_Put_FullMethodName, marshal(t, &pb.PutRequest{Key: []byte(key)}))
		}
		for _, c := range []*caller{ann, bob} { // both are on their way
			if _, err := put(c, c.token); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []*caller{ann, bob} {
			if _, err := put(c, "more"); err != rpctypes.ErrGRPCNoSpace {
				t.Errorf("%s: %v", c.token, err)
			}
		}
		if n := len(table.Status().Usage); n != 1 {
			t.Errorf("there are %d usages", n)
		}
	})
}

func TestStatusHasNoBoundThatNobodyHasGiven(t *testing.T) {
	for quota, want := range map[string]string{
		"max-keys: 3": `"max_keys":3}`, "max-bytes: 9": `"max_keys":10000000,"max_bytes":9}`,
	} {
		s := newStore(t)
		text, err := json.Marshal(quotaTable(t, s, quota).Status().Usage[0])
		if err != nil || !strings.HasSuffix(string(text), want) {
			t.Errorf("%s: %s, %v", quota, text, err)
		}
	}
}

func TestNamespaceFarAboveItsQuotaIsNotCountedButMayShrink(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		many, none := map[string]int{}, map[string]int{}
		for i := range 2000 {
			many[fmt.Sprint("/a/", i)], none[fmt.Sprint("/a/", i)] = 1, -1
		}
		s.write(many)
		table := quotaTable(t, s, "max-keys: 10")
		for range 2 {
			wantUsage(t, table, false, amount{})
			if !table.Status().Usage[0].TooLarge {
				t.Error("it is not said to be too large")
			}
			if err := putValue(t, table, s, "k", 1); err != rpctypes.ErrGRPCNoSpace {
				t.Errorf("a put: %v", err)
			}
			if err := call(t, table, ann, pb.KV_DeleteRange_FullMethodName, &pb.DeleteRangeRequest{Key: []byte("k")}); err != nil {
				t.Errorf("a deletion: %v", err)
			}
			s.write(none)
			time.Sleep(recountAfter)
			wantUsage(t, table, true, amount{})
			s.write(many) // by somebody else, while it is watched
		}
	})
}

func TestCountHasWhatIsWrittenMeanwhile(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(uint64(seed), 0))
	for range 20 {
		inBubble(t, func(t *testing.T, s *store) {
			change := func() {
				sizes := map[string]int{}
				for range rnd.IntN(50) {
					sizes[fmt.Sprintf("/a/%d", rnd.IntN(1000))] = rnd.IntN(40) - 10
				}
				for k, size := range sizes {
					if sizes[k] = max(size, -1); size < 0 && len(s.keys[k]) == 0 {
						delete(sizes, k) // nothing to delete
					}
				}
				if len(sizes) > 0 {
					s.write(sizes)
				}
			}
			for range 20 {
				change()
			}
			pages := 0
			s.paged = func() { pages++; change() }
			table := quotaTable(t, s, "max-keys: 10000")
			synctest.Wait()
			wantUsage(t, table, true, s.held("/a/"))
			change()
			wantUsage(t, table, true, s.held("/a/"))
			if pages < 2 {
				t.Errorf("it was read in %d pages", pages)
			}
		})
	}
}

func TestQuotaIsKeptByWritersAtTheSameTime(t *testing.T) {
	s := newStore(t)
	table := quotaTable(t, s, "max-keys: 20, max-bytes: 300")
	for !table.Status().Usage[0].Known {
		runtime.Gosched()
	}
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 0))
			for range 200 {
				_ = putValue(t, table, s, fmt.Sprint(rnd.IntN(40)), rnd.IntN(30)) // refused or not
				if got := s.held("/a/"); got.keys > 20 || got.bytes > 300 {
					t.Errorf("there are %+v", got)
					return
				}
				if rnd.IntN(3) == 0 {
					s.write(map[string]int{fmt.Sprint("/a/", rnd.IntN(40)): -1})
				}
			}
		})
	}
	writers.Wait()
	if got := table.Status().Refused.Quota; got == 0 {
		t.Error("nothing was refused")
	}
}
