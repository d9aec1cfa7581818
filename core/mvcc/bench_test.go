package mvcc

import (
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
)

const benchKeys = 100_000

func benchKey(i int) []byte {
	return fmt.Appendf(nil, "/registry/pods/namespace-%03d/pod-%08d", i%100, i)
}

var benchValue = make([]byte, 256)

// benchStore has benchKeys keys of 256 B.
func benchStore(b *testing.B) *Store {
	b.Helper()
	s := openTemp(b, Options{NoSync: true})
	fill(s, benchKeys)
	if err := s.Commit(); err != nil {
		b.Fatal(err)
	}
	return s
}

func fill(s *Store, n int) {
	for i := range n {
		e := s.Begin(uint64(i+1), 1)
		txn := e.Txn()
		txn.Put(benchKey(i), benchValue, 0)
		txn.Commit()
		e.End()
	}
}

// BenchmarkPut includes the work of the committer, but no waiting for a disk.
func BenchmarkPut(b *testing.B) {
	put := func(b *testing.B, s *Store, between func()) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			e := s.Begin(uint64(i+1), 1)
			txn := e.Txn()
			txn.Put(benchKey(i*7919%benchKeys), benchValue, 0)
			txn.Commit()
			e.End()
			between()
		}
	}
	b.Run("alone", func(b *testing.B) { put(b, benchStore(b), func() {}) })
	b.Run("a range read between each", func(b *testing.B) {
		s := benchStore(b)
		key := benchKey(1)
		put(b, s, func() {
			if _, err := s.Range(key, append(key, 0), RangeOptions{}); err != nil {
				b.Fatal(err)
			}
		})
	})
}

func BenchmarkRange(b *testing.B) {
	s := benchStore(b)
	b.Run("one key", func(b *testing.B) {
		b.ReportAllocs()
		var next atomic.Int64
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				res, err := s.Range(benchKey(int(next.Add(7919))%benchKeys), nil, RangeOptions{})
				if err != nil || res.Count != 1 {
					b.Error(res, err)
				}
			}
		})
	})
	for name, o := range map[string]RangeOptions{
		"100 keys of 1000": {Limit: 100}, "100 keys without total": {Limit: 100, NoTotal: true},
		"100 keys only": {Limit: 100, KeysOnly: true}, "count 1000": {CountOnly: true},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				res, err := s.Range([]byte("/registry/pods/namespace-042/"), []byte("/registry/pods/namespace-0420"), o)
				if err != nil || res.Count == 0 {
					b.Fatal(res.Count, err)
				}
			}
		})
	}
}

// BenchmarkHash is what a check of the members costs each of them.
func BenchmarkHash(b *testing.B) {
	s := benchStore(b)
	hash := func(b *testing.B) {
		for b.Loop() {
			if _, _, err := s.ComputeHash(b.Context(), 0); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchKeys, "ns/key")
	}
	b.Run("not compacted", hash)
	compact(b, s, s.Revision())
	b.Run("compacted", hash)
}

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "db")
	s := mustOpen(b, path, Options{NoSync: true})
	fill(s, benchKeys)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := mustOpen(b, path, Options{}).Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIndexMemory measures nothing in time: see B/key, beside the 40 bytes of the key itself.
func BenchmarkIndexMemory(b *testing.B) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	x := newTree()
	for i := range benchKeys {
		x.Set(string(benchKey(i*7919%benchKeys)), (*keyIndex)(nil).with(revision{main: int64(i)}, origin{1, 1}))
	}
	for b.Loop() {
	}
	b.ReportMetric(float64(heap()-before)/benchKeys, "B/key")
	runtime.KeepAlive(x)
}
