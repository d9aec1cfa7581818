package core

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/goleak"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"weir/core/auth"
	"weir/grpcapi/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openNode starts a member in dir and waits until it serves. The caller closes it.
func openNode(t *testing.T, dir string, change ...func(*Config)) *Node {
	t.Helper()
	cfg := Config{DataDir: dir}
	for _, c := range change {
		c(&cfg)
	}
	n, err := Open(cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	if err := n.WaitReady(t.Context()); err != nil {
		n.Close()
		t.Fatalf("wait until it serves: %v", err)
	}
	return n
}

func closeNode(t *testing.T, n *Node) {
	t.Helper()
	if err := n.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func unmarshal[M proto.Message](t *testing.T, b mem.BufferSlice, m M) M {
	t.Helper()
	if err := proto.Unmarshal(b.Materialize(), m); err != nil {
		t.Fatalf("decode the answer: %v", err)
	}
	return m
}

func mustPut(t *testing.T, n *Node, r *pb.PutRequest) *pb.PutResponse {
	t.Helper()
	resp, err := tryPut(t, n, r)
	if err != nil {
		t.Fatalf("put %s: %v", r.Key, err)
	}
	return resp
}

func tryPut(t *testing.T, n *Node, r *pb.PutRequest) (*pb.PutResponse, error) {
	t.Helper()
	raw, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var req wire.PutRequest
	if err := req.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	b, err := n.Put(t.Context(), &req)
	if err != nil {
		return nil, err
	}
	return unmarshal(t, b, &pb.PutResponse{}), nil
}

func mustRange(t *testing.T, n *Node, r *wire.RangeRequest) *pb.RangeResponse {
	t.Helper()
	b, err := n.Range(t.Context(), r)
	if err != nil {
		t.Fatalf("range %s: %v", r.Key, err)
	}
	return unmarshal(t, b, &pb.RangeResponse{})
}

func tryTxn(t *testing.T, n *Node, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	t.Helper()
	raw, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	b, err := n.Txn(t.Context(), r, raw)
	if err != nil {
		return nil, err
	}
	return unmarshal(t, b, &pb.TxnResponse{}), nil
}

func TestAcknowledgedWritesAreThereAfterARestart(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir)
	var last int64
	for i := range 100 {
		last = mustPut(t, n, &pb.PutRequest{Key: fmt.Appendf(nil, "key%03d", i), Value: []byte("v")}).Header.Revision
	}
	before := mustRange(t, n, &wire.RangeRequest{Key: []byte("key"), RangeEnd: []byte("kez")})
	closeNode(t, n)

	n = openNode(t, dir)
	defer closeNode(t, n)
	after := mustRange(t, n, &wire.RangeRequest{Key: []byte("key"), RangeEnd: []byte("kez")})
	if after.Count != 100 || after.Header.Revision != last || after.Header.ClusterId != before.Header.ClusterId {
		t.Fatalf("after the restart: %d keys at revision %d, header %v", after.Count, after.Header.Revision, after.Header)
	}
	for i := range after.Kvs {
		if !proto.Equal(after.Kvs[i], before.Kvs[i]) {
			t.Fatalf("key %d: %v, before %v", i, after.Kvs[i], before.Kvs[i])
		}
	}
}

// copyDataDir copies the files of a member that is running, as a crash would leave them.
func copyDataDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		src, err := os.Open(path)
		if err != nil {
			return err
		}
		defer src.Close()
		dst, err := os.Create(filepath.Join(to, rel))
		if err != nil {
			return err
		}
		if _, err := io.Copy(dst, src); err != nil {
			return err
		}
		return dst.Close()
	})
	if err != nil {
		t.Fatalf("copy the data directory: %v", err)
	}
	return to
}

