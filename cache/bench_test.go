package cache

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"weir/grpcapi/wire"
)

// benchKey returns a key of 24 bytes.
func benchKey(i int) []byte { return fmt.Appendf(nil, "/registry/pods/%09d", i) }

func benchKV(key []byte, rev int64, valueLen int) []byte {
	value := make([]byte, valueLen)
	binary.BigEndian.PutUint64(value, uint64(rev))
	kv := wire.KeyValue{Key: key, Value: value, CreateRevision: 1_000_000, ModRevision: rev, Version: 7}
	return kv.Append(make([]byte, 0, kv.Size()))
}

// loadBench returns a Snapshot of n keys with values of 256 bytes, at revision n.
func loadBench(b testing.TB, n, historyBytes int) *Snapshot {
	b.Helper()
	l := NewLoader()
	for i := range n {
		if err := l.Add(benchKV(benchKey(i), int64(i+1), 256)); err != nil {
			b.Fatal(err)
		}
	}
	return l.Snapshot(int64(n), historyBytes)
}

func BenchmarkGet(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			s := loadBench(b, n, 0)
			rnd := rand.New(rand.NewPCG(1, 1))
			requests := make([]wire.RangeRequest, 1024)
			for i := range requests {
				requests[i].Key = benchKey(rnd.IntN(n))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				v, _ := s.View(0)
				a, err := v.Answer(&requests[i%len(requests)])
				if err != nil || len(a.KVs) != 1 {
					b.Fatal(a, err)
				}
			}
		})
	}
}

func BenchmarkRange(b *testing.B) {
	for _, c := range []struct {
		name         string
		keys, length int
		limit        int64
	}{
		{"100 of 10k keys", 10_000, 100, 0},
		{"10 of 1M keys, counted", 1_000_000, 1_000_000, 10},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := loadBench(b, c.keys, 0)
			from := benchKey((c.keys - c.length) / 2)
			end := benchKey((c.keys-c.length)/2 + c.length)
			b.ReportAllocs()
			for b.Loop() {
				v, _ := s.View(0)
				if _, count := v.Range(from, end, c.limit); count != int64(c.length) {
					b.Fatal(count)
				}
			}
		})
	}
}

// BenchmarkApply puts values of keys that are there, one a revision.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			s := loadBench(b, n, 16<<20)
			rnd := rand.New(rand.NewPCG(1, 1))
			var events []wire.Event
			for range 4096 {
				e, err := wire.NewPutEvent(benchKV(benchKey(rnd.IntN(n)), 1, 256))
				if err != nil {
					b.Fatal(err)
				}
				events = append(events, e)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				e := events[i%len(events)]
				rev := s.Revision() + 1
				e.ModRev = rev
				if err := s.Apply(rev, []wire.Event{e}); err != nil {
					b.Fatal(err)
				}
			}
			revisions := max(1, s.Revision()-s.Oldest())
			b.ReportMetric(float64(s.HistoryBytes())/float64(revisions), "historyB/rev")
		})
	}
}

func BenchmarkLoad(b *testing.B) {
	const keys = 100_000
	kvs := make([][]byte, keys)
	for i := range kvs {
		kvs[i] = benchKV(benchKey(i), int64(i+1), 256)
	}
	b.ReportAllocs()
	for b.Loop() {
		l := NewLoader()
		for _, kv := range kvs {
			if err := l.Add(kv); err != nil {
				b.Fatal(err)
			}
		}
		l.Snapshot(keys, 0)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*keys), "ns/key")
}
