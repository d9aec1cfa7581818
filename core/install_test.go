package core

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/core/auth"
	"weir/core/lease"
	"weir/core/mvcc"
	"weir/core/wal"
	"weir/grpcapi/wire"
)

// snapshotStory is a member at an early state, and a snapshot of what becomes of it.
type snapshotStory struct {
	t     *testing.T
	early string // the data directory then, of a member that has ended
	saved string // the snapshot's file
	at    mvcc.Applied

	revision, compacted int64
	members             []*pb.Member
}

func cheapPasswords(c *Config) { c.Auth.BcryptCost = 4 }

// tellSnapshotStory has everything change that a member keeps in memory of its store.
func tellSnapshotStory(t *testing.T) *snapshotStory {
	t.Helper()
	s := &snapshotStory{t: t, early: t.TempDir(), saved: filepath.Join(t.TempDir(), "saved")}
	n := openNode(t, s.early, cheapPasswords)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k"), Value: []byte("early")})
	mustGrant(t, n, 1, 100)
	mustPut(t, n, &pb.PutRequest{Key: []byte("early"), Lease: 1})
	if _, err := n.Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 5, Alarm: pb.AlarmType_CORRUPT}); err != nil {
		t.Fatal(err)
	}
	closeNode(t, n)
	late := filepath.Join(t.TempDir(), "late")
	if err := os.CopyFS(late, os.DirFS(s.early)); err != nil {
		t.Fatal(err)
	}

	n = openNode(t, late, cheapPasswords)
	defer closeNode(t, n)
	clear := &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: 5, Alarm: pb.AlarmType_CORRUPT}
	raise := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 6, Alarm: pb.AlarmType_NOSPACE}
	for _, r := range []*pb.AlarmRequest{clear, raise} {
		if _, err := n.Alarm(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	clear.MemberID, clear.Alarm = 6, pb.AlarmType_NOSPACE // for the writes below
	if _, err := n.Alarm(t.Context(), clear); err != nil {
		t.Fatal(err)
	}
	if _, err := n.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 1}); err != nil {
		t.Fatal(err)
	}
	mustGrant(t, n, 2, 1000)
	mustPut(t, n, &pb.PutRequest{Key: []byte("late"), Lease: 2})
	for _, v := range []string{"x", "y", "z"} {
		mustPut(t, n, &pb.PutRequest{Key: []byte("k"), Value: []byte(v)})
	}
	checkpoints := leaseCheckpoints{{ID: 2, Remaining: 400, Granted: storedLease(t, n, 2).Granted}, {ID: 1, Remaining: 50}}
	if _, err := n.propose(t.Context(), kindLeaseCheckpoint, auth.Identity{}, checkpoints.encode(), checkpoints); err != nil {
		t.Fatal(err)
	}
	s.compacted = n.store.Revision() - 1
	if _, err := n.Compact(t.Context(), &pb.CompactionRequest{Revision: s.compacted, Physical: true}); err != nil {
		t.Fatal(err)
	}
	s.members = mustAddLearner(t, n, "http://127.0.0.1:1").Members
	if _, err := downgrade(t, n, pb.DowngradeRequest_ENABLE, "3.6"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Alarm(t.Context(), raise); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		errOf(n.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "root", Password: "pw"})),
		errOf(n.RoleAdd(t.Context(), &pb.AuthRoleAddRequest{Name: "root"})),
		errOf(n.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})),
		errOf(n.AuthEnable(t.Context(), &pb.AuthEnableRequest{})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s.revision = n.store.Revision()
	s.save(n)
	return s
}

func (s *snapshotStory) save(n *Node) {
	s.t.Helper()
	snapshot, err := n.store.Snapshot()
	if err != nil {
		s.t.Fatal(err)
	}
	defer snapshot.Close()
	s.at = snapshot.Applied()
	f, err := os.Create(s.saved)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = snapshot.WriteTo(f)
	if err := errors.Join(err, f.Close()); err != nil {
		s.t.Fatal(err)
	}
}

// receive puts the snapshot where a member in dir receives it.
func (s *snapshotStory) receive(dir string) {
	s.t.Helper()
	content, err := os.ReadFile(s.saved)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "member", incomingName), content, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// atRest opens what is in a member's data directory, as Open does, without anything going on.
