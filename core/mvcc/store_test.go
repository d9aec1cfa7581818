package mvcc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/raft/v3/raftpb"
)

func TestNewStoreLooksLikeNewEtcd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := mustOpen(t, path, Options{NoSync: true})
	if s.Revision() != 1 || s.CompactRevision() != -1 || !reflect.DeepEqual(s.Applied(), Applied{}) {
		t.Errorf("revision %d, compact revision %d, applied %v", s.Revision(), s.CompactRevision(), s.Applied())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	readFile(t, path, func(tx *bolt.Tx) {
		for _, name := range []string{
			"alarm", "auth", "authRoles", "authUsers", "cluster", "key", "lease", "members", "members_removed", "meta",
		} {
			if tx.Bucket([]byte(name)) == nil {
				t.Errorf("no bucket %s", name)
			}
		}
		if v := tx.Bucket([]byte("meta")).Get([]byte("storageVersion")); string(v) != "3.7.0" {
			t.Errorf("storage version %q", v)
		}
	})
}

func TestMetaIsInEtcdsFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	s := mustOpen(t, path, Options{NoSync: true})
	e := s.Begin(0x1234, 5)
	auto := true
	e.SetConfState(&raftpb.ConfState{Voters: []uint64{1, 2}, AutoLeave: &auto})
	e.SetStorageVersion("3.6.0")
	if _, err := e.Compact(1); err != nil {
		t.Fatal(err)
	}
	e.End()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	readFile(t, path, func(tx *bolt.Tx) {
		for key, want := range map[string]string{
			"consistent_index":    "\x00\x00\x00\x00\x00\x00\x12\x34",
			"term":                "\x00\x00\x00\x00\x00\x00\x00\x05",
			"confState":           `{"voters":[1,2],"auto_leave":true}`,
			"storageVersion":      "3.6.0",
			"scheduledCompactRev": "\x00\x00\x00\x00\x00\x00\x00\x01_\x00\x00\x00\x00\x00\x00\x00\x00",
		} {
			if got := tx.Bucket([]byte("meta")).Get([]byte(key)); string(got) != want {
				t.Errorf("%s: got %q, want %q", key, got, want)
			}
		}
	})
}

func TestSecondOpenFailsWithErrLocked(t *testing.T) {
	s := openTemp(t, manual())
	o := manual()
	o.LockTimeout = time.Millisecond
	if _, err := Open(s.path, o); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), s.path) {
		t.Errorf("got %v", err)
	}
}

