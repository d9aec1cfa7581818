package core

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"

	"weir/core/mvcc"
	"weir/core/wal"
	"weir/grpcapi/wire"
)

func TestACutOffBootstrapIsDoneAgainWithWhateverIdentityIsAskedFor(t *testing.T) {
	dir := t.TempDir()
	disk := &faultFS{FS: wal.OS()} // the log cannot be made
	if n, err := Open(Config{DataDir: dir, LogFS: disk}); !errors.Is(err, errInjected) {
		n.Close()
		t.Fatalf("got %v", err)
	}
	if n, err := Open(Config{DataDir: dir, JoinExisting: true}); err == nil {
		n.Close()
		t.Fatal("a new cluster was made, although an existing one was asked for")
	}
	n := openNode(t, dir, func(c *Config) { c.PeerURLs = []string{"http://127.0.0.1:1"} })
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	list, err := n.MemberList(t.Context(), &pb.MemberListRequest{})
	if err != nil || len(list.Members) != 1 || list.Members[0].PeerURLs[0] != "http://127.0.0.1:1" {
		t.Errorf("members: %v, %v", list, err)
	}
	closeNode(t, n)
	closeNode(t, openNode(t, dir)) // the identity is kept, whatever the flags say now
}

func TestABootstrapThatWasCutOffBeforeTheStoreHadAStateGoesOn(t *testing.T) {
	dir := t.TempDir()
	made := newMember([]InitialMember{{"default", []string{"http://127.0.0.1:1"}}}, []string{"http://127.0.0.1:1"}, "token")
	metadata, err := made.encode()
	if err != nil {
		t.Fatal(err)
	}
	log, err := wal.Create(filepath.Join(dir, "member", "wal"), metadata, wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	makeStore(t, dir)
	n := openNode(t, dir)
	defer closeNode(t, n)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	list, err := n.MemberList(t.Context(), &pb.MemberListRequest{})
	if err != nil || len(list.Members) != 1 || list.Members[0].ID != made.ID || list.Header.ClusterId != made.ClusterID {
		t.Errorf("members: %v, %v", list, err)
	}
}

// makeStore puts an empty store into a data directory.
func makeStore(t *testing.T, dir string) {
	t.Helper()
	s, err := mvcc.Open(filepath.Join(dir, "member", "store.db"), mvcc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A member that is killed early has all that was acknowledged in its log alone.
func TestAStoreWithoutItsLogIsRefusedAlsoBeforeItsFirstCommit(t *testing.T) {
	dir, log := t.TempDir(), t.TempDir()
	n := openNode(t, dir, func(c *Config) { c.WALDir, c.BatchInterval = log, time.Hour })
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	killed, killedLog := copyDataDir(t, dir), copyDataDir(t, log)
	closeNode(t, n)
	if n, err := Open(Config{DataDir: killed, WALDir: t.TempDir()}); err == nil {
		n.Close()
		t.Fatal("it started with another log")
	} else if !strings.Contains(err.Error(), "give the right --wal-dir") {
		t.Errorf("got %v", err)
	}
	n = openNode(t, killed, func(c *Config) { c.WALDir = killedLog })
	defer closeNode(t, n)
	if got := mustRange(t, n, &wire.RangeRequest{Key: []byte("k")}); len(got.Kvs) != 1 {
		t.Errorf("what was acknowledged is lost: %v", got)
	}
}

func TestAnEmptyStoreIsNotFilledFromALogThatWasUsed(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	closeNode(t, n)
	if err := os.Truncate(filepath.Join(dir, "member", "store.db"), 0); err != nil {
		t.Fatal(err)
	}
	if n, err := Open(Config{DataDir: dir}); err == nil {
		n.Close()
		t.Fatal("it started")
	} else if !strings.Contains(err.Error(), "has an empty store, and its log is not") {
		t.Errorf("got %v", err)
	}
}

func TestADataDirectoryThatCannotBeUsedIsRefusedWithWhatToDo(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Skip(err) // Windows wants a privilege for it
	}
	for _, c := range []struct{ data, log, problem, todo string }{
		{"file", "", "not a directory", "give a --data-dir that is a directory"},
		{"link", "", "link is a symbolic link whose target is missing", "give a --data-dir that is a directory"},
		{"data", "file", "not a directory", "give a --wal-dir that is a directory"},
		{"data", "link", "link is a symbolic link whose target is missing", "give a --wal-dir that is a directory"},
	} {
		config := Config{DataDir: filepath.Join(dir, c.data)}
		if c.log != "" {
			config.WALDir = filepath.Join(dir, c.log)
		}
		n, err := Open(config)
		if err == nil {
			n.Close()
			t.Fatalf("%v: it started", c)
		}
		if !strings.Contains(err.Error(), c.problem) || !strings.Contains(err.Error(), c.todo) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: got %v", c, err)
		}
	}
}

func TestStoreAndLogThatDoNotBelongTogetherAreRefused(t *testing.T) {
	makeMember := func(token string, writes int) (dir string) {
		dir = t.TempDir()
		n := openNode(t, dir, func(c *Config) { c.ClusterToken = token })
		for range writes {
			mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
		}
		closeNode(t, n)
		return dir
	}
	a, b := makeMember("a", 3), makeMember("b", 3)
	early, late := copyDataDir(t, a), copyDataDir(t, a)
	n := openNode(t, late)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	closeNode(t, n)
	for name, c := range map[string]struct{ store, log, want string }{
		"another cluster":     {b, a, "different clusters"},
		"a log that is older": {late, early, "the log has lost what was written to it"},
	} {
		dir := copyDataDir(t, c.log)
		store, err := os.ReadFile(filepath.Join(c.store, "member", "store.db"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "member", "store.db"), store, 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := Open(Config{DataDir: dir})
		if err == nil {
			n.Close()
			t.Fatalf("%s: it started", name)
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestADataDirectoryIsLockedAlsoWhileItIsDefragmented(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir)
	defer closeNode(t, n)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := n.Defragment(t.Context(), &pb.DefragmentRequest{}); err != nil {
					t.Errorf("defragment: %v", err)
					return
				}
			}
		}
	}()
	for range 50 {
		if second, err := Open(Config{DataDir: dir}); err == nil {
			second.Close()
			t.Error("a second process opened the directory")
			break
		}
	}
	close(stop)
	<-stopped
}

func TestPartsOfAStreamAreBoundedInBytes(t *testing.T) {
	n := openNode(t, t.TempDir())
	defer closeNode(t, n)
	const small, large = 3000, 12
	for i := range small {
		mustPut(t, n, &pb.PutRequest{Key: []byte{'a', byte(i >> 8), byte(i)}})
	}
	for i := range large {
		mustPut(t, n, &pb.PutRequest{Key: []byte{'b', byte(i)}, Value: make([]byte, 1<<20)})
	}
	keys, last := 0, &pb.RangeResponse{}
	err := n.RangeStream(t.Context(), &wire.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}, func(m mem.BufferSlice) error {
		if m.Len() > streamPartBytes+1<<20 {
			t.Errorf("a part has %d bytes", m.Len())
		}
		last = unmarshal(t, m, &pb.RangeStreamResponse{}).RangeResponse
		keys += len(last.Kvs)
		return nil
	})
	if err != nil || keys != small+large || last.Count != small+large || last.More {
		t.Errorf("%d keys, count %d, more %v, %v", keys, last.Count, last.More, err)
	}
}