func atRest(t *testing.T, dir string, change ...func(*Config)) *Node {
	t.Helper()
	cfg := Config{DataDir: dir}
	for _, f := range change {
		f(&cfg)
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	cheapPasswords(&cfg)
	n := &Node{cfg: cfg, logger: cfg.Logger, queue: newRequestQueue(1), metrics: newNodeMetrics()}
	recovered, err := n.openFiles()
	if err == nil {
		err = n.finishInstall(recovered)
	}
	t.Cleanup(func() {
		if n.hub != nil {
			n.hub.Close()
		}
		if err := n.closeFiles(); err != nil && !errors.Is(err, mvcc.ErrClosed) && !errors.Is(err, fs.ErrClosed) {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	readState(t, n)
	return n
}

// readState makes of what is in the store what a member keeps in memory of it, and what carries requests out.
func readState(t *testing.T, n *Node) {
	t.Helper()
	var err error
	if n.alarms, err = loadAlarms(n.store); err != nil {
		t.Fatal(err)
	}
	if n.members, err = loadMembers(n.store); err != nil {
		t.Fatal(err)
	}
	if n.version, err = loadClusterVersion(n.store); err != nil {
		t.Fatal(err)
	}
	if n.agreement, err = loadAgreement(n.store, newestLevel); err != nil {
		t.Fatal(err)
	}
	if n.leases, err = loadLeases(n.store, n.cfg); err != nil {
		t.Fatal(err)
	}
	if n.auth, err = loadAuth(n.store, n.cfg); err != nil {
		t.Fatal(err)
	}
	var feed *coalesce.Feed
	n.hub, feed = coalesce.NewStoreHub(history{n.store}, n.store.Revision, n.cfg.HistoryBytes)
	n.applier = &applier{store: n.store, leases: n.leases, alarms: n.alarms, auth: n.auth, members: n.members, version: n.version, agreement: n.agreement,
		guard: guard{auth: n.auth, leases: n.leases, writers: leaseWriters{}}, hub: n.hub, feed: feed, metrics: n.metrics, header: n.headerAt}
}

func (s *snapshotStory) install(n *Node) error {
	at := &raftpb.SnapshotMetadata{Index: proto.Uint64(s.at.Index), Term: proto.Uint64(s.at.Term), ConfState: s.at.ConfState}
	r, err := n.readSnapshot(s.t.Context(), n.incomingPath(), at)
	if err != nil {
		return err
	}
	return n.installSnapshot(r, &raftpb.HardState{Term: at.Term, Commit: at.Index})
}

// wantLate checks that everything is as the snapshot has it.
func (s *snapshotStory) wantLate(n *Node) {
	t := s.t
	t.Helper()
	res, err := n.store.Range([]byte("k"), nil, mvcc.RangeOptions{})
	if err != nil || len(res.KVs) != 1 {
		t.Fatalf("%d values, %v", len(res.KVs), err)
	}
	var kv wire.KeyValue
	if err := kv.Unmarshal(res.KVs[0]); err != nil || string(kv.Value) != "z" {
		t.Errorf("value %q, %v", kv.Value, err)
	}
	if n.store.Revision() != s.revision || n.store.CompactRevision() != s.compacted {
		t.Errorf("revision %d, compacted %d; want %d, %d", n.store.Revision(), n.store.CompactRevision(), s.revision, s.compacted)
	}
	if a := n.store.Applied(); a.Index != s.at.Index || a.Term != s.at.Term {
		t.Errorf("applied %v, want %v", a, s.at)
	}
	if n.leases.Exists(1) || n.leases.LeaseOf([]byte("early")) != 0 || n.leases.LeaseOf([]byte("late")) != 2 {
		t.Error("the leases are not those of the snapshot")
	}
	n.leases.Promote(0)
	if l, err := n.leases.TimeToLive(2, false); err != nil || l.TTL != 1000 || l.Remaining < 398 || l.Remaining > 400 {
		t.Errorf("lease %v, %v", l, err)
	}
	n.leases.Demote()
	if n.alarms.has(pb.AlarmType_CORRUPT) || !n.alarms.has(pb.AlarmType_NOSPACE) || len(n.alarms.list(pb.AlarmType_NONE)) != 1 {
		t.Errorf("alarms %v", n.alarms.list(pb.AlarmType_NONE))
	}
	if got := n.members.list(); len(got) != len(s.members) {
		t.Errorf("members %v, want %v", got, s.members)
	}
	if _, info := n.version.get(); !info.Enabled || info.TargetVersion != "3.6.0" {
		t.Errorf("downgrade %v", info)
	}
	if got := n.auth.Users(); !slices.Equal(got, []string{"root"}) || !n.auth.Enabled() {
		t.Errorf("users %v, enabled: %v", got, n.auth.Enabled())
	}
}

// wantEarly checks that nothing is.
func (s *snapshotStory) wantEarly(n *Node) {
	s.t.Helper()
	if n.store.Revision() >= s.revision || !n.leases.Exists(1) || len(n.auth.Users()) != 0 || !n.alarms.has(pb.AlarmType_CORRUPT) {
		s.t.Error("the state is not what it was")
	}
	if _, err := os.Stat(n.incomingPath()); !errors.Is(err, fs.ErrNotExist) {
		s.t.Errorf("a snapshot that is not to be installed is left: %v", err)
	}
}

func TestASnapshotReplacesStoreLogAndMemory(t *testing.T) {
	s := tellSnapshotStory(t)
	n := atRest(t, s.early)
	n.applier.guard.writers.add(1, leaseWriter{revision: 1})
	s.receive(s.early)
	if err := s.install(n); err != nil {
		t.Fatal(err)
	}
	s.wantLate(n)
	if n.applier.feed.Revision() != s.revision || n.hub.Revision() != s.revision {
		t.Errorf("watchers are at %d", n.applier.feed.Revision())
	}
	if len(n.applier.guard.writers) != 0 {
		t.Error("who may write the keys of a lease is still believed")
	}
	// The next entry is carried out on it, and goes into the log behind it.
	tx := n.store.Begin(s.at.Index+1, s.at.Term)
	if _, err := n.applier.leaseGrant(tx, &pb.LeaseGrantRequest{ID: 3, TTL: 10}); err != nil {
		t.Fatal(err)
	}
	tx.End()
	appended := make(chan error, 1)
	entry := &raftpb.Entry{Index: proto.Uint64(s.at.Index + 1), Term: proto.Uint64(s.at.Term), Type: raftpb.EntryNormal.Enum()}
	n.log.Append(nil, []*raftpb.Entry{entry}, func(err error) { appended <- err })
	if err := <-appended; err != nil {
		t.Fatal(err)
	}
	n.hub.Close()
	if err := n.closeFiles(); err != nil {
		t.Fatal(err)
	}

	log, recovered, err := wal.Open(filepath.Join(s.early, "member", "wal"), wal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if recovered.Snapshot != (wal.Snapshot{Index: s.at.Index, Term: s.at.Term}) || recovered.FirstIndex != s.at.Index+1 ||
		len(recovered.Entries) != 1 || recovered.HardState.GetCommit() != s.at.Index {
		t.Errorf("the log has %v and %d entries from %d on, %v", recovered.Snapshot, len(recovered.Entries), recovered.FirstIndex, recovered.HardState)
	}
	n = atRest(t, s.early)
	if !n.leases.Exists(3) || n.store.Applied().Index != s.at.Index+1 {
		t.Error("what was applied after the snapshot is lost")
	}
}

// watchSink notes what its watchers are told.
type watchSink struct {
	events   chan int64 // revisions
	canceled chan error
	rechecks int
}

func (s *watchSink) Created(*coalesce.Watcher, int64) {}

func (s *watchSink) Deliver(_ *coalesce.Watcher, m *coalesce.Message) bool {
	for _, e := range m.Events {
		s.events <- e.ModRev
	}
	return true
}

func (s *watchSink) Progress(*coalesce.Watcher, int64, int) bool { return true }

func (s *watchSink) Canceled(_ *coalesce.Watcher, reason error) { s.canceled <- reason }

func (s *watchSink) Recheck() { s.rechecks++ }

func (s *watchSink) Ended(error) {}

func TestWatchersGoOnAfterASnapshotOrAreCancelledAsCompacted(t *testing.T) {
	s := tellSnapshotStory(t)
	n := atRest(t, s.early)
	sink := &watchSink{events: make(chan int64, 100), canceled: make(chan error, 100)}
	stream := n.hub.NewStream(sink)
	for _, start := range []int64{0, s.compacted} {
		if err := stream.Watch(t.Context(), new(coalesce.Watcher), coalesce.Watch{Key: []byte("k"), Start: start}, n.hub.Arrive()); err != nil {
			t.Fatal(err)
		}
	}
	s.receive(s.early)
	if err := s.install(n); err != nil {
		t.Fatal(err)
	}
	var compacted *coalesce.CompactedError
	if err := <-sink.canceled; !errors.As(err, &compacted) || compacted.CompactRevision != s.compacted {
		t.Errorf("the one that lacks what is compacted: %v", err)
	}
	for _, want := range []int64{s.compacted, s.revision} {
		if got := <-sink.events; got != want {
			t.Errorf("revision %d, want %d", got, want)
		}
	}
	if sink.rechecks != 1 {
		t.Errorf("who may watch was asked %d times", sink.rechecks)
	}
	stream.Close()
	n.hub.Close()
	if len(sink.canceled)+len(sink.events) != 0 {
		t.Errorf("told more: %d events, %d cancelled", len(sink.events), len(sink.canceled))
	}
}

// TestACrashDuringAnInstallationLeavesTheOldStateOrTheNew takes what is on disk after each step, and starts with that.
func TestACrashDuringAnInstallationLeavesTheOldStateOrTheNew(t *testing.T) {
	s := tellSnapshotStory(t)
	for _, c := range []struct {
		name  string
		until func(n *Node) error
		late  bool
	}{
		{"when the snapshot has come", func(*Node) error { return nil }, false},
		{"when the file has been read", func(n *Node) error {
			file, err := n.store.Load(t.Context(), n.incomingPath(), s.at.Index, s.at.Term)
			if err != nil {
				return err
			}
			return file.Close()
		}, false},
		{"when the log has been replaced", func(n *Node) error { return n.log.Replace(s.at.Index, s.at.Term, nil) }, true},
		{"when it has been installed", s.install, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(dir, os.DirFS(s.early)); err != nil {
				t.Fatal(err)
			}
			s.receive(dir)
			before := openedWithout(t, dir)
			if err := c.until(before); err != nil {
				t.Fatal(err)
			}
			crashed := filepath.Join(t.TempDir(), "crashed")
			if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			want := s.wantEarly
			if c.late {
				want = s.wantLate
			}
			for range 2 { // the second time nothing is left to be done
				n := atRest(t, crashed)
				want(n)
				n.hub.Close()
				if err := n.closeFiles(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// openedWithout is atRest for a member whose snapshot must not be removed as left over.
func openedWithout(t *testing.T, dir string) *Node {
	t.Helper()
	path, hidden := filepath.Join(dir, "member", incomingName), filepath.Join(dir, "hidden")
	if err := os.Rename(path, hidden); err != nil {
		t.Fatal(err)
	}
	n := atRest(t, dir)
	if err := os.Rename(hidden, path); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAnInstallationGivesUpNothingForADamagedSnapshot(t *testing.T) {
	s := tellSnapshotStory(t)
	for name, damage := range map[string]func(t *testing.T, path string){
		"cut off": func(t *testing.T, path string) {
			if err := os.Truncate(path, 20000); err != nil {
				t.Fatal(err)
			}
		},
		"missing": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"a lease that is none": func(t *testing.T, path string) {
			store, err := mvcc.Open(path, mvcc.Options{})
			if err != nil {
				t.Fatal(err)
			}
			tx := store.Begin(0, 0)
			tx.Put(mvcc.BucketLease, leaseKey(9), lease.AppendRecord(nil, lease.Record{ID: 9, TTL: lease.MaxTTL + 1}))
			tx.End()
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(dir, os.DirFS(s.early)); err != nil {
				t.Fatal(err)
			}
			s.receive(dir)
			n := openedWithout(t, dir)
			damage(t, n.incomingPath())
			if err := s.install(n); err == nil {
				t.Fatal("it was installed")
			}
			n.hub.Close()
			if err := n.closeFiles(); err != nil {
				t.Fatal(err)
			}
			s.wantEarly(atRest(t, dir))
		})
	}
}

func TestAnInstallationIsNotFinishedWithAnotherSnapshot(t *testing.T) {
	s := tellSnapshotStory(t)
	s.receive(s.early)
	n := openedWithout(t, s.early)
	if err := n.log.Replace(s.at.Index+3, s.at.Term, nil); err != nil {
		t.Fatal(err)
	}
	recovered := &wal.Recovered{Snapshot: wal.Snapshot{Index: s.at.Index + 3, Term: s.at.Term}}
	if err := n.finishInstall(recovered); err == nil || !strings.Contains(err.Error(), "the log wants one of entry") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(n.incomingPath()); err != nil {
		t.Error(err)
	}
	if err := os.Remove(n.incomingPath()); err != nil {
		t.Fatal(err)
	}
	if err := n.finishInstall(recovered); err != nil { // which is found when store and log are compared
		t.Error(err)
	}
	recovered.FirstIndex = s.at.Index + 4
	if _, err := n.checkFiles(recovered, n.store.Applied()); err == nil {
		t.Error("a store from before what the log begins with was taken")
	}
}
