package mvcc

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// worlds is a store with worlds up to an entry, each as of one revision more. See writeWorld.
func worlds(t *testing.T, entries uint64) *Store {
	t.Helper()
	s := openTemp(t, manual())
	for index := range entries {
		writeWorld(s, index+1)
	}
	return s
}

// load loads a copy of a store to replace s.
func load(t *testing.T, s, from *Store) *Replacement {
	t.Helper()
	path := save(t, from, filepath.Join(filepath.Dir(s.path), "incoming"))
	applied := from.Applied()
	r, err := s.Load(t.Context(), path, applied.Index, applied.Term)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func install(t *testing.T, s, from *Store) {
	t.Helper()
	if err := s.Install(load(t, s, from)); err != nil {
		t.Fatal(err)
	}
}

func wantWorld(t *testing.T, v interface {
	Range(key, end []byte, o RangeOptions) (RangeResult, error)
}, rev int64) {
	t.Helper()
	res, err := v.Range([]byte("k"), []byte("l"), RangeOptions{Revision: rev})
	if err == nil {
		err = checkWorld(res, rev)
	}
	if err != nil {
		t.Error(err)
	}
}

func TestInstalledStoreIsServedAndOpenedNext(t *testing.T) {
	s, later := worlds(t, 3), worlds(t, 8)
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	install(t, s, later)
	if got := s.Applied(); s.Revision() != 9 || got.Index != 8 || got.Term != 1 {
		t.Errorf("revision %d, applied %v", s.Revision(), got)
	}
	for rev := int64(1); rev <= 9; rev++ {
		wantWorld(t, s, rev)
	}
	if size := later.Size(); s.Size() != size {
		t.Errorf("size %d, want %d", s.Size(), size)
	}
	writeWorld(s, 9)
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, s.path, manual())
	defer s.Close()
	wantWorld(t, s, 10)
	if s.Applied().Index != 9 {
		t.Errorf("applied %v", s.Applied())
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(s.path), "incoming")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file that was installed is still where it was: %v", err)
	}
}