func TestTheStoreIsDefragmentedAtStartIfEnoughOfItIsFree(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir)
	for range 8 {
		mustPut(t, n, &pb.PutRequest{Key: []byte("k"), Value: make([]byte, 1<<20)})
	}
	if _, err := n.Compact(t.Context(), &pb.CompactionRequest{Revision: n.Header().Revision, Physical: true}); err != nil {
		t.Fatal(err)
	}
	closeNode(t, n)
	size := func(threshold int64) int64 {
		n := openNode(t, dir, func(c *Config) { c.DefragmentAtStart = threshold })
		defer closeNode(t, n)
		return n.store.Size()
	}
	before := size(0)
	if after := size(before); after != before {
		t.Errorf("%d bytes became %d: there were not so many free", before, after)
	}
	if after := size(4 << 20); after > before-(4<<20) {
		t.Errorf("%d bytes became %d", before, after)
	}
}

func TestTheLogMayHaveItsOwnDirectory(t *testing.T) {
	dir, log := t.TempDir(), filepath.Join(t.TempDir(), "a", "log")
	own := func(c *Config) { c.WALDir = log }
	n := openNode(t, dir, own)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")})
	closeNode(t, n)
	if _, err := os.Stat(filepath.Join(dir, "member", "wal")); !os.IsNotExist(err) {
		t.Errorf("there is a log in the data directory: %v", err)
	}
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{DataDir: dir}, "give the right --wal-dir"},
		{Config{DataDir: t.TempDir(), WALDir: log}, "has no store for the log in " + log},
	} {
		if n, err := Open(c.config); err == nil {
			n.Close()
			t.Errorf("%+v: it started", c.config)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	n = openNode(t, dir, own)
	defer closeNode(t, n)
	if n.Header().Revision != 2 {
		t.Errorf("revision %d", n.Header().Revision)
	}
}
