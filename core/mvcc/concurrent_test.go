package mvcc

import (
	"errors"
	"fmt"
	"math/rand"
	"path/filepath"
	"reflect"
	"strconv"
	"sync"
	"testing"
	"time"

	"weir/grpcapi/wire"
)

// In this history the revision alone tells the state: every fifth revision deletes all keys, every other one puts all
// of them with the revision as value.
const worldKeys = 16

func writeWorld(s *Store, index uint64) (rev int64) {
	e := s.Begin(index, 1)
	defer e.End()
	txn := e.Txn()
	if next := txn.Revision() + 1; next%5 == 0 {
		txn.DeleteRange([]byte("k"), []byte("l"))
	} else {
		for i := range worldKeys {
			txn.Put(fmt.Appendf(nil, "k%02d", i), strconv.AppendInt(nil, next, 10), 0)
		}
	}
	rev, _ = txn.Commit()
	return rev
}

// checkWorld says whether res is the whole world at revision rev.
func checkWorld(res RangeResult, rev int64) error {
	want := wire.KeyValue{ModRevision: rev, Value: strconv.AppendInt(nil, rev, 10), CreateRevision: max(2, rev/5*5+1)}
	want.Version = rev - want.CreateRevision + 1
	if rev == 1 || rev%5 == 0 {
		if res.Count != 0 || len(res.KVs) != 0 {
			return fmt.Errorf("at revision %d: %d keys, want none", rev, res.Count)
		}
		return nil
	}
	if res.Count != worldKeys || len(res.KVs) != worldKeys {
		return fmt.Errorf("at revision %d: %d of %d keys, want %d", rev, len(res.KVs), res.Count, worldKeys)
	}
	for i, b := range res.KVs {
		var got wire.KeyValue
		if err := got.Unmarshal(b); err != nil {
			return err
		}
		want.Key = fmt.Appendf(nil, "k%02d", i)
		if !reflect.DeepEqual(got, want) {
			return fmt.Errorf("at revision %d: got %v, want %v", rev, got, want)
		}
	}
	return nil
}

// installAhead replaces the store, which is at index, by what it is some entries later, and returns the index then.
func installAhead(t *testing.T, s *Store, index, entries uint64) uint64 {
	dir := t.TempDir()
	fork := mustOpen(t, save(t, s, filepath.Join(dir, "fork")), manual())
	defer fork.Close()
	for end := index + entries; index < end; {
		index++
		writeWorld(fork, index)
	}
	next, err := s.Load(t.Context(), save(t, fork, filepath.Join(dir, "incoming")), index, 1)
	if err == nil {
		err = s.Install(next)
	}
	if err != nil {
		t.Error(err)
	}
	return index
}

// TestReadersSeeOneStateWhileAllElseGoesOn reads in every way while one goroutine writes and others compact, commit
// and defragment, and now and then the store is replaced.
func TestReadersSeeOneStateWhileAllElseGoesOn(t *testing.T) {
	o := Options{BatchInterval: time.Millisecond, BatchBytes: 64 << 10, CompactionBatch: 50, CompactionSleep: time.Millisecond, NoSync: true}
	t.Run("mapped ahead", func(t *testing.T) { testReaders(t, o) })
	o.mapSize = 1 << 15
	t.Run("mapped as needed", func(t *testing.T) { testReaders(t, o) })
}