func TestReadersOfAReplacedStoreReadOn(t *testing.T) {
	s, later := worlds(t, 3), worlds(t, 8)
	writeWorld(s, 4) // committed by Snapshot
	snapshot, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snapshot.Close()
	writeWorld(s, 5) // never
	v := s.View()
	defer v.Close()
	install(t, s, later)
	if err := s.Defragment(); err != nil {
		t.Fatal(err)
	}
	for rev := int64(1); rev <= 6; rev++ {
		wantWorld(t, v, rev)
	}
	var saved bytes.Buffer
	if _, err := snapshot.WriteTo(&saved); err != nil || snapshot.Applied().Index != 4 {
		t.Errorf("applied %v, %v", snapshot.Applied(), err)
	}
	path := filepath.Join(t.TempDir(), "saved")
	if err := os.WriteFile(path, saved.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	old := mustOpen(t, path, manual())
	defer old.Close()
	wantWorld(t, old, 5)
}

func TestWhatIsLoadedCanBeReadBeforeItIsInstalled(t *testing.T) {
	s, later := worlds(t, 3), openTemp(t, manual())
	e := later.Begin(7, 2)
	e.Put(BucketAlarm, []byte("alarm"), []byte("value"))
	e.SetConfState(&raftpb.ConfState{Voters: []uint64{5}})
	txn := e.Txn()
	txn.Put([]byte("x"), []byte("1"), 99)
	txn.Put([]byte("y"), []byte("1"), 0)
	txn.Commit()
	e.End()
	for range 5 {
		put(later, "z", "1")
	}
	compact(t, later, 3)

	r := load(t, s, later)
	if a := r.Applied(); a.Index != 7 || a.Term != 2 || a.ConfState.Voters[0] != 5 {
		t.Errorf("applied %v", a)
	}
	if r.Revision() != 7 || r.CompactRevision() != 3 {
		t.Errorf("revision %d, compacted %d", r.Revision(), r.CompactRevision())
	}
	var found []string
	note := func(k, v []byte) error {
		found = append(found, string(k)+"="+string(v))
		return nil
	}
	if err := r.ForEach(BucketAlarm, note); err != nil {
		t.Fatal(err)
	}
	err := r.LeasedKeys(func(key []byte, lease int64) error {
		if lease == 99 {
			found = append(found, string(key))
		}
		return nil
	})
	if got := strings.Join(found, " "); err != nil || got != "alarm=value x" {
		t.Errorf("%s, %v", got, err)
	}
	wantWorld(t, s, 4) // goes on
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	wantWorld(t, s, 4)
}

func TestLoadRefusesWhatIsNotTheSnapshot(t *testing.T) {
	s, later := worlds(t, 5), worlds(t, 8)
	dir := t.TempDir()
	good := save(t, later, filepath.Join(dir, "good"))
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		path        string
		index, term uint64
		want        string
	}{
		"of another entry":   {good, 7, 1, "as of entry 8 of term 1"},
		"of another term":    {good, 8, 2, "as of entry 8 of term 1"},
		"of another history": {save(t, worlds(t, 3), filepath.Join(dir, "old")), 3, 1, "not of one history"},
		"missing":            {filepath.Join(dir, "missing"), 8, 1, "no such file"},
		"cut off":            {file("short", content[:len(content)/2]), 8, 1, "damaged"},
		"no store":           {file("text", bytes.Repeat([]byte("text "), 5000)), 8, 1, ""},
		"empty":              {file("empty", nil), 8, 1, "as of entry 0"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := s.Load(t.Context(), c.path, c.index, c.term); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file was made: %v", err)
	}
	over, end := context.WithCancel(t.Context())
	end()
	if _, err := s.Load(over, good, 8, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("one that nobody wants any more: %v", err)
	}
	r, err := s.Load(t.Context(), good, 8, 1) // nothing has kept it locked
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	wantWorld(t, s, 6)
}

func TestFailedInstallLeavesTheStoreAsItWas(t *testing.T) {
	s, later := worlds(t, 3), worlds(t, 8)
	r := load(t, s, later)
	if err := os.Remove(r.db.Path()); err != nil {
		t.Fatal(err)
	}
	if err := s.Install(r); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	wantWorld(t, s, 4)
	writeWorld(s, 4)
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	install(t, s, later)
	wantWorld(t, s, 9)
}

func TestInstallIntoAClosedOrFailedStoreFails(t *testing.T) {
	later := worlds(t, 8)
	s := worlds(t, 3)
	r := load(t, s, later)
	e := s.Begin(4, 1)
	e.Fail(errors.New("cannot be applied"))
	if err := s.Install(r); err == nil || !strings.Contains(err.Error(), "cannot be applied") {
		t.Errorf("failed store: %v", err)
	}
	_ = s.Close()

	s = worlds(t, 3)
	r = load(t, s, later)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Install(r); !errors.Is(err, ErrClosed) {
		t.Errorf("closed store: %v", err)
	}
}

// TestInstallDuringMaintenance replaces stores that are being compacted, defragmented and saved, and checks that everybody is
// answered, and that nothing of the old file's maintenance was done to the new one.
func TestInstallDuringMaintenance(t *testing.T) {
	for round := range 20 {
		s, later := worlds(t, 40), worlds(t, 60)
		e := s.Begin(0, 0)
		first, err := e.Compact(20)
		e.End()
		if err != nil {
			t.Fatal(err)
		}
		if round%2 == 0 { // the new file has a compaction to finish, else it was never compacted
			e = later.Begin(0, 0)
			_, err = e.Compact(50)
			e.End()
			if err != nil {
				t.Fatal(err)
			}
		}
		r := load(t, s, later)
		e = s.Begin(0, 0)
		second, err := e.Compact(30)
		e.End()
		if err != nil {
			t.Fatal(err)
		}
		var tasks sync.WaitGroup
		tasks.Go(func() {
			if err := s.Defragment(); err != nil {
				t.Error(err)
			}
		})
		tasks.Go(func() {
			if snapshot, err := s.Snapshot(); err != nil {
				t.Error(err)
			} else {
				_ = snapshot.Close()
			}
		})
		if err := s.Install(r); err != nil {
			t.Fatal(err)
		}
		<-first
		<-second
		tasks.Wait()
		from := int64(1)
		if round%2 == 0 {
			from = 50
		}
		if got := max(1, s.CompactRevision()); got != from {
			t.Errorf("compacted to %d, want %d", got, from)
		}
		for rev := from; rev <= 61; rev++ {
			wantWorld(t, s, rev)
		}
		hash, _, err := s.HashKV(t.Context(), 55)
		want, _, laterErr := later.HashKV(t.Context(), 55)
		if err := errors.Join(err, laterErr); err != nil || hash != want {
			t.Errorf("hash %v, want %v: %v", hash, want, err)
		}
		writeWorld(s, 61)
		compact(t, s, 62)
		wantWorld(t, s, 62)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAppliedInLooksIntoAFile(t *testing.T) {
	s := worlds(t, 8)
	path := save(t, s, filepath.Join(t.TempDir(), "saved"))
	if a, err := AppliedIn(path, manual()); err != nil || a.Index != 8 || a.Term != 1 {
		t.Errorf("%v, %v", a, err)
	}
	if _, err := AppliedIn(path+"x", manual()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	o := manual()
	o.LockTimeout = 1
	if _, err := AppliedIn(s.path, o); !errors.Is(err, ErrLocked) {
		t.Errorf("open: %v", err)
	}
	if err := os.WriteFile(path, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := AppliedIn(path, manual()); err == nil {
		t.Error("no store")
	}
}
