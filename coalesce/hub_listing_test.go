package coalesce

import (
	"fmt"
	"slices"
	"sync"
	"testing"
)

func everySink(Sink) bool { return true }

// show is what is listed, in short.
func show(listed []Listed) (all []string) {
	for _, l := range listed {
		all = append(all, fmt.Sprintf("%d.%d %s", l.Stream, l.ID, l.Key))
	}
	return all
}

func TestWatchesAreListedInPagesInOrder(t *testing.T) {
	l := &log{}
	h := newStepped(l, 0, 1<<20, chunkBytes)
	defer h.Close()
	var all sync.WaitGroup
	for s := range 3 {
		c := newCollector(h.Hub, &all)
		defer c.stream.Close()
		for id := range 4 {
			// The last come first: ids need not be in the order in which watches came.
			w := &Watcher{ID: int64(3 - id)}
			if err := c.stream.Watch(t.Context(), w, Watch{Key: fmt.Appendf(nil, "%c%d", 'a'+s, 3-id)}, h.Arrive()); err != nil {
				t.Fatal(err)
			}
		}
	}
	var paged []string
	after := Listed{ID: -1}
	for {
		page := h.List(after, 5, func(l *Listed) bool { return l.Key != "b2" })
		if len(page) == 0 {
			break
		}
		paged = append(paged, show(page)...)
		after = page[len(page)-1]
	}
	want := []string{"1.0 a0", "1.1 a1", "1.2 a2", "1.3 a3", "2.0 b0", "2.1 b1", "2.3 b3", "3.0 c0", "3.1 c1", "3.2 c2", "3.3 c3"}
	if !slices.Equal(paged, want) {
		t.Errorf("got %v\nwant %v", paged, want)
	}
}

func TestAllOfManyWatchesAreListedWhileOthersGo(t *testing.T) {
	l := &log{}
	h := newStepped(l, 0, 1<<20, chunkBytes)
	defer h.Close()
	var all sync.WaitGroup
	c := newCollector(h.Hub, &all)
	defer c.stream.Close()
	const many = 3*listedAtOnce + 7
	watchers := make([]*Watcher, many)
	for i := range watchers {
		watchers[i] = &Watcher{ID: int64(i)}
		if err := c.stream.Watch(t.Context(), watchers[i], Watch{Key: []byte("k")}, h.Arrive()); err != nil {
			t.Fatal(err)
		}
	}
	looked := 0
	listed := c.stream.list(many, func(l *Listed) bool {
		looked++
		return l.ID%2 == 0
	})
	if len(listed) != (many+1)/2 || looked != many {
		t.Fatalf("%d of %d watches are listed", len(listed), looked)
	}
	// One that goes leaves its place to the last, which has been looked at.
	found, end := c.stream.listSome(-1, nil, func(*Listed) bool { return true })
	for _, w := range watchers[:listedAtOnce] {
		c.stream.Cancel(w)
	}
	seen := map[int64]bool{}
	for end != 0 {
		found, end = c.stream.listSome(end, found, func(*Listed) bool { return true })
	}
	for _, l := range found {
		seen[l.ID] = true
	}
	for _, w := range watchers[listedAtOnce:] {
		if !seen[w.ID] {
			t.Fatalf("watch %d is missing, which was there all the time", w.ID)
		}
	}
}

func TestSlowestWatchesAreThoseThatLackMost(t *testing.T) {
	l := &log{}
	h := newStepped(l, 0, 1<<20, chunkBytes)
	defer h.Close()
	var all sync.WaitGroup
	fast, slow, slower := newCollector(h.Hub, &all), newCollector(h.Hub, &all), newCollector(h.Hub, &all)
	for _, c := range []*collector{fast, slow, slower} {
		defer c.stream.Close()
		c.watch(t, Watch{Key: []byte("k")})
	}
	h.run()
	if s := h.Slowest(5, everySink); len(s) != 0 {
		t.Errorf("at first: got %v", s)
	}
	slower.drain(0)
	h.feed.Publish(l.append("k"))
	h.run()
	slow.drain(0)
	h.feed.Publish(l.append("k"), l.append("k"))
	h.run()
	got := h.Slowest(5, everySink)
	if len(got) != 2 || got[0].Sink != slower || got[0].Missing != 3 || got[1].Sink != slow || got[1].Missing != 2 || got[1].Reached != 1 {
		t.Errorf("got %+v", got)
	}
	if got := h.Slowest(1, everySink); len(got) != 1 || got[0].Sink != slower {
		t.Errorf("the slowest: got %+v", got)
	}
	others := func(s Sink) bool { return s != slower }
	if got := h.Slowest(1, others); len(got) != 1 || got[0].Sink != slow {
		t.Errorf("the slowest of the others: got %+v", got)
	}
	if streams, watches, behind := h.Count(others); streams != 2 || watches != 2 || behind != 1 {
		t.Errorf("of the others: %d streams, %d watches, %d behind", streams, watches, behind)
	}
}