func testReaders(t *testing.T, o Options) {
	s := openTemp(t, o)
	written := make(chan struct{})
	var tasks sync.WaitGroup
	each := func(fns ...func(r *rand.Rand) error) {
		r := rand.New(rand.NewSource(*seed))
		tasks.Go(func() {
			for done := false; !done; {
				select {
				case <-written:
					done = true // once more
				default:
				}
				for _, fn := range fns {
					if err := fn(r); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	all := func(v interface {
		Range(key, end []byte, o RangeOptions) (RangeResult, error)
	}, o RangeOptions) (RangeResult, error) {
		return v.Range([]byte("k"), []byte("l"), o)
	}
	views := func(r *rand.Rand) error { // at any revision that they have
		v := s.View()
		defer v.Close()
		for range 4 {
			rev := v.Revision() - r.Int63n(v.Revision()-max(1, v.CompactRevision())+1)
			res, err := all(v, RangeOptions{Revision: rev})
			if err == nil {
				err = checkWorld(res, rev)
			}
			if err != nil {
				return fmt.Errorf("view: %w", err)
			}
		}
		return nil
	}
	ranges := func(r *rand.Rand) error { // at the newest revision, and at one that may get lost meanwhile
		res, err := all(s, RangeOptions{})
		if err == nil {
			err = checkWorld(res, res.Revision)
		}
		if err != nil {
			return fmt.Errorf("range: %w", err)
		}
		rev := max(1, res.Revision-r.Int63n(60))
		if res, err = all(s, RangeOptions{Revision: rev}); err == nil {
			err = checkWorld(res, rev)
		}
		if err != nil && !errors.Is(err, ErrCompacted) {
			return fmt.Errorf("range in the past: %w", err)
		}
		return nil
	}
	gets := func(r *rand.Rand) error {
		res, err := s.Range([]byte("k03"), nil, RangeOptions{})
		if err != nil {
			return fmt.Errorf("get: %w", err)
		}
		var kv wire.KeyValue
		if want := res.Revision > 1 && res.Revision%5 != 0; want != (res.Count == 1) {
			return fmt.Errorf("get at %d: count %d", res.Revision, res.Count)
		} else if want {
			if err := kv.Unmarshal(res.KVs[0]); err != nil || kv.ModRevision != res.Revision {
				return fmt.Errorf("get at %d: %v %w", res.Revision, kv, err)
			}
		}
		return nil
	}
	history := func(r *rand.Rand) error {
		from := max(2, s.CompactRevision()+r.Int63n(20))
		expect := from
		_, err := s.History([]byte("k"), []byte("l"), from, func(rev int64, events []wire.Event) bool {
			if rev != expect || len(events) != worldKeys || events[0].Delete != (rev%5 == 0) {
				t.Errorf("history: revision %d with %d events, expected %d", rev, len(events), expect)
			}
			expect++
			return true
		})
		if err != nil && !errors.Is(err, ErrCompacted) {
			return err
		}
		return nil
	}
	known := map[KVHash]uint32{}
	hashes := func(r *rand.Rand) error { // which do not depend on how far a compaction is
		rev := max(s.CompactRevision(), s.Revision()-r.Int63n(10))
		hash, _, err := s.HashKV(t.Context(), rev)
		if errors.Is(err, ErrCompacted) {
			return nil
		}
		at := KVHash{Compact: hash.Compact, Revision: hash.Revision}
		if was, ok := known[at]; err == nil && ok && was != hash.Hash {
			err = fmt.Errorf("hash %v was %d before", hash, was)
		}
		known[at] = hash.Hash
		return err
	}
	maintenance := func(r *rand.Rand) error {
		switch r.Intn(10) {
		case 0:
			return s.Defragment()
		case 1:
			_, _, err := s.Hash()
			return err
		}
		return s.Commit()
	}
	each(views, history)
	each(ranges, gets, hashes)
	each(maintenance)

	var compacted []<-chan struct{}
	for index := uint64(1); index < 250; index++ {
		rev := writeWorld(s, index)
		if index%25 == 0 {
			e := s.Begin(index, 1)
			done, err := e.Compact(rev - int64(index%7)*5)
			e.End()
			if err != nil {
				t.Errorf("compact: %v", err)
			}
			compacted = append(compacted, done)
		}
		if index%60 == 0 {
			index = installAhead(t, s, index, 20)
		}
	}
	for _, done := range compacted {
		<-done
	}
	close(written)
	tasks.Wait()
}

// TestViewOutlivesEverything reads from a view of a state of which nothing else is left.
func TestViewOutlivesEverything(t *testing.T) {
	s := openTemp(t, manual())
	for index := range uint64(8) {
		writeWorld(s, index)
	}
	v := s.View()
	defer v.Close()
	del(s, "\x00", "\x00")
	compact(t, s, del(s, "\x00", "\x00"))
	if err := s.Defragment(); err != nil {
		t.Fatal(err)
	}
	for rev := int64(1); rev <= 9; rev++ {
		res, err := v.Range([]byte("k"), []byte("l"), RangeOptions{Revision: rev})
		if err == nil {
			err = checkWorld(res, rev)
		}
		if err != nil {
			t.Error(err)
		}
	}
}
