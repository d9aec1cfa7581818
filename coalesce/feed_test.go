package coalesce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"weir/grpcapi/wire"
)

// router is a Feeder that sends watches where the test says. Sync publishes that there was no event.
type router struct {
	mu    sync.Mutex
	to    []*Feed // the next Find gets the first; the last stays
	err   error
	now   int64
	syncs int
}

func (r *router) Arrive() Arrival { return 0 }

func (r *router) Find(context.Context, Watch, Arrival) (*Feed, int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, 0, r.err
	}
	f := r.to[0]
	if len(r.to) > 1 {
		r.to = r.to[1:]
	}
	return f, r.now, nil
}

func (r *router) Now(context.Context, Arrival) int64 { return 0 }

func (r *router) Sync(_ context.Context, f *Feed, _ Arrival, _ int64) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.syncs++
	f.Publish(Batch{Revision: r.now})
	return r.now, nil
}

// newRouted makes a hub with some feeds over the same log.
func newRouted(l Source, feeds int, cfg FeedConfig) (*stepped, *router) {
	r := &router{}
	h := &stepped{Hub: newHub(r, chunkBytes, streamWindow, fewWatchers)}
	h.start = func(step func() bool) { h.tasks = append(h.tasks, step) }
	h.pause = func() {}
	cfg.Source = l
	for range feeds {
		r.to = append(r.to, h.NewFeed(cfg))
	}
	return h, r
}

var (
	everything = Range{Key: []byte{0}, End: []byte{0}, PrevKV: true}
	keyA       = Watch{Key: []byte("a")}
)

func TestWatcherChangesFeedsByItsNextRevision(t *testing.T) {
	for _, ahead := range []int{-3, 0, 3} {
		l := &log{}
		hub, r := newRouted(l, 2, FeedConfig{RingBytes: 1 << 20})
		from, to := r.to[0], r.to[1]
		c := newCollector(hub.Hub, nil)
		w := c.watch(t, keyA)
		var batches []Batch
		for range 10 {
			batches = append(batches, l.append("a"))
		}
		from.Publish(batches[:5]...)
		to.Publish(batches[:5+ahead]...)
		hub.run()
		from.Move(everything, to)
		hub.run()
		from.Publish(batches[5:]...)
		to.Publish(batches[5+ahead:]...)
		hub.run()
		if got, want := c.got[w], []int64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}; !slices.Equal(got, want) {
			t.Errorf("moved to a feed that is %d ahead: got %v", ahead, got)
		}
		if a, b := from.Stats().Watchers, to.Stats().Watchers; a != 0 || b != 1 {
			t.Errorf("%d watchers are on the old feed and %d on the new", a, b)
		}
		hub.Close()
	}
}

func TestOnlyWatchersInsideTheRangeAreMoved(t *testing.T) {
	hub, r := newRouted(&log{}, 2, FeedConfig{})
	from, to := r.to[0], r.to[1]
	r.to = r.to[:1]
	c := newCollector(hub.Hub, nil)
	for _, o := range []Watch{
		{Key: []byte("a")}, {Key: []byte("b")}, {Key: []byte("b"), NoPut: true}, {Key: []byte("b"), PrevKV: true},
		{Key: []byte("b"), End: []byte("c")}, {Key: []byte("b"), End: []byte{0}},
	} {
		c.watch(t, o)
	}
	from.Move(Range{Key: []byte("b")}, to)
	hub.run()
	if n := to.Stats().Watchers; n != 2 {
		t.Errorf("%d were moved with the key, want 2", n)
	}
	from.Move(Range{Key: []byte("b"), End: []byte("x"), PrevKV: true}, to)
	hub.run()
	if got := to.Stats(); got.Watchers != 4 || got.Ranges != 2 {
		t.Errorf("the new feed has %+v", got)
	}
	want := []Range{{Key: []byte("b"), PrevKV: true}, {Key: []byte("b"), End: []byte("c")}}
	for _, r := range to.Ranges() {
		if !slices.ContainsFunc(want, func(w Range) bool { return text(w) == text(r) }) {
			t.Errorf("a range that is not watched: %s", text(r))
		}
	}
	hub.Close()
}

func TestFeedIsIdleWithoutWatchersAndMoves(t *testing.T) {
	hub, r := newRouted(&log{}, 2, FeedConfig{})
	from, to := r.to[0], r.to[1]
	c := newCollector(hub.Hub, nil)
	c.watch(t, keyA)
	if from.CloseIdle() {
		t.Error("closed with a watcher")
	}
	from.Move(everything, to)
	if to.CloseIdle() {
		t.Error("closed with a move under way")
	}
	hub.run()
	if to.CloseIdle() || !from.CloseIdle() || !from.Closed() {
		t.Error("the watcher was not moved")
	}
	hub.run()
	hub.Close()
}

