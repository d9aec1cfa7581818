package coalesce

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"weir/grpcapi/wire"
)

// BenchmarkFeedAtRest reports the bytes that a feed with one watcher and a short history takes.
func BenchmarkFeedAtRest(b *testing.B) {
	const feeds = 2000
	for b.Loop() {
		hub, r := newRouted(&log{}, 0, FeedConfig{})
		c := newCollector(hub.Hub, nil)
		watchers := make([]Watcher, feeds)
		before := heapBytes()
		all := make([]*Feed, feeds)
		for i := range all {
			all[i] = hub.NewFeed(FeedConfig{Source: &log{}, RingBytes: 1000})
			r.to = []*Feed{all[i]}
			if err := c.stream.Watch(b.Context(), &watchers[i], Watch{Key: []byte("k"), End: []byte("l")}, 0); err != nil {
				b.Fatal(err)
			}
			all[i].Publish(Batch{Revision: 1, Events: []wire.Event{putEvent("k", 1, 20)}})
			hub.run()
		}
		b.ReportMetric(float64(heapBytes()-before)/feeds, "B/feed")
		runtime.KeepAlive(watchers)
		c.stream.Close()
		hub.Close()
	}
}

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkMove moves 100,000 watchers, and reports the longest that the lock was held for.
func BenchmarkMove(b *testing.B) {
	const watchers = 100_000
	for _, single := range []bool{false, true} {
		b.Run(fmt.Sprintf("single=%v", single), func(b *testing.B) {
			hub, r := newRouted(&log{}, 2, FeedConfig{})
			from, to := r.to[0], r.to[1]
			r.to = r.to[:1]
			c := newCollector(hub.Hub, nil)
			for i := range watchers {
				o := Watch{Key: []byte("k"), End: []byte("l"), Start: 1}
				if single {
					o = Watch{Key: fmt.Append(nil, "k", i), Start: 1}
				}
				if err := c.stream.Watch(b.Context(), &Watcher{}, o, 0); err != nil {
					b.Fatal(err)
				}
			}
			longest, last := time.Duration(0), time.Now()
			hub.pause = func() { longest, last = max(longest, time.Since(last)), time.Now() }
			for b.Loop() {
				last = time.Now()
				from.Move(everything, to)
				hub.run()
				from, to = to, from
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/watchers, "ns/watcher")
			b.ReportMetric(float64(longest.Microseconds()), "us-longest")
			c.stream.Close()
			hub.Close()
		})
	}
}
