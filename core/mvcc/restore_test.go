package mvcc

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func statusOf(t *testing.T, s *Store) FileStatus {
	t.Helper()
	status, err := StatusOf(save(t, s, filepath.Join(t.TempDir(), "saved")), manual())
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func TestStatusCountsTheKeysThatHaveAValue(t *testing.T) {
	s := openTemp(t, manual())
	empty := statusOf(t, s)
	if empty.Revision != 0 || empty.Keys != 0 || empty.Version != storageVersion {
		t.Errorf("of an empty store: %+v", empty)
	}
	put(s, "a", "1")
	put(s, "b", "1")
	put(s, "a", "2")
	del(s, "b", "")
	full := statusOf(t, s)
	if full.Revision != s.Revision() || full.Keys != 1 || full.Hash == empty.Hash || full.Size <= 0 {
		t.Errorf("of a store at revision %d: %+v", s.Revision(), full)
	}
}

func TestStatusIsOfAFileThatIsWholeAndNotInUse(t *testing.T) {
	s := worlds(t, 100)
	path := save(t, s, filepath.Join(t.TempDir(), "saved"))
	if _, err := StatusOf(path+"x", manual()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	o := manual()
	o.LockTimeout = 1
	if _, err := StatusOf(s.path, o); !errors.Is(err, ErrLocked) {
		t.Errorf("in use: %v", err)
	}
	if err := os.Truncate(path, int64(2*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if _, err := StatusOf(path, manual()); !errors.Is(err, ErrDamaged) {
		t.Errorf("cut off: %v", err)
	}
}

func TestSkippedRevisionsAreInAPastThatIsGivenUp(t *testing.T) {
	s := openTemp(t, manual())
	put(s, "a", "1")
	del(s, "a", "")
	put(s, "b", "1")
	was := s.Revision()
	skip := func(n int64) error {
		tx := s.Begin(100, 1)
		defer tx.End()
		return tx.Skip(n)
	}
	for _, n := range []int64{0, -1, maxRevision} {
		if err := skip(n); err == nil {
			t.Errorf("skipped %d", n)
		}
	}
	if s.Revision() != was {
		t.Fatalf("revision %d, was %d", s.Revision(), was)
	}
	if err := skip(1000); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if s.Revision() != was+1000 || s.CompactRevision() != was+1000 {
			t.Errorf("revision %d, compacted at %d", s.Revision(), s.CompactRevision())
		}
		r, err := s.Range([]byte("a"), []byte("c"), RangeOptions{})
		if err != nil || len(r.KVs) != 1 || r.Revision != was+1000 {
			t.Errorf("range: %+v, %v", r, err)
		}
		if _, err := s.Range([]byte("b"), nil, RangeOptions{Revision: was + 999}); !errors.Is(err, ErrCompacted) {
			t.Errorf("before: %v", err)
		}
		path := s.path
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, path, manual())
	}
	put(s, "b", "2")
	if s.Revision() != was+1001 {
		t.Errorf("the next revision is %d", s.Revision())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
