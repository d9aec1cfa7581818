package mvcc

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manual are options with which only the test decides what is committed when.
func manual() Options {
	return Options{BatchInterval: time.Hour, CompactionBatch: 3, CompactionSleep: time.Microsecond, NoSync: true}
}

func mustOpen(t testing.TB, path string, o Options) *Store {
	t.Helper()
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// openTemp opens a store that is closed when the test ends, and its file checked.
func openTemp(t testing.TB, o Options) *Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	s := mustOpen(t, path, o)
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("close: %v", err)
		}
		checkFile(t, path)
	})
	return s
}

// checkFile has bbolt look for damage.
func checkFile(t testing.TB, path string) {
	t.Helper()
	readFile(t, path, func(tx *bolt.Tx) {
		for err := range tx.Check() {
			t.Errorf("%s is damaged: %v", path, err)
		}
	})
}

func readFile(t testing.TB, path string, fn func(tx *bolt.Tx)) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.View(func(tx *bolt.Tx) error { fn(tx); return nil }); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// save writes a snapshot of the store to path, which it returns.
func save(t testing.TB, s *Store, path string) string {
	t.Helper()
	snapshot, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snapshot.Close()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = snapshot.WriteTo(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func put(s *Store, key, value string) {
	e := s.Begin(0, 0)
	defer e.End()
	txn := e.Txn()
	txn.Put([]byte(key), []byte(value), 0)
	txn.Commit()
}

func del(s *Store, key, end string) int64 {
	e := s.Begin(0, 0)
	defer e.End()
	txn := e.Txn()
	txn.DeleteRange([]byte(key), []byte(end))
	rev, _ := txn.Commit()
	return rev
}

// compact compacts at rev and waits until the file is clean.
func compact(t testing.TB, s *Store, rev int64) {
	t.Helper()
	e := s.Begin(0, 0)
	done, err := e.Compact(rev)
	e.End()
	if err != nil {
		t.Fatalf("compact at %d: %v", rev, err)
	}
	<-done
}