func TestReplayAppliesNothingTwice(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir)
	const writes = 50
	for i := range writes {
		mustPut(t, n, &pb.PutRequest{Key: []byte("k"), Value: fmt.Append(nil, i)})
		if i == writes/2 {
			if err := n.store.Commit(); err != nil { // the store has half, the log has all
				t.Fatal(err)
			}
		}
	}
	crashed := copyDataDir(t, dir)
	closeNode(t, n)

	n = openNode(t, crashed)
	defer closeNode(t, n)
	kv := mustRange(t, n, &wire.RangeRequest{Key: []byte("k")}).Kvs[0]
	if kv.Version != writes || kv.ModRevision != writes+1 || string(kv.Value) != fmt.Sprint(writes-1) {
		t.Fatalf("after the crash: %v", kv)
	}
}

func TestConcurrentWritersShareEntries(t *testing.T) {
	n := openNode(t, t.TempDir())
	defer closeNode(t, n)
	before := n.applied.Load()
	var wg sync.WaitGroup
	const writers, writes = 64, 20
	for w := range writers {
		wg.Go(func() {
			for i := range writes {
				if _, err := tryPut(t, n, &pb.PutRequest{Key: fmt.Appendf(nil, "%d/%d", w, i)}); err != nil {
					t.Errorf("put: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if entries := n.applied.Load() - before; entries > writers*writes/2 {
		t.Errorf("%d writes took %d raft entries", writers*writes, entries)
	}
	if got := mustRange(t, n, &wire.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true}).Count; got != writers*writes {
		t.Errorf("%d keys of %d", got, writers*writes)
	}
}

// waitCut waits until raft holds no entry before index.
func waitCut(t *testing.T, n *Node, index uint64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		first, err := n.raft.machine.Storage().FirstIndex()
		if err != nil {
			t.Fatal(err)
		}
		if first >= index {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("raft still holds entries from %d on", first)
		}
	}
}

func TestTheLogIsCutAndTheMemberStartsFromWhatIsLeft(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir, func(c *Config) { c.SnapshotCount = 10 })
	for range 200 {
		mustPut(t, n, &pb.PutRequest{Key: []byte("k"), Value: make([]byte, 1024)})
	}
	waitCut(t, n, 190)
	crashed := copyDataDir(t, dir)
	closeNode(t, n)
	n = openNode(t, crashed)
	defer closeNode(t, n)
	if kv := mustRange(t, n, &wire.RangeRequest{Key: []byte("k")}).Kvs[0]; kv.Version != 200 {
		t.Fatalf("after the crash: %v", kv)
	}
}

func TestQuotaRaisesAnAlarmThatRefusesWritesAndNotReads(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir, func(c *Config) { c.QuotaBytes = 1 << 20 })
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		_, err = tryPut(t, n, &pb.PutRequest{Key: []byte("k"), Value: make([]byte, 64<<10)})
		if err == nil {
			err = n.store.Commit()
		}
	}
	if !errors.Is(err, rpctypes.ErrGRPCNoSpace) {
		t.Fatalf("over the quota: %v", err)
	}
	mustRange(t, n, &wire.RangeRequest{Key: []byte("k")})
	closeNode(t, n)

	n = openNode(t, dir) // the alarm outlives the restart, with room again
	defer closeNode(t, n)
	if _, err := tryPut(t, n, &pb.PutRequest{Key: []byte("k")}); !errors.Is(err, rpctypes.ErrGRPCNoSpace) {
		t.Fatalf("after the restart: %v", err)
	}
	list, err := n.Alarm(t.Context(), &pb.AlarmRequest{})
	if err != nil || len(list.Alarms) != 1 || list.Alarms[0].Alarm != pb.AlarmType_NOSPACE {
		t.Fatalf("alarms: %v, %v", list, err)
	}
	disarm := &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: list.Alarms[0].MemberID, Alarm: pb.AlarmType_NOSPACE}
	if _, err := n.Alarm(t.Context(), disarm); err != nil {
		t.Fatal(err)
	}
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
}

