package mvcc

import (
	"bytes"
	"context"
	"errors"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// TestHashKVIsEtcds holds what etcd 3.7.3 answers for this history.
func TestHashKVIsEtcds(t *testing.T) {
	s := openTemp(t, manual())
	put(s, "a", "1")
	put(s, "b", "2")
	del(s, "a", "")
	put(s, "b", "3")
	check := func(rev int64, want uint32, wantCompact, wantRev int64) {
		t.Helper()
		hash, current, err := s.HashKV(t.Context(), rev)
		if err != nil || hash != (KVHash{want, wantCompact, wantRev}) || current != 5 {
			t.Errorf("at %d: got %v, newest %d, %v", rev, hash, current, err)
		}
	}
	for range 2 { // pending, then in the file
		check(0, 779336658, -1, 5)
		check(3, 1827592406, -1, 3)
		check(4, 1562576432, -1, 4)
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	compact(t, s, 4)
	check(0, 533074032, 4, 5)
	check(4, 1562576432, -1, 4) // what the compaction computed
	compact(t, s, 5)
	check(5, 533074032, 4, 5)
	check(0, 533074032, 5, 5)
	if got, want := s.CompactionHashes(), []KVHash{{533074032, 4, 5}, {1562576432, -1, 4}}; !slices.Equal(got, want) {
		t.Errorf("of compactions: %v, want %v", got, want)
	}
	if _, _, err := s.HashKV(t.Context(), 3); !errors.Is(err, ErrCompacted) {
		t.Errorf("at 3: %v", err)
	}
	if _, _, err := s.HashKV(t.Context(), 6); !errors.Is(err, ErrFutureRev) {
		t.Errorf("at 6: %v", err)
	}
}

func TestAHashThatNobodyWaitsForEnds(t *testing.T) {
	s := openTemp(t, manual())
	for range hashPause {
		put(s, "a", "1")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := s.HashKV(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestHashIsOfContentAlone(t *testing.T) {
	one, two := openTemp(t, manual()), openTemp(t, manual())
	for i, s := range []*Store{one, two} {
		s.Begin(uint64(i+1), uint64(i+1)).End()
		put(s, "a", "1")
	}
	if err := one.Defragment(); err != nil {
		t.Fatal(err)
	}
	a, rev, err := one.Hash()
	b, _, err2 := two.Hash()
	if err != nil || err2 != nil || a != b || rev != 2 {
		t.Errorf("got %d and %d at %d; %v %v", a, b, rev, err, err2)
	}
	e := two.Begin(0, 0)
	e.Put(BucketCluster, []byte("x"), []byte("y"))
	e.End()
	if b, _, err = two.Hash(); err != nil || a == b {
		t.Errorf("got %d for both; %v", b, err)
	}
}

func TestSnapshotIsTheStoreOfItsTime(t *testing.T) {
	s := openTemp(t, manual())
	put(s, "a", "1")
	s.Begin(7, 1).End()
	snapshot, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	put(s, "b", "2")
	del(s, "a", "")
	compact(t, s, 4)
	if err := s.Defragment(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	n, err := snapshot.WriteTo(&out)
	if err != nil || n != snapshot.Size() || int64(out.Len()) != n || snapshot.Applied().Index != 7 {
		t.Errorf("wrote %d, size %d, %d bytes, applied %v, %v", n, snapshot.Size(), out.Len(), snapshot.Applied(), err)
	}
	if err := snapshot.Close(); err != nil {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	checkFile(t, path)
	restored := mustOpen(t, path, manual())
	defer restored.Close()
	res, err := restored.Range([]byte("\x00"), []byte("\x00"), RangeOptions{})
	if err != nil || res.Count != 1 || res.Revision != 2 || restored.Applied().Index != 7 {
		t.Errorf("restored: %v, applied %v, %v", res, restored.Applied(), err)
	}
}

// A snapshot may be read for minutes, by a client that is slow.
func TestASnapshotThatStaysOpenHoldsNobodyUpWhenItsFileIsReplaced(t *testing.T) {
	s := openTemp(t, manual())
	put(s, "a", "1")
	snapshot, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	put(s, "b", "2")
	if err := s.Commit(); err != nil { // the next reader has a transaction of its own
		t.Fatal(err)
	}
	view := s.View()
	for range 3 {
		if err := s.Defragment(); err != nil {
			t.Fatal(err)
		}
	}
	view.Close()
	if res, err := s.Range([]byte("b"), nil, RangeOptions{}); err != nil || res.Count != 1 {
		t.Errorf("read %v, %v", res, err)
	}
	if err := snapshot.Close(); err != nil {
		t.Error(err)
	}
}

func TestDefragmentShrinksTheFile(t *testing.T) {
	s := openTemp(t, manual())
	for range 100 {
		put(s, "a", string(make([]byte, 10_000)))
	}
	compact(t, s, s.Revision())
	before := s.Size()
	if before-s.SizeInUse() < 500_000 {
		t.Errorf("size %d, in use %d", before, s.SizeInUse())
	}
	if err := s.Defragment(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(s.path)
	if err != nil {
		t.Fatal(err)
	}
	if s.Size() >= before/2 || info.Size() < s.Size() {
		t.Errorf("size was %d, is %d, on disk %d", before, s.Size(), info.Size())
	}
	put(s, "a", "1")
	if err := s.Commit(); err != nil {
		t.Error(err)
	}
}

func TestFailedDefragmentChangesNothing(t *testing.T) {
	s := openTemp(t, manual())
	put(s, "a", "1")
	path := s.path
	s.path = filepath.Join(path, "no-directory") // the file next to which the new one is made
	if err := s.Defragment(); err == nil {
		t.Error("no error")
	}
	s.path = path
	put(s, "b", "1")
	if err := s.Commit(); err != nil {
		t.Error(err)
	}
	res, err := s.Range([]byte("a"), []byte("c"), RangeOptions{})
	if err != nil || res.Count != 2 {
		t.Errorf("got %v %v", res, err)
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
}

func TestOpenRemovesInterruptedDefragmentation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path+".tmp.123", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, path, manual())
	defer s.Close()
	if _, err := os.Stat(path + ".tmp.123"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// TestInterruptedCompactionIsResumed stops a compaction after its first transaction: by a crash, which leaves the
// file as it is, and by Close. Opened again, it ends as if nothing had been.
func TestInterruptedCompactionIsResumed(t *testing.T) {
	for i := range 20 {
		run := modelRun{t: t, seed: *seed + int64(i), options: manual(), dir: t.TempDir()}
		run.rand = rand.New(rand.NewSource(run.seed))
		run.options.CompactionBatch, run.options.CompactionSleep = 1, time.Hour
		run.path = run.newPath()
		run.store, run.model = mustOpen(t, run.path, run.options), newModel()
		for run.model.rev < 12 {
			run.entry()
		}
		s := run.store
		size := func() (n int) {
			st, err := s.acquire()
			if err != nil {
				t.Fatal(err)
			}
			defer st.tx.release()
			return st.tx.keys.Stats().KeyN
		}
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
		all := size()
		run.model.compact = run.model.rev - 3
		e := s.Begin(0, 0)
		done, err := e.Compact(run.model.compact)
		e.End()
		if err != nil {
			t.Fatal(err)
		}
		for size() == all {
			time.Sleep(100 * time.Microsecond) // until the first transaction; then the compaction pauses
		}
		run.committed = run.model.clone()
		select {
		case <-done:
			t.Fatal("done already")
		default:
		}
		run.options.CompactionSleep = time.Microsecond
		crashed := run
		crashed.path = run.newPath()
		copyFile(t, run.path, crashed.path)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, r := range []*modelRun{&run, &crashed} {
			r.store = mustOpen(t, r.path, r.options)
			r.compare()
			// Its turn comes after the one that is resumed.
			e := r.store.Begin(0, 0)
			done, err := e.Compact(r.model.compact)
			e.End()
			if !errors.Is(err, ErrCompacted) {
				t.Errorf("got %v", err)
			}
			<-done
			if err := r.store.Close(); err != nil {
				t.Error(err)
			}
			checkFile(t, r.path)
			r.compareFile()
			readFile(t, r.path, func(tx *bolt.Tx) {
				finished, err := readCompactRev(tx, metaFinishedCompact)
				if err != nil || finished != r.model.compact {
					t.Errorf("finished %d, want %d, %v", finished, r.model.compact, err)
				}
			})
		}
		if t.Failed() {
			t.Fatalf("to repeat: -args -seed %d\n%v", run.seed, run.trace)
		}
	}
}