func TestMoveToAClosedFeedLeavesWatchersWhereTheyAre(t *testing.T) {
	hub, r := newRouted(&log{}, 2, FeedConfig{})
	from, to := r.to[0], r.to[1]
	c := newCollector(hub.Hub, nil)
	c.watch(t, keyA)
	from.Move(everything, to)
	to.Close(errors.New("gone"))
	hub.run()
	if from.Stats().Watchers != 1 || len(c.canceled) != 0 {
		t.Error("moved or cancelled")
	}
	hub.Close()
}

func TestClosedFeedCancelsItsWatchersWithTheReason(t *testing.T) {
	hub, r := newRouted(&log{}, 1, FeedConfig{})
	f, why := r.to[0], errors.New("upstream says no")
	c := newCollector(hub.Hub, nil)
	c.watch(t, keyA)
	f.Close(why)
	f.Publish(Batch{Revision: 5, Events: []wire.Event{putEvent("a", 5, 1)}})
	hub.run()
	if err := <-c.canceled; !errors.Is(err, why) || len(c.got) != 0 || hub.Revision() != 0 {
		t.Errorf("cancelled with %v, events %v, revision %d", err, c.got, hub.Revision())
	}
	hub.Close()
}

func TestWatchThatFindsAClosedFeedAsksAgain(t *testing.T) {
	hub, r := newRouted(&log{}, 2, FeedConfig{})
	r.to[0].CloseIdle()
	r.now = 7
	c := newCollector(hub.Hub, nil)
	w := c.watch(t, keyA)
	if c.created[w] != 7 || w.group.feed != r.to[0] || r.to[0].Stats().Watchers != 1 {
		t.Error("the watch is not on the open feed")
	}
	hub.run()
	hub.Close()
}

func TestRefusedWatchIsNotCreated(t *testing.T) {
	hub, r := newRouted(&log{}, 1, FeedConfig{})
	r.err = errors.New("no feed")
	c := newCollector(hub.Hub, nil)
	if err := c.stream.Watch(t.Context(), &Watcher{}, keyA, 0); !errors.Is(err, r.err) || len(c.created) != 0 {
		t.Errorf("refused with %v, created %v", err, c.created)
	}
	r.err = nil
	w := &Watcher{}
	c.stream.Cancel(w)
	if err := c.stream.Watch(t.Context(), w, keyA, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled watch is refused with %v", err)
	}
	c.stream.Close()
	if err := c.stream.Watch(t.Context(), &Watcher{}, keyA, 0); !errors.Is(err, ErrStreamClosed) {
		t.Errorf("refused on a closed stream with %v", err)
	}
	hub.Close()
	if f := hub.NewFeed(FeedConfig{}); !f.Closed() {
		t.Error("a feed of a closed hub is open")
	}
	if err := newCollector(hub.Hub, nil).stream.Watch(t.Context(), &Watcher{}, keyA, 0); !errors.Is(err, ErrHubClosed) {
		t.Errorf("refused by a closed hub with %v", err)
	}
}

func TestEndTellsEveryStreamOnceAndCancelsNobody(t *testing.T) {
	hub, _ := newRouted(&log{}, 1, FeedConfig{})
	c, idle, why := newCollector(hub.Hub, nil), newCollector(hub.Hub, nil), errors.New("no longer shared")
	c.watch(t, keyA)
	hub.End(why)
	hub.End(why)
	later := newCollector(hub.Hub, nil)
	later.watch(t, keyA)
	for _, c := range []*collector{c, idle} {
		if len(c.ended) != 1 || !errors.Is(c.ended[0], why) || len(c.canceled) != 0 {
			t.Errorf("ended with %v", c.ended)
		}
	}
	if err := c.stream.Watch(t.Context(), &Watcher{}, keyA, 0); !errors.Is(err, why) {
		t.Errorf("refused with %v", err)
	}
	if len(later.ended) != 0 {
		t.Error("a stream opened later was ended")
	}
	hub.Close()
}

func TestResetForgetsTheOldStore(t *testing.T) {
	l := &log{}
	hub, r := newRouted(l, 1, FeedConfig{})
	c, why := newCollector(hub.Hub, nil), errors.New("restored from a backup")
	c.watch(t, keyA)
	r.to[0].Publish(l.append("a"), l.append("a"))
	hub.Compacted(2)
	hub.Reset(why)
	hub.run()
	if err := <-c.canceled; !errors.Is(err, why) || hub.Revision() != 0 || !r.to[0].Closed() {
		t.Errorf("cancelled with %v, revision %d", err, hub.Revision())
	}
	r.to = []*Feed{hub.NewFeed(FeedConfig{Source: l, RingBytes: 1000})}
	c.watch(t, Watch{Key: []byte("a"), Start: 1})
	if len(c.canceled) != 0 {
		t.Error("the compact revision of the old store counts in the new")
	}
	hub.run()
	hub.Close()
}