func TestAFullDiskRefusesWritesAndNotReadsOrDeletions(t *testing.T) {
	var free atomic.Int64
	free.Store(1 << 40)
	n := openNode(t, t.TempDir(), func(c *Config) {
		c.DiskFree = func(string) (int64, error) { return free.Load(), nil }
	})
	defer closeNode(t, n)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	free.Store(diskReserve - 1)
	n.disk.checked.Store(0) // as if diskCheckInterval had passed
	if _, err := tryPut(t, n, &pb.PutRequest{Key: []byte("k")}); !errors.Is(err, rpctypes.ErrGRPCNoSpace) {
		t.Fatalf("put with a full disk: %v", err)
	}
	if got := mustRange(t, n, &wire.RangeRequest{Key: []byte("k")}); got.Count != 1 {
		t.Fatalf("read with a full disk: %v", got)
	}
	if _, err := n.DeleteRange(t.Context(), &wire.DeleteRangeRequest{Key: []byte("k"), Raw: []byte("\n\x01k")}); err != nil {
		t.Fatalf("deletion with a full disk: %v", err)
	}
	if !n.alarms.has(pb.AlarmType_NOSPACE) {
		t.Fatal("no alarm")
	}
}

func TestAFailedTxnChangesNothing(t *testing.T) {
	n := openNode(t, t.TempDir())
	defer closeNode(t, n)
	rev := mustPut(t, n, &pb.PutRequest{Key: []byte("a")}).Header.Revision
	putOp := func(p *pb.PutRequest) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: p}}
	}
	_, err := tryTxn(t, n, &pb.TxnRequest{Success: []*pb.RequestOp{
		putOp(&pb.PutRequest{Key: []byte("b")}),
		putOp(&pb.PutRequest{Key: []byte("c"), Lease: 4711}),
	}})
	if !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		t.Fatalf("got %v", err)
	}
	got := mustRange(t, n, &wire.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if got.Header.Revision != rev || got.Count != 1 {
		t.Fatalf("revision %d with %d keys, want %d with 1", got.Header.Revision, got.Count, rev)
	}
}

func TestStartIsRefusedInOneLine(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir)
	defer closeNode(t, n)
	other := t.TempDir()
	closeNode(t, openNode(t, other))
	etcds := t.TempDir()
	if err := os.MkdirAll(filepath.Join(etcds, "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	noLog := copyDataDir(t, other)
	if err := os.RemoveAll(filepath.Join(noLog, "member", "wal")); err != nil {
		t.Fatal(err)
	}
	noStore := copyDataDir(t, other)
	if err := os.Remove(filepath.Join(noStore, "member", "store.db")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"locked":          {Config{DataDir: dir}, "in use by another process"},
		"another cluster": {Config{DataDir: other, ClusterToken: "mine", CheckToken: true}, "is of another cluster"},
		"etcd's data":     {Config{DataDir: etcds}, "is etcd's"},
		"store missing":   {Config{DataDir: noStore}, "put member/store.db back"},
		"existing":        {Config{DataDir: t.TempDir(), JoinExisting: true}, "no peer URL answers"},
		"no log":          {Config{DataDir: noLog}, "its log is not in"},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := Open(c.cfg)
			if err == nil {
				n.Close()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, want one line with %q", err, c.want)
			}
		})
	}
	if names, err := os.ReadDir(filepath.Join(etcds, "member")); err != nil || len(names) != 1 {
		t.Errorf("something was made in etcd's directory: %v, %v", names, err)
	}
}

func TestRequestsAfterTheEndSaySo(t *testing.T) {
	n := openNode(t, t.TempDir())
	closeNode(t, n)
	if _, err := tryPut(t, n, &pb.PutRequest{Key: []byte("k")}); !errors.Is(err, rpctypes.ErrGRPCStopped) {
		t.Errorf("put: %v", err)
	}
	if _, err := n.Range(t.Context(), &wire.RangeRequest{Key: []byte("k")}); !errors.Is(err, rpctypes.ErrGRPCStopped) {
		t.Errorf("range: %v", err)
	}
}

func TestAWrongTokenConfigurationMakesNoDataDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	n, err := Open(Config{DataDir: dir, Auth: auth.Config{Token: "jwt,sign-method=none"}})
	if err == nil {
		closeNode(t, n)
		t.Fatal("it opened")
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Fatalf("the data directory: %v", err)
	}
}
