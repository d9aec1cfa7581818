package core

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// contentOf is the store of a node, as it is sent.
func contentOf(t *testing.T, n *Node) (content []byte, at *raftpb.SnapshotMetadata) {
	t.Helper()
	if err := n.store.Commit(); err != nil {
		t.Fatal(err)
	}
	snapshot, err := n.store.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snapshot.Close()
	var b bytes.Buffer
	if _, err := snapshot.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	applied := snapshot.Applied()
	return b.Bytes(), &raftpb.SnapshotMetadata{Index: &applied.Index, Term: &applied.Term, ConfState: applied.ConfState}
}

// unread fails the test when it is read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the snapshot was asked for")
	return 0, io.EOF
}

func TestASnapshotThatIsNoneIsRefusedAndTheMemberGoesOn(t *testing.T) {
	var free atomic.Int64
	free.Store(1 << 40)
	dir := t.TempDir()
	change := func(c *Config) { c.DiskFree = func(string) (int64, error) { return free.Load(), nil } }
	n := openNode(t, dir, change)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	later := copyDataDir(t, dir)
	closeNode(t, n)
	ahead := openNode(t, later, change)
	for range 100 { // more than n writes below
		mustPut(t, ahead, &pb.PutRequest{Key: []byte("k")})
	}
	content, at := contentOf(t, ahead)
	closeNode(t, ahead)
	size := int64(len(content))
	n = openNode(t, dir, change)
	defer closeNode(t, n)

	another := func(change func(*raftpb.SnapshotMetadata)) *raftpb.SnapshotMetadata {
		m := proto.Clone(at).(*raftpb.SnapshotMetadata)
		change(m)
		return m
	}
	damaged := bytes.Clone(content)
	clear(damaged[len(damaged)/2:])
	for _, c := range []struct {
		name string
		at   *raftpb.SnapshotMetadata
		size int64
		body io.Reader
		free int64
		want string
	}{
		{"no store", at, 8 << 10, bytes.NewReader(make([]byte, 8<<10)), 1 << 40, "invalid database"},
		{"nothing", at, 0, bytes.NewReader(nil), 1 << 40, "entry 0"},
		{"a damaged store", at, size, bytes.NewReader(damaged), 1 << 40, "store"},
		{"another entry", another(func(m *raftpb.SnapshotMetadata) { m.Index = proto.Uint64(1 << 30) }), size, bytes.NewReader(content), 1 << 40, "as of entry"},
		{"other members", another(func(m *raftpb.SnapshotMetadata) { m.ConfState.Voters = []uint64{1, 2} }), size, bytes.NewReader(content), 1 << 40, "members"},
		{"more than announced", at, size - 1, bytes.NewReader(content), 1 << 40, fmt.Sprintf("%d bytes have come of it", size)},
		{"less than announced", at, size + 1, bytes.NewReader(content), 1 << 40, fmt.Sprintf("%d bytes have come of it", size)},
		{"more than there is room for", at, 1 << 30, unread{t}, 1<<30 + diskReserve, "has room for"},
		{"on a full disk", at, 1 << 30, unread{t}, 0, "has room for 0"},
	} {
		free.Store(c.free)
		m := &raftpb.Message{
			Type: raftpb.MsgSnap.Enum(), From: proto.Uint64(9), To: &n.member.ID, Term: proto.Uint64(1000), Snapshot: &raftpb.Snapshot{Metadata: c.at},
		}
		err := peerHandler{n}.ReceiveSnapshot(t.Context(), m, c.size, c.body)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if n.Err() != nil {
			t.Fatalf("%s: the member has ended: %v", c.name, n.Err())
		}
		if left, _ := filepath.Glob(n.incomingPath() + "*"); len(left) > 0 {
			t.Errorf("%s: it has left %v", c.name, left)
		}
		free.Store(1 << 40)
		n.disk.checked.Store(0)
		mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	}
}

// What raft need not be given is neither kept nor a fault of the sender.
func TestASnapshotOfWhatTheMemberHasIsTakenForGood(t *testing.T) {
	n := openNode(t, t.TempDir())
	defer closeNode(t, n)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	content, at := contentOf(t, n)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	m := &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: proto.Uint64(9), To: &n.member.ID, Term: proto.Uint64(n.term.Load()), Snapshot: &raftpb.Snapshot{Metadata: at},
	}
	if err := (peerHandler{n}).ReceiveSnapshot(t.Context(), m, int64(len(content)), bytes.NewReader(content)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(n.incomingPath()); err == nil {
		t.Error("it is kept")
	}
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
}