func TestOpenRefusesWhatIsNoStore(t *testing.T) {
	write := func(bucket, key, value string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			db, err := bolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			err = db.Update(func(tx *bolt.Tx) error {
				b, err := tx.CreateBucketIfNotExists([]byte(bucket))
				if err != nil {
					return err
				}
				return b.Put([]byte(key), []byte(value))
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	rev := string(revision{main: 2}.appendKey(nil))
	for name, c := range map[string]struct {
		make func(t *testing.T, path string)
		want string
	}{
		"no bbolt file": {func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("nonsense", 2000)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "invalid database"},
		"directory":          {func(t *testing.T, path string) { _ = os.Mkdir(path, 0o700) }, "is a directory"},
		"key not a revision": {write("key", "x", ""), "78 is not a revision"},
		"revision too large": {write("key", "\xff"+rev[1:], ""), "out of range"},
		"value malformed":    {write("key", rev, "\x0a\xff"), "revision 2.0"},
		"index too short":    {write("meta", "consistent_index", "1"), "consistent_index: 1 bytes"},
		"no JSON":            {write("meta", "confState", "{"), "read confState"},
		"no compact rev":     {write("meta", "finishedCompactRev", "1"), "read finishedCompactRev"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			c.make(t, path)
			s, err := Open(path, manual())
			if err == nil {
				_ = s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want it to say %q and the path", err, c.want)
			}
		})
	}
}

func TestClosedStoreAnswersErrClosed(t *testing.T) {
	s := openTemp(t, manual())
	put(s, "a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	v := s.View()
	defer v.Close()
	_, _, hashErr := s.Hash()
	_, _, hashKVErr := s.HashKV(t.Context(), 0)
	_, rangeErr := s.Range([]byte("a"), nil, RangeOptions{})
	_, viewErr := v.Range([]byte("a"), []byte("b"), RangeOptions{})
	_, historyErr := s.History([]byte("a"), nil, 0, nil)
	_, snapshotErr := s.Snapshot()
	for name, err := range map[string]error{
		"Close": s.Close(), "Commit": s.Commit(), "Defragment": s.Defragment(), "Hash": hashErr, "HashKV": hashKVErr,
		"Range": rangeErr, "View": viewErr, "History": historyErr, "Snapshot": snapshotErr,
		"LeasedKeys": s.LeasedKeys(nil), "ForEach": s.ForEach(BucketLease, nil),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if s.Prev([]byte("a"), 3) != nil || s.Applied().Index != 0 {
		t.Error("something is left")
	}
}

// TestWriteErrorStopsCommitsAndIsReported makes bbolt refuse a batch.
func TestWriteErrorStopsCommitsAndIsReported(t *testing.T) {
	for name, mapSize := range map[string]int64{"mapped ahead": 0, "readers shut out": 1 << 15} {
		t.Run(name, func(t *testing.T) {
			o := manual()
			o.BatchBytes, o.mapSize = 1, mapSize
			s := mustOpen(t, filepath.Join(t.TempDir(), "db"), o)
			e := s.Begin(1, 1)
			e.Put(BucketMembers, make([]byte, bolt.MaxKeySize+1), nil)
			txn := e.Txn()
			txn.Put([]byte("a"), []byte("1"), 0)
			txn.Commit()
			e.End()
			err := <-s.Failed()
			if err == nil || !strings.Contains(err.Error(), s.path) {
				t.Errorf("failed with %v", err)
			}
			if got := s.Commit(); !errors.Is(got, err) {
				t.Errorf("commit: got %v, want %v", got, err)
			}
			put(s, "b", "2") // does not wait for room
			if err := s.Defragment(); !errors.Is(err, err) {
				t.Errorf("defragment: %v", err)
			}
			if a := s.Applied(); a.Index != 0 {
				t.Errorf("applied %v, but nothing was committed", a)
			}
			res, rangeErr := s.Range([]byte("a"), []byte("c"), RangeOptions{})
			if rangeErr != nil || res.Count != 2 {
				t.Errorf("what was applied is to be read until the process ends: %v %v", res, rangeErr)
			}
			if got := s.Close(); !errors.Is(got, err) {
				t.Errorf("close: got %v, want %v", got, err)
			}
		})
	}
}

func TestWriterWaitsWhenBatchIsFull(t *testing.T) {
	o := manual()
	o.BatchBytes = 4 << 10
	s := openTemp(t, o)
	for i := range 2000 {
		e := s.Begin(uint64(i+1), 1)
		if s.batch.bytes >= o.BatchBytes {
			t.Fatalf("%d bytes wait, the bound is %d", s.batch.bytes, o.BatchBytes)
		}
		txn := e.Txn()
		txn.Put([]byte("a"), make([]byte, 300), 0)
		txn.Commit()
		e.End()
	}
	if s.Applied().Index == 0 {
		t.Error("nothing was committed")
	}
}

func TestBatchIsCommittedWhenItHasAsManyChangesAsConfigured(t *testing.T) {
	s := openTemp(t, Options{BatchInterval: time.Hour, BatchChanges: 3, NoSync: true})
	for i := range 2 { // 2 revisions, 2 keys of a bucket
		e := s.Begin(uint64(i+1), 1)
		txn := e.Txn()
		txn.Put([]byte("a"), nil, 0)
		txn.Commit()
		e.Put(BucketAlarm, []byte{byte(i)}, nil)
		e.End()
	}
	for deadline := time.Now().Add(10 * time.Second); s.Applied().Index != 2; {
		if time.Now().After(deadline) {
			t.Fatal("nothing was committed")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestBatchIsCommittedAfterInterval(t *testing.T) {
	s := openTemp(t, Options{BatchInterval: time.Millisecond, NoSync: true})
	e := s.Begin(7, 1)
	e.End()
	deadline := time.Now().Add(10 * time.Second)
	for s.Applied().Index != 7 {
		if time.Now().After(deadline) {
			t.Fatal("not committed")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestBucketsAreKept(t *testing.T) {
	s := openTemp(t, manual())
	e := s.Begin(1, 1)
	key := []byte("k1")
	e.Put(BucketAlarm, key, nil)
	e.Put(BucketAuth, key, []byte("v"))
	key[1] = '2' // the store has its own copy
	e.Put(BucketAuth, key, []byte("w"))
	e.Delete(BucketAuth, key)
	e.End()
	if err := s.Defragment(); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, b := range []Bucket{BucketAlarm, BucketAuth, BucketLease} {
		err := s.ForEach(b, func(k, v []byte) error {
			got[fmt.Sprintf("%s/%s", b, k)] = string(v)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if want := map[string]string{"alarm/k1": "", "auth/k1": "v"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestCallersMemoryIsNotKept changes what was given to Put.
func TestCallersMemoryIsNotKept(t *testing.T) {
	s := openTemp(t, manual())
	e := s.Begin(1, 1)
	txn := e.Txn()
	key, value := []byte("a"), []byte("1")
	txn.Put(key, value, 0)
	key[0], value[0] = 'x', 'x'
	txn.Commit()
	e.End()
	for range 2 { // from memory, from the file
		res, err := s.Range([]byte("\x00"), []byte("\x00"), RangeOptions{})
		if err != nil || res.Count != 1 || !strings.Contains(string(res.KVs[0]), "a") || strings.Contains(string(res.KVs[0]), "x") {
			t.Errorf("got %q %v", res.KVs, err)
		}
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMappingIsNeverOverestimated: if the committer believed more to be mapped than is, it would not shut out the store's own
// transaction, and bbolt would wait for that for ever.
func TestMappingIsNeverOverestimated(t *testing.T) {
	o := manual()
	o.mapSize = 1 << 15
	s := openTemp(t, o)
	value := make([]byte, 1<<20)
	for i := range 150 {
		e := s.Begin(uint64(i+1), 1)
		txn := e.Txn()
		txn.Put(fmt.Appendf(nil, "%d", i%60), value[:(i*7919)%len(value)], 0)
		rev, _ := txn.Commit()
		var done <-chan struct{}
		if i%20 == 19 {
			var err error
			if done, err = e.Compact(rev - 10); err != nil {
				t.Fatal(err)
			}
		}
		e.End()
		if done != nil {
			<-done
		}
		var mapped, believed int64
		err := s.committer.do(func() error {
			err := s.committer.commit(nil)
			mapped = reflect.ValueOf(s.committer.db).Elem().FieldByName("datasz").Int()
			believed = s.committer.mapped
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if mapped < believed {
			t.Fatalf("%d bytes are mapped, not %d", mapped, believed)
		}
	}
}