func TestShorterRingDropsAtOnceWhatWasDelivered(t *testing.T) {
	l := &log{}
	hub := newStepped(l, 0, 1<<20, chunkBytes)
	for range 100 {
		hub.feed.Publish(l.append("a"))
	}
	hub.feed.SetRingBytes(0)
	if got := hub.feed.Oldest(); got != 1 {
		t.Errorf("the ring begins at %d although nothing is delivered", got)
	}
	hub.run()
	if s := hub.feed.Stats(); s.RingBytes != 0 || hub.feed.Oldest() != 101 || len(hub.feed.ring.batches) > minRing {
		t.Errorf("the ring keeps %d bytes from %d on", s.RingBytes, hub.feed.Oldest())
	}
	hub.Close()
}

func TestUnwantedEventsAreCounted(t *testing.T) {
	l := &log{}
	hub := newStepped(l, 0, 1<<20, chunkBytes)
	c := newCollector(hub.Hub, nil)
	c.watch(t, keyA)
	hub.feed.Publish(l.append("a", "b"), l.append("c"))
	hub.feed.Publish(Batch{Revision: 2}) // it has been
	hub.run()
	want := FeedStats{Watchers: 1, Ranges: 1, Events: 3, Unwanted: 2}
	got := hub.feed.Stats()
	if got.UnwantedBytes == 0 || got.RingBytes == 0 {
		t.Errorf("bytes are not counted: %+v", got)
	}
	got.UnwantedBytes, got.RingBytes = 0, 0
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	hub.Close()
}

// reads is a log that remembers how it was read.
type reads struct {
	log
	ranges []Range
}

func (r *reads) History(ctx context.Context, in Range, from int64, yield func(Batch) bool) (int64, error) {
	r.ranges = append(r.ranges, in)
	return r.log.History(ctx, in, from, yield)
}

func TestHistoryIsReadTogetherIfTheFeedSaysSo(t *testing.T) {
	for _, merge := range []bool{false, true} {
		l := &reads{}
		hub, r := newRouted(l, 1, FeedConfig{RingBytes: 0, MergeHistory: merge})
		f := r.to[0]
		for i := range 20 {
			f.Publish(l.append(string(rune('a' + i%5))))
		}
		hub.run()
		c := newCollector(hub.Hub, nil)
		var all []*Watcher
		for i := range 4 {
			all = append(all, c.watch(t, Watch{Key: []byte{byte('a' + i)}, Start: 3, PrevKV: i == 1}))
		}
		hub.run()
		for i, w := range all {
			if n := len(c.got[w]); n != 4 && i >= 2 || n != 3 && i < 2 {
				t.Errorf("merge %v: watcher %d got %v", merge, i, c.got[w])
			}
		}
		if merge && (len(l.ranges) != 1 || text(l.ranges[0]) != `["a", "d\x00") true`) {
			t.Errorf("read %d times, first %s", len(l.ranges), text(l.ranges[0]))
		}
		if !merge && len(l.ranges) != 4 {
			t.Errorf("read %d times", len(l.ranges))
		}
		hub.Close()
	}
}

func TestCompactedMergedHistoryCancelsOnlyWhoNeedsIt(t *testing.T) {
	l := &log{compacted: 3}
	hub, r := newRouted(l, 1, FeedConfig{RingBytes: 0, MergeHistory: true})
	for range 6 {
		r.to[0].Publish(l.append("a", "b"))
	}
	hub.run()
	c := newCollector(hub.Hub, nil)
	c.watch(t, Watch{Key: []byte("a"), Start: 2})
	w := c.watch(t, Watch{Key: []byte("b"), Start: 3})
	hub.run()
	if _, ok := (<-c.canceled).(*CompactedError); !ok || len(c.canceled) != 0 {
		t.Error("not cancelled as compacted, or both were")
	}
	if want := []int64{3, 4, 5, 6}; !slices.Equal(c.got[w], want) {
		t.Errorf("the other got %v", c.got[w])
	}
	hub.Close()
}

// stuck is a Source whose history waits until it is told to end.
type stuck struct {
	log
	reading chan struct{}
}