// syncLog is a log that several goroutines write.
type syncLog struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *syncLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// count is how many lines have a message.
func (l *syncLog) count(message string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, message) {
			n++
		}
	}
	return n
}

// has tells whether a line has both.
func (l *syncLog) has(message, detail string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, message) && strings.Contains(line, detail) {
			return true
		}
	}
	return false
}

func TestAMemberWithAFullDiskCatchesUpWhenThereIsRoom(t *testing.T) {
	var full atomic.Bool
	log := new(syncLog)
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 20, 10
		if cfg.Name == "m2" {
			cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
			cfg.DiskFree = func(dir string) (int64, error) {
				if full.Load() {
					return diskReserve, nil
				}
				return diskFree(dir)
			}
		}
	})
	c.put(0, "k", "v")
	c.moveLeader(0)
	c.stop(2)
	for i := range 100 {
		c.put(0, "k", fmt.Sprint(i))
	}
	waitCut(t, c.members[c.leader()].node, 50)
	full.Store(true)
	node := c.start(2)
	c.until("a snapshot is refused", func() bool { return log.has("a snapshot is refused", "has room for 0") })
	if node.applied.Load() > 50 || node.Err() != nil {
		t.Errorf("applied %d, error %v", node.applied.Load(), node.Err())
	}
	full.Store(false)
	applied := c.members[0].node.applied.Load()
	c.until("it has caught up", func() bool { return node.applied.Load() >= applied })
	c.wantAll("k", "99")
	c.wantSame()
}

// A store that was received is nobody else's to read, like one that was made here.
func TestAReceivedStoreIsReadByItsOwnerAlone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no mode there")
	}
	path := filepath.Join(t.TempDir(), incomingName)
	must(t, storeIncoming(path, 3, strings.NewReader("abc"), func(string) error { return nil }))
	info, err := os.Stat(path)
	must(t, err)
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("its mode is %o", got)
	}
}

// A member that catches up while it reads a snapshot does not need it, and who has sent it has done nothing wrong.
func TestWhoHasCaughtUpMeanwhileDoesNotRefuseASnapshot(t *testing.T) {
	n := openNode(t, t.TempDir())
	defer closeNode(t, n)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	content, at := contentOf(t, n)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	must(t, os.WriteFile(n.incomingPath(), content, 0o600))
	if read, err := n.readNeeded(t.Context(), n.incomingPath(), at); read != nil || err != nil {
		t.Errorf("%v, %v", read, err)
	}
	at.Index = proto.Uint64(1 << 30)
	if _, err := n.readNeeded(t.Context(), n.incomingPath(), at); err == nil {
		t.Error("one of another entry, which is needed, is taken")
	}
}

// endsThen calls then when all has been read.
type endsThen struct {
	io.Reader
	then func()
}

func (e endsThen) Read(b []byte) (int, error) {
	n, err := e.Reader.Read(b)
	if errors.Is(err, io.EOF) {
		e.then()
	}
	return n, err
}

// A large store is read for long. Who stops does not wait for that.
func TestASnapshotIsReadNoFurtherWhenItsConnectionEnds(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	later := copyDataDir(t, dir)
	closeNode(t, n)
	ahead := openNode(t, later)
	mustPut(t, ahead, &pb.PutRequest{Key: []byte("k")})
	content, at := contentOf(t, ahead)
	closeNode(t, ahead)
	log := new(syncLog)
	n = openNode(t, dir, func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	defer closeNode(t, n)
	at.Index = proto.Uint64(1 << 30) // which is needed; all of it would have to be read to find that it is not this one
	m := &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: proto.Uint64(9), To: &n.member.ID, Term: proto.Uint64(1000), Snapshot: &raftpb.Snapshot{Metadata: at},
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := peerHandler{n}.ReceiveSnapshot(ctx, m, int64(len(content)), endsThen{bytes.NewReader(content), cancel})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if log.has("a snapshot is refused", "") {
		t.Error("its sender is blamed")
	}
	if _, err := os.Stat(n.incomingPath()); err == nil {
		t.Error("it is kept")
	}
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
}
