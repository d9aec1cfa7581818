package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// filledStore is the content of a file whose trees have several levels, with pages that are free and values of several
// pages among the rest.
func filledStore(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	s := mustOpen(t, path, manual())
	for i := range 2000 {
		put(s, fmt.Sprintf("a rather long key so that branches fill up %d", i), strings.Repeat("v", i%300))
	}
	put(s, "large", strings.Repeat("v", 20<<10))
	for i := range 500 {
		tx := s.Begin(1, 1)
		tx.Put(BucketLease, fmt.Appendf(nil, "%08d", i), []byte("lease"))
		tx.Put(BucketMembers, []byte("1"), []byte("{}"))
		tx.End()
	}
	compact(t, s, 700)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openDamaged opens a store with the content, and fails unless that works or ends with one line that names the file.
func openDamaged(t *testing.T, content []byte) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	o := manual()
	o.mapSize = 64 << 20 // more than there is, as in production: what is read beyond the end faults
	s, err := Open(path, o)
	if err == nil {
		_ = s.Close()
		return nil
	}
	if !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	return err
}

func TestEveryDamagedPageOfATreeIsFoundAndNamed(t *testing.T) {
	content := filledStore(t)
	if err := openDamaged(t, content); err != nil {
		t.Fatal(err)
	}
	size := os.Getpagesize()
	used := map[int]bool{} // the first page of each run
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = db.View(func(tx *bolt.Tx) error {
		for page := 2; ; {
			info, err := tx.Page(page)
			if err != nil || info == nil {
				return err
			}
			used[page] = info.Type == "leaf" || info.Type == "branch"
			page += 1 + info.OverflowCount
		}
	})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for page, used := range used {
		if !used {
			continue
		}
		for name, damage := range map[string]func(b []byte){
			"zeros":             func(b []byte) { clear(b) },
			"another page":      func(b []byte) { copy(b, content[(page^1)*size:][:size]) },
			"half of it":        func(b []byte) { clear(b[:len(b)/2]) },
			"no kind":           func(b []byte) { b[8] = 4 },
			"a key far away":    func(b []byte) { b[23], b[19] = 0x7f, 0x7f },
			"too many elements": func(b []byte) { b[10], b[11] = 0xff, 0xff },
			"too many pages":    func(b []byte) { b[14] = 0xff },
		} {
			damaged := append([]byte(nil), content...)
			damage(damaged[page*size:][:size])
			err := openDamaged(t, damaged)
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("page %d, at byte %d: ", page, page*size)) {
				t.Errorf("page %d, %s: got %v", page, name, err)
			}
		}
	}
}

func TestAFileThatWasCutOffIsRefused(t *testing.T) {
	content := filledStore(t)
	for _, n := range []int{1, 4096, 8192, 12288, len(content) / 2} {
		if err := openDamaged(t, content[:n]); err == nil {
			t.Errorf("a file of %d bytes instead of %d was opened", n, len(content))
		}
	}
}

// Whatever is in the file, opening it ends with a store or with an error, never with the process.
func TestNoDamageEndsTheProcess(t *testing.T) {
	content := filledStore(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		damaged := append([]byte(nil), content...)
		for range 1 + rng.IntN(3) {
			at := 2*os.Getpagesize() + rng.IntN(len(content)-3*os.Getpagesize())
			for i := range 1 << rng.IntN(12) {
				damaged[at+i] = byte(rng.Uint32())
			}
		}
		_ = openDamaged(t, damaged)
	}
}

// What cannot be read while it is mapped faults, as it does when the disk fails.
func TestFaultsAndPanicsAreErrors(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a mapped file cannot be cut there")
	}
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, filledStore(t), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := os.Truncate(path, 2*int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	read := func() error {
		return db.View(func(tx *bolt.Tx) error {
			_, err := loadIndex(t.Context(), newTree(), tx.Bucket(bucketKey.name()))
			return err
		})
	}
	for want, fn := range map[string]func() error{
		"a part of it cannot be read": read,
		"page 1: no":                  func() error { panic("page 1: no") },
	} {
		if err := guarded(Options{}.withDefaults().Logger, fn); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// What a file loses while it is in use is found by whatever reads all of it.
func TestDamageThatAppearsLaterEndsCommitsWithAnError(t *testing.T) {
	for name, read := range map[string]func(*Store) error{
		"defragmentation": (*Store).Defragment,
		"compaction": func(s *Store) error {
			e := s.Begin(1, 1)
			defer e.End()
			_, err := e.Compact(s.Revision())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "defragmentation" && runtime.GOOS == "windows" {
				t.Skip("there is none there")
			}
			path := filepath.Join(t.TempDir(), "db")
			content := filledStore(t)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			s := mustOpen(t, path, manual())
			defer s.Close()
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			size := int64(os.Getpagesize())
			for at, key := 0, []byte("branches fill up 1500"); ; at += len(key) {
				next := bytes.Index(content[at:], key)
				if next < 0 {
					break
				}
				at += next
				if _, err := f.WriteAt(make([]byte, size), int64(at)/size*size); err != nil {
					t.Fatal(err)
				}
			}
			if err := read(s); err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("got %v", err)
			}
			if err := <-s.Failed(); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Errorf("it failed with %v", err)
			}
		})
	}
}
