package cache

import (
	"math/rand/v2"
	"runtime"
	"testing"

	"weir/grpcapi/wire"
)

// liveHeap returns the bytes that are reachable.
func liveHeap() int {
	runtime.GC()
	runtime.GC() // what finalizers held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// checkNear fails unless counted is within a fifth of measured, give or take what the runtime does meanwhile.
func checkNear(t *testing.T, what string, counted, measured int) {
	t.Helper()
	t.Logf("%s: counted %d, measured %d", what, counted, measured)
	const noise = 8 << 10
	if d := counted - measured; max(d, -d) > measured/5+noise {
		t.Errorf("%s: counted %d bytes, measured %d", what, counted, measured)
	}
}

func TestMemoryIsAtMostHalfMoreThanKeysAndValues(t *testing.T) {
	const keys = 100_000
	before := liveHeap()
	s := loadBench(t, keys, 0)
	measured := liveHeap() - before
	payload := keys * (24 + 256)
	t.Logf("%d bytes a key, %.2f x key and value", measured/keys, float64(measured)/float64(payload))
	if measured > payload*3/2 {
		t.Errorf("%d bytes for %d of keys and values", measured, payload)
	}
	checkNear(t, "snapshot", s.Bytes(), measured)
	runtime.KeepAlive(s)
}

func TestBytesAreCountedHonestly(t *testing.T) {
	for _, c := range []struct {
		name               string
		keys, valueLen     int
		revisions, changes int
		deletes            bool
	}{
		{"small values, one change a revision", 20_000, 16, 5_000, 1, false},
		{"256 bytes, puts and deletions", 20_000, 256, 10_000, 1, true},
		{"large values, many changes a revision", 2_000, 10_000, 100, 50, true},
		{"few keys", 10, 300, 20_000, 1, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			const unbounded = 1 << 40
			rnd := rand.New(rand.NewPCG(1, 1))
			before := liveHeap()
			l := NewLoader()
			for i := range c.keys {
				if err := l.Add(benchKV(benchKey(i), 1, c.valueLen)); err != nil {
					t.Fatal(err)
				}
			}
			checkNear(t, "loader", l.Bytes(), liveHeap()-before)
			s := l.Snapshot(1, unbounded)
			loaded := liveHeap()
			checkNear(t, "loaded", s.Bytes(), loaded-before)

			for range c.revisions {
				rev := s.Revision() + 1
				var events []wire.Event
				for range c.changes {
					key := benchKey(rnd.IntN(2 * c.keys))
					if c.deletes && rnd.IntN(3) == 0 {
						events = append(events, wire.NewDeleteEvent(key, rev))
						continue
					}
					e, err := wire.NewPutEvent(benchKV(key, rev, c.valueLen))
					if err != nil {
						t.Fatal(err)
					}
					events = append(events, e)
				}
				if err := s.Apply(rev, events); err != nil {
					t.Fatal(err)
				}
			}
			withHistory, history := liveHeap(), s.HistoryBytes()
			checkNear(t, "with history", s.Bytes(), withHistory-before)
			s.SetHistoryBytes(0)
			without := liveHeap()
			checkNear(t, "without history", s.Bytes(), without-before)
			checkNear(t, "history", history, withHistory-without)
			runtime.KeepAlive(s)
		})
	}
}
