package coalesce

import (
	"sync"
	"testing"
)

// TestHubStatsTellWhatSinksTook has three watchers of the same keys: two on one stream, and a client that is slow.
func TestHubStatsTellWhatSinksTook(t *testing.T) {
	l := &log{}
	h := newStepped(l, 0, 1<<20, chunkBytes)
	defer h.Close()
	var all sync.WaitGroup // of nobody: no collector has a last revision
	fast, slow := newCollector(h.Hub, &all), newCollector(h.Hub, &all)
	for range 2 {
		fast.watch(t, Watch{Key: []byte("k")})
	}
	slow.watch(t, Watch{Key: []byte("k")})
	h.run()
	want := func(when string, want HubStats) {
		t.Helper()
		got := h.Stats()
		if got.RingBytes == 0 && want.Delivered > 0 {
			t.Errorf("%s: no memory is taken", when)
		}
		if got.RingBytes = 0; got != want {
			t.Errorf("%s: got %+v, want %+v", when, got, want)
		}
	}
	want("at first", HubStats{Feeds: 1, Streams: 2, Watchers: 3})

	h.feed.Publish(l.append("k", "other"), l.append("k"))
	h.run()
	want("after two events", HubStats{Feeds: 1, Streams: 2, Watchers: 3, Delivered: 6, Shared: 4})

	slow.drain(0)
	h.feed.Publish(l.append("k"))
	h.run()
	want("when one refuses", HubStats{Feeds: 1, Streams: 2, Watchers: 3, Behind: 1, Delivered: 8, Shared: 5})

	slow.drain(100)
	h.run()
	want("when it has caught up", HubStats{Feeds: 1, Streams: 2, Watchers: 3, Delivered: 9, Shared: 5})

	slow.stream.Close()
	want("when it is gone", HubStats{Feeds: 1, Streams: 1, Watchers: 2, Delivered: 9, Shared: 5})
	fast.stream.Close()
}