func (s *stuck) History(ctx context.Context, _ Range, _ int64, _ func(Batch) bool) (int64, error) {
	s.reading <- struct{}{}
	<-ctx.Done()
	return 0, ctx.Err()
}

func TestHistoryThatWaitsHoldsUpNobodyElse(t *testing.T) {
	l := &stuck{reading: make(chan struct{}, 100)}
	r := &router{}
	hub := NewHub(r)
	f, why := hub.NewFeed(FeedConfig{Source: l, Revision: 10, RingBytes: 1 << 20}), errors.New("closed")
	r.to = []*Feed{f}
	c, c2 := newCollector(hub, nil), newCollector(hub, nil)
	for i := range int64(resyncers + 2) {
		c.watch(t, Watch{Key: []byte("a"), Start: 1 + i})
	}
	for range resyncers {
		<-l.reading
	}
	var all sync.WaitGroup
	all.Add(1)
	c2.done, c2.last = &all, 12
	f.Publish(Batch{Revision: 11, Events: []wire.Event{putEvent("a", 11, 1)}})
	f.Publish(Batch{Revision: 12, Events: []wire.Event{putEvent("a", 12, 1)}})
	c2.watch(t, Watch{Key: []byte("a"), Start: 11})
	all.Wait()
	f.Close(why)
	for range resyncers + 2 {
		if err := <-c.canceled; !errors.Is(err, why) {
			t.Errorf("cancelled with %v", err)
		}
	}
	hub.Close()
}

func TestProgressIsOfTheStoreAfterTheRequest(t *testing.T) {
	l := &log{}
	hub, r := newRouted(l, 2, FeedConfig{RingBytes: 1000})
	a, b := r.to[0], r.to[1]
	c := newCollector(hub.Hub, nil)
	c.watch(t, keyA)
	c.watch(t, keyA)
	if a.Stats().Watchers != 1 || b.Stats().Watchers != 1 {
		t.Fatal("not on two feeds")
	}
	r.now = 9 // nobody has published this
	c.stream.RequestProgress(hub.Arrive())
	c.stream.RequestProgress(hub.Arrive())
	hub.run()
	if len(c.progress) != 2 || <-c.progress != 9 || <-c.progress != 9 || r.syncs != 2 {
		t.Errorf("not answered at 9, after %d syncs", r.syncs)
	}
	hub.Close()
}

func TestProgressIsNotifiedOnlyWithoutEvents(t *testing.T) {
	l := &log{}
	hub, r := newRouted(l, 1, FeedConfig{RingBytes: 1000})
	c := newCollector(hub.Hub, nil)
	c.watch(t, Watch{Key: []byte("a"), ProgressNotify: true})
	c.watch(t, keyA)
	r.to[0].Publish(l.append("a"))
	r.now = 1
	hub.run()
	c.stream.NotifyProgress()
	hub.run()
	if len(c.progress) != 0 {
		t.Error("notified after an event")
	}
	r.now = 4
	c.stream.NotifyProgress()
	hub.run()
	if len(c.progress) != 1 || <-c.progress != 4 {
		t.Error("not notified")
	}
	hub.Close()
}

func text(r Range) string { return fmt.Sprintf("[%q, %q) %v", r.Key, r.End, r.PrevKV) }

func TestRangeContains(t *testing.T) {
	r := func(key, end string) Range { return Range{Key: []byte(key), End: []byte(end)} }
	for _, c := range []struct {
		outer, inner Range
		want         bool
	}{
		{r("a", ""), r("a", ""), true},
		{r("a", ""), r("b", ""), false},
		{r("a", ""), r("a", "b"), false},
		{r("a", "c"), r("a", ""), true},
		{r("a", "c"), r("b", "c"), true},
		{r("a", "c"), r("c", ""), false},
		{r("a", "c"), r("b", "d"), false},
		{r("a", "c"), r("b", "\x00"), false},
		{r("b", "\x00"), r("a", ""), false},
		{r("b", "\x00"), r("c", "\x00"), true},
		{r("b", "\x00"), r("c", "x"), true},
		{r("\x00", "\x00"), r("c", ""), true},
	} {
		if got := c.outer.Contains(c.inner); got != c.want {
			t.Errorf("%s contains %s: %v", text(c.outer), text(c.inner), got)
		}
		c.inner.PrevKV = true
		if c.outer.Contains(c.inner) {
			t.Errorf("%s contains %s with previous values", text(c.outer), text(c.inner))
		}
		c.outer.PrevKV = true
		if got := c.outer.Contains(c.inner); got != c.want {
			t.Errorf("%s contains %s, both with previous values: %v", text(c.outer), text(c.inner), got)
		}
	}
}
