package core

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/core/mvcc"
	"weir/core/wal"
	"weir/grpcapi/wire"
)

// saveSnapshot saves a snapshot as `etcdctl snapshot save` does.
func saveSnapshot(t *testing.T, n *Node) SavedSnapshot {
	t.Helper()
	var file bytes.Buffer
	err := n.Snapshot(t.Context(), func(r *pb.SnapshotResponse) error {
		_, err := file.Write(r.Blob)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return writeSnapshot(t, file.Bytes())
}

func writeSnapshot(t *testing.T, content []byte) SavedSnapshot {
	t.Helper()
	path := filepath.Join(t.TempDir(), "saved.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return SavedSnapshot{Path: path}
}

// someSnapshot is one with a key k, of which this is the value.
func someSnapshot(t *testing.T, value string) SavedSnapshot {
	t.Helper()
	n := openNode(t, t.TempDir())
	defer closeNode(t, n)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k"), Value: []byte(value)})
	return saveSnapshot(t, n)
}

func mustRestore(t *testing.T, cfg Config, from SavedSnapshot) {
	t.Helper()
	if err := Restore(t.Context(), cfg, from); err != nil {
		t.Fatal(err)
	}
}

// restoreCluster prepares a cluster of n members and restores each from the snapshot that of names.
func restoreCluster(t *testing.T, n int, of func(i int) SavedSnapshot) *testCluster {
	t.Helper()
	c := &testCluster{T: t, dir: t.TempDir(), change: func(cfg *Config) {
		cfg.HeartbeatInterval, cfg.ElectionTimeout = 20*time.Millisecond, 400*time.Millisecond
	}}
	for range n {
		c.newMember()
	}
	t.Cleanup(func() {
		for i := range c.members {
			c.stop(i)
		}
	})
	for i := range c.members {
		mustRestore(t, c.config(i), of(i))
	}
	return c
}

func TestARestoredClusterIsANewOneWithTheSameData(t *testing.T) {
	from := newCluster(t, 2)
	from.put(0, "k", "v")
	from.wantAll("k", "v")
	saved := saveSnapshot(t, from.members[1].node)
	old := listMembers(t, from.members[0].node)
	c := restoreCluster(t, 3, func(int) SavedSnapshot { return saved })
	for i := range c.members {
		c.start(i)
	}
	for i := range c.members {
		c.waitReady(i)
	}
	c.wantAll("k", "v")
	c.wantMembers(3)
	for _, m := range listMembers(t, c.members[0].node) {
		for _, o := range old {
			if m.ID == o.ID {
				t.Errorf("member %v is of the old cluster", m)
			}
		}
	}
	c.put(2, "k", "new")
	c.wantAll("k", "new")
	c.wantSame()
	c.stop(0)
	c.put(1, "k", "newer")
	c.start(0) // the flags and what it was restored from count no more
	c.waitReady(0)
	c.wantAll("k", "newer")
}

func TestClustersOfDifferentPastsAreDifferentClusters(t *testing.T) {
	one, other := someSnapshot(t, "1"), someSnapshot(t, "2")
	unchecked, bumped := one, one
	unchecked.SkipHashCheck, bumped.BumpRevision = true, 7
	ids := map[uint64]string{}
	for _, from := range []struct {
		name  string
		saved SavedSnapshot
		isNew bool
	}{{"a snapshot", one, true}, {"the same", one, false}, {"the same without a check", unchecked, false}, {"another", other, true}, {"one that is bumped", bumped, true}} {
		dir := t.TempDir()
		mustRestore(t, Config{DataDir: dir}, from.saved)
		n := openNode(t, dir)
		id, member := n.member.ClusterID, n.member.ID
		closeNode(t, n)
		before, known := ids[id]
		if known == from.isNew {
			t.Errorf("%s: cluster %x, as was: %q", from.name, id, before)
		}
		ids[id] = from.name
		if want := memberID([]string{"http://localhost:2380"}, "etcd-cluster"); member != want {
			t.Errorf("%s: member %x, which is %x at etcd", from.name, member, want)
		}
	}
	c := restoreCluster(t, 2, func(i int) SavedSnapshot { return []SavedSnapshot{one, other}[i] })
	c.start(0)
	c.start(1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := c.members[0].node.WaitReady(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("members of two snapshots: %v", err)
	}
}

// It would have forgotten how it has voted.
func TestAMemberIsNotRestoredBesideOthersThatHaveGoneOn(t *testing.T) {
	saved := someSnapshot(t, "v")
	c := restoreCluster(t, 3, func(int) SavedSnapshot { return saved })
	for i := range c.members {
		c.start(i)
	}
	for i := range c.members {
		c.waitReady(i)
	}
	c.put(1, "k", "newer")
	c.stop(2)
	cfg := c.config(2)
	if err := os.RemoveAll(cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	mustRestore(t, cfg, saved)
	n, err := Open(cfg)
	if err == nil {
		closeNode(t, n)
	}
	if err == nil || !strings.Contains(err.Error(), "has gone on since") {
		t.Errorf("got %v", err)
	}
}

func TestABumpedRevisionLeavesNoneBelowIt(t *testing.T) {
	from := openNode(t, t.TempDir())
	for range 5 {
		mustPut(t, from, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")})
	}
	saved := saveSnapshot(t, from)
	was := from.store.Revision()
	closeNode(t, from)
	saved.BumpRevision = 1000
	dir := t.TempDir()
	mustRestore(t, Config{DataDir: dir}, saved)
	for range 2 {
		n := openNode(t, dir)
		if got := n.store.Revision(); got != was+1000 {
			t.Errorf("revision %d, was %d", got, was)
		}
		if got := n.store.CompactRevision(); got != was+1000 {
			t.Errorf("compacted at %d", got)
		}
		r := mustRange(t, n, &wire.RangeRequest{Key: []byte("k")})
		if len(r.Kvs) != 1 || r.Kvs[0].ModRevision != was || r.Kvs[0].Version != 5 {
			t.Errorf("k is %v", r.Kvs)
		}
		closeNode(t, n)
	}
	saved.BumpRevision = 1 << 62
	if err := Restore(t.Context(), Config{DataDir: t.TempDir()}, saved); err == nil || !strings.Contains(err.Error(), "it may become at most") {
		t.Errorf("a bump beyond all numbers: %v", err)
	}
}

func TestTheStatusOfASnapshotIsThatOfItsFile(t *testing.T) {
	saved := someSnapshot(t, "v")
	s, err := saved.Status()
	info, statErr := os.Stat(saved.Path)
	if err = errors.Join(err, statErr); err != nil {
		t.Fatal(err)
	}
	if s.Revision != 2 || s.Keys != 1 || s.Size != info.Size()-sha256.Size || s.Version != layoutVersion {
		t.Errorf("status %+v of a file of %d bytes", s, info.Size())
	}
	for path, want := range map[string]string{t.TempDir(): "is not a file", saved.Path + "x": "no such file"} {
		if _, err := (SavedSnapshot{Path: path}).Status(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestACopyOfAStoresFileIsRestoredOnlyIfToldSo(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")})
	closeNode(t, n)
	saved, to := SavedSnapshot{Path: filepath.Join(dir, "member", storeName)}, t.TempDir()
	if err := Restore(t.Context(), Config{DataDir: to}, saved); err == nil || !strings.Contains(err.Error(), "--skip-hash-check") {
		t.Fatalf("got %v", err)
	}
	saved.SkipHashCheck = true
	mustRestore(t, Config{DataDir: to}, saved)
	n = openNode(t, to)
	defer closeNode(t, n)
	if r := mustRange(t, n, &wire.RangeRequest{Key: []byte("k")}); len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "v" {
		t.Errorf("k is %v", r.Kvs)
	}
}

func TestWhatCannotBeRestoredIsRefusedAndNothingIsLeft(t *testing.T) {
	good, err := os.ReadFile(someSnapshot(t, "v").Path)
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(content []byte) []byte {
		sum := sha256.Sum256(content)
		return append(bytes.Clone(content), sum[:]...)
	}
	file := good[:len(good)-sha256.Size]
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	noPages := bytes.Clone(file)
	clear(noPages[2*os.Getpagesize():])
	for name, with := range map[string]struct {
		content []byte
		cfg     Config
		want    string
	}{
		"cut off":           {good[:len(good)-1000], Config{}, "no checksum"},
		"empty":             {nil, Config{}, "too short"},
		"a checksum alone":  {good[len(file):], Config{}, "too short"},
		"one bit":           {flipped, Config{}, "SHA-256"},
		"no database":       {sealed(make([]byte, 8192)), Config{}, "invalid database"},
		"no pages":          {sealed(noPages), Config{}, "damaged"},
		"cut off, sealed":   {sealed(file[:3*os.Getpagesize()]), Config{}, "damaged"},
		"a later layout":    {sealed(laterLayout(t, file)), Config{}, "has the layout of etcd 3.8.0"},
		"another name":      {good, Config{Name: "m", InitialCluster: []InitialMember{{"default", []string{"http://localhost:2380"}}}}, `no member of the name "m"`},
		"other URLs":        {good, Config{InitialCluster: []InitialMember{{"default", []string{"http://localhost:1"}}}}, "make them equal"},
		"no log can be had": {good, Config{LogFS: &faultFS{FS: wal.OS()}}, errInjected.Error()},
	} {
		cfg := with.cfg
		cfg.DataDir, cfg.WALDir = filepath.Join(t.TempDir(), "data"), t.TempDir()
		err := Restore(t.Context(), cfg, writeSnapshot(t, with.content))
		if err == nil || !strings.Contains(err.Error(), with.want) {
			t.Errorf("%s: %v, want %q", name, err, with.want)
		}
		wantEmpty(t, name, cfg)
	}
	cfg := Config{DataDir: t.TempDir(), WALDir: t.TempDir()}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Restore(ctx, cfg, writeSnapshot(t, good)); !errors.Is(err, context.Canceled) {
		t.Errorf("told to stop: %v", err)
	}
	wantEmpty(t, "told to stop", cfg)
	if err := Restore(t.Context(), cfg, SavedSnapshot{Path: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "not a file") {
		t.Errorf("a directory: %v", err)
	}
	if err := Restore(t.Context(), cfg, writeSnapshot(t, good)); err != nil {
		t.Errorf("at last: %v", err)
	}
	for _, again := range []Config{{DataDir: cfg.DataDir}, {DataDir: t.TempDir(), WALDir: cfg.WALDir}} {
		if err := Restore(t.Context(), again, writeSnapshot(t, good)); err == nil || !strings.Contains(err.Error(), "not empty") {
			t.Errorf("over what is there: %v", err)
		}
	}
	closeNode(t, openNode(t, cfg.DataDir, func(c *Config) { c.WALDir = cfg.WALDir }))
}

func wantEmpty(t *testing.T, name string, cfg Config) {
	t.Helper()
	for _, dir := range []string{cfg.DataDir, cfg.WALDir} {
		if err := mustBeEmpty(dir); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// laterLayout is a store's file as a later etcd would write it.
func laterLayout(t *testing.T, file []byte) []byte {
	t.Helper()
	path := writeSnapshot(t, file).Path
	s, err := mvcc.Open(path, mvcc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tx := s.Begin(2, 1)
	tx.SetStorageVersion("3.8.0")
	tx.End()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	later, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return later
}

// A process that is killed cannot tidy up. What it leaves must not become an empty cluster.
func TestARestorationThatWasKilledIsNotTakenForAMember(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "member"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "member", restoringName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := Open(Config{DataDir: dir})
	if err == nil {
		closeNode(t, n)
	}
	if err == nil || !strings.Contains(err.Error(), "restoration was cut off") {
		t.Errorf("got %v", err)
	}
	if err := Restore(t.Context(), Config{DataDir: dir}, someSnapshot(t, "v")); err == nil {
		t.Error("it was restored into")
	}
	if got := fmt.Sprint(os.Stat(filepath.Join(dir, "member", restoringName))); strings.Contains(got, "no such") {
		t.Error("what was there is gone")
	}
}
