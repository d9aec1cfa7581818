package cache

import (
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"weir/grpcapi/wire"
)

// TestReadersSeeOnlyStatesThatWere has readers read while everything that a writer can do is done, each comparing what
// it sees with the store's contents of that revision.
func TestReadersSeeOnlyStatesThatWere(t *testing.T) {
	const revisions, readers = 3000, 4
	rnd := rand.New(rand.NewPCG(*seed, 1))
	store := newTestStore(t, rnd)
	var events [][]wire.Event // by revision
	events = append(events, nil, nil)
	for range revisions {
		events = append(events, store.write())
	}
	hashSeed := maphash.MakeSeed()
	hash := func(kvs [][]byte) uint64 {
		var h maphash.Hash
		h.SetSeed(hashSeed)
		for _, kv := range kvs {
			h.Write(kv)
		}
		return h.Sum64()
	}
	want := make([]uint64, len(events))
	for rev := range events {
		var kvs [][]byte
		for _, kv := range store.states[rev] {
			kvs = append(kvs, mustMarshal(t, kv))
		}
		want[rev] = hash(kvs)
	}

	s := NewLoader().Snapshot(1, 200_000)
	var done atomic.Bool
	var reading sync.WaitGroup
	for i := range uint64(readers) {
		reading.Go(func() {
			rnd := rand.New(rand.NewPCG(*seed, 2+i))
			newest, oldest := int64(0), int64(0)
			for last := false; !last; {
				last = done.Load()
				from, to := s.Oldest(), s.Revision()
				if from < oldest || to < newest {
					t.Errorf("from %d to %d after from %d to %d", from, to, oldest, newest)
					return
				}
				oldest, newest = from, to
				at := from + rnd.Int64N(max(1, to-from+1))
				if rnd.IntN(2) == 0 {
					at = 0
				}
				v, ok := s.View(at)
				if !ok {
					if at == 0 || at >= s.Oldest() {
						t.Errorf("no view at %d, which is in the window", at)
						return
					}
					continue // it went meanwhile
				}
				if at == 0 && v.Revision() < to {
					t.Errorf("newest view is of %d, after %d", v.Revision(), to)
					return
				}
				kvs, count := v.Range([]byte{0}, []byte{0}, 0)
				if rev := v.Revision(); hash(kvs) != want[rev] || int(count) != len(kvs) {
					t.Errorf("view at %d is not what was at %d", at, rev)
					return
				}
				if s.Bytes() < s.Keys() || s.HistoryBytes() < 0 {
					t.Error("fewer bytes than keys")
					return
				}
			}
		})
	}
	compacted := int64(0)
	for rev := int64(2); rev < int64(len(events)); rev++ {
		mustApply(t, s, rev, events[rev]...)
		switch rnd.IntN(20) {
		case 0:
			compacted = max(compacted, rev-rnd.Int64N(50))
			s.Forget(compacted)
		case 1:
			s.SetHistoryBytes(rnd.IntN(400_000))
		case 2:
			s.Advance(rev)
		}
	}
	done.Store(true)
	reading.Wait()
}
