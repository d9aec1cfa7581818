package wal

import (
	"sync"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

func benchmarkAppend(b *testing.B, writers int) {
	l, err := Create(b.TempDir(), []byte("benchmark"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 300)
	b.SetBytes(300)
	b.ReportAllocs()

	var mu sync.Mutex // indexes go up in the order of Append
	var index uint64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			durable := make(chan error, 1)
			for {
				mu.Lock()
				if index == uint64(b.N) {
					mu.Unlock()
					return
				}
				index++
				l.Append(nil, []*raftpb.Entry{{Term: new(uint64(1)), Index: new(index), Data: data}}, func(err error) { durable <- err })
				mu.Unlock()
				if err := <-durable; err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkOneWriter is the latency of a commit: each record waits for the one before it.
func BenchmarkOneWriter(b *testing.B) { benchmarkAppend(b, 1) }

// Benchmark64Writers is what group commit makes of it.
func Benchmark64Writers(b *testing.B) { benchmarkAppend(b, 64) }
