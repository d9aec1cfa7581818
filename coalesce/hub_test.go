package coalesce

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"weir/grpcapi/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// log is a Source that has the events of every revision.
type log struct {
	mu        sync.Mutex
	batches   []Batch // of revisions 1, 2, 3, ...
	compacted int64
}

func (l *log) append(keys ...string) Batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := Batch{Revision: int64(len(l.batches)) + 1}
	for _, k := range keys {
		b.Events = append(b.Events, putEvent(k, b.Revision, 20))
	}
	l.batches = append(l.batches, b)
	return b
}

func (l *log) History(_ context.Context, r Range, from int64, yield func(Batch) bool) (int64, error) {
	l.mu.Lock()
	batches, compacted := l.batches, l.compacted
	l.mu.Unlock()
	if from < compacted {
		return 0, &CompactedError{CompactRevision: compacted}
	}
	for _, b := range batches[from-1:] {
		in := Batch{Revision: b.Revision}
		for _, e := range b.Events {
			if r.Contains(Range{Key: e.Key}) {
				in.Events = append(in.Events, e)
			}
		}
		if len(in.Events) > 0 && !yield(in) {
			return b.Revision + 1, nil
		}
	}
	return int64(len(batches)) + 1, nil
}

func (l *log) revision() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.batches))
}

func (l *log) Prev(key []byte, rev int64) []byte { return nil }

// collector is a Sink that counts events and takes as many messages as it is allowed to.
type collector struct {
	stream *Stream

	mu       sync.Mutex
	room     int
	refused  bool
	canceled chan error
	got      map[*Watcher][]int64 // revisions
	last     int64                // the revision that ends the test
	done     *sync.WaitGroup      // a watcher has got it
	progress chan int64
	created  map[*Watcher]int64
	ended    []error
	rechecks int
}

func newCollector(h *Hub, done *sync.WaitGroup) *collector {
	c := &collector{
		room: 1 << 30, got: map[*Watcher][]int64{}, done: done,
		canceled: make(chan error, 100), progress: make(chan int64, 100), created: map[*Watcher]int64{},
	}
	c.stream = h.NewStream(c)
	return c
}

func (c *collector) Deliver(w *Watcher, m *Message) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.room == 0 {
		c.refused = true
		return false
	}
	c.room--
	for _, e := range m.Events {
		c.got[w] = append(c.got[w], e.ModRev)
	}
	if m.Events[len(m.Events)-1].ModRev == c.last {
		c.done.Done()
	}
	return true
}

func (c *collector) drain(room int) {
	c.mu.Lock()
	refused := c.refused
	c.refused, c.room = false, room
	c.mu.Unlock()
	if refused {
		c.stream.Drained()
	}
}

func (c *collector) Progress(_ *Watcher, rev int64, _ int) bool {
	c.progress <- rev
	return true
}

func (c *collector) Canceled(_ *Watcher, reason error) { c.canceled <- reason }

func (c *collector) Created(w *Watcher, now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.created[w] = now
}

func (c *collector) Ended(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = append(c.ended, err)
}

func (c *collector) Recheck() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rechecks++
}

// watch starts a watch that nobody refuses.
func (c *collector) watch(t testing.TB, o Watch) *Watcher {
	w := &Watcher{ID: o.Start}
	if err := c.stream.Watch(t.Context(), w, o, c.stream.hub.Arrive()); err != nil {
		t.Error(err)
	}
	return w
}

// stepped is the hub of a store whose goroutines run when the test says so.
type stepped struct {
	*Hub
	feed  *Feed
	tasks []func() bool
}

func newStepped(source Source, rev int64, ringBytes, chunk int) *stepped {
	f := &storeFeeder{revision: func() int64 { return rev }}
	h := &stepped{Hub: newHub(f, chunk, streamWindow, fewWatchers)}
	h.start = func(step func() bool) { h.tasks = append(h.tasks, step) }
	h.pause = func() {}
	f.feed = h.NewFeed(FeedConfig{Source: source, Revision: rev, RingBytes: ringBytes})
	h.feed = f.feed
	return h
}

// run does all there is to do.
func (h *stepped) run() {
	for len(h.tasks) > 0 {
		step := h.tasks[0]
		h.tasks = h.tasks[1:]
		for step() {
		}
	}
}

// TestConcurrentPublishersClientsAndHub lets everything run at once, for the race detector, with a ring that is too
// short and clients that are too slow.
func TestConcurrentPublishersClientsAndHub(t *testing.T) {
	const streams, watchers, revisions, keys = 8, 10, 3000, 5
	key := func(i int) string { return fmt.Sprintf("k%d", i%keys) }
	l := &log{}
	hub, feed := NewStoreHub(l, l.revision, 5000)
	defer hub.Close()

	var all, clients sync.WaitGroup
	stop := make(chan struct{})
	var sinks []*collector
	for i := range streams {
		c := newCollector(hub, &all)
		c.last, c.room = revisions, 3
		sinks = append(sinks, c)
		all.Add(watchers)
		clients.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 3))
			for j := range watchers {
				w := Watch{Key: []byte(key(j)), Start: 1 + rnd.Int64N(revisions/2)}
				if j%2 == 0 {
					w.Key, w.End = []byte("k"), []byte("l")
				}
				c.watch(t, w)
				for range 3 { // and one that does not stay
					other := c.watch(t, Watch{Key: []byte("z"), Start: 1})
					c.stream.RequestProgress(hub.Arrive())
					c.stream.Cancel(other)
				}
			}
			for {
				select {
				case <-stop:
					return
				case <-c.progress:
				default:
					c.drain(1 + rnd.IntN(4))
					runtime.Gosched()
				}
			}
		})
	}
	for i := range revisions - 1 {
		feed.Publish(l.append(key(i), key(i+1)))
	}
	feed.Publish(l.append(key(0), key(1), key(2), key(3), key(4)))
	all.Wait()
	close(stop)
	clients.Wait()

	for _, c := range sinks {
		c.stream.Close()
		for w, got := range c.got {
			var want []int64
			for _, b := range l.batches {
				for _, e := range b.Events {
					if b.Revision >= w.ID && w.group.has(e.Key) {
						want = append(want, b.Revision)
					}
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("a watcher from revision %d got %d events, want %d", w.ID, len(got), len(want))
			}
		}
	}
}

// has tells whether key is in the group's range.
func (g *group) has(key []byte) bool { return contains(g.key, g.end, string(key), "") }

func TestPublisherFasterThanTheRingLosesNothing(t *testing.T) {
	l := &log{}
	hub := newStepped(l, 0, 1, chunkBytes)
	c := newCollector(hub.Hub, nil)
	w := c.watch(t, Watch{Key: []byte("a"), Start: 1})
	for range 10 {
		hub.feed.Publish(l.append("a"))
	}
	hub.run()
	if got := c.got[w]; len(got) != 10 {
		t.Errorf("got %v", got)
	}
	hub.Close()
}

func TestWatchBelowTheCompactRevisionIsCreatedAndCanceled(t *testing.T) {
	hub := newStepped(&log{}, 10, 1000, chunkBytes)
	hub.Compacted(7)
	c := newCollector(hub.Hub, nil)
	w := c.watch(t, Watch{Key: []byte("a"), Start: 6})
	if now, ok := c.created[w]; !ok || now != 10 {
		t.Errorf("created: %v at %d", ok, now)
	}
	if err, ok := (<-c.canceled).(*CompactedError); !ok || err.CompactRevision != 7 {
		t.Errorf("cancelled with %v", err)
	}
	hub.Close()
}

func TestWatcherWhoseHistoryWasCompactedIsCanceled(t *testing.T) {
	l := &log{compacted: 3}
	hub, feed := NewStoreHub(l, l.revision, 1) // the ring keeps only the newest
	defer hub.Close()
	for range 5 {
		feed.Publish(l.append("a"))
	}
	c := newCollector(hub, nil)
	c.watch(t, Watch{Key: []byte("a"), Start: 2})
	if err, ok := (<-c.canceled).(*CompactedError); !ok || err.CompactRevision != 3 {
		t.Errorf("cancelled with %v", err)
	}
}

func TestProgressOfAStreamWithoutWatchersIsNotAnswered(t *testing.T) {
	hub := newStepped(&log{}, 4, 1000, chunkBytes)
	c := newCollector(hub.Hub, nil)
	c.stream.RequestProgress(hub.Arrive())
	c.watch(t, Watch{Key: []byte("a")})
	hub.run()
	if len(c.progress) != 0 {
		t.Error("answered")
	}
	c.stream.RequestProgress(hub.Arrive())
	hub.run()
	if len(c.progress) != 1 || <-c.progress != 4 {
		t.Error("not answered with a watcher")
	}
	hub.Close()
}

func TestPrevIsAskedOncePerEvent(t *testing.T) {
	src := &prevCounter{}
	hub := newStepped(src, 0, 1<<20, chunkBytes)
	c := newCollector(hub.Hub, nil)
	for _, w := range []Watch{
		{Key: []byte("a"), Start: 1, PrevKV: true},
		{Key: []byte("a"), Start: 1, PrevKV: true},
		{Key: []byte("a"), End: []byte("b"), Start: 1, PrevKV: true},
		{Key: []byte("b"), Start: 1},
	} {
		c.watch(t, w)
	}
	hub.feed.Publish(src.append("a", "b"))
	hub.run()
	if src.asked != 1 {
		t.Errorf("asked %d times", src.asked)
	}
	hub.Close()
}

// TestWatcherThatRefusesPartOfATurnIsSentNoMoreOfIt has previous values so large that one turn is several messages.
func TestWatcherThatRefusesPartOfATurnIsSentNoMoreOfIt(t *testing.T) {
	const chunk = 500
	l := &largePrev{size: chunk}
	hub := newStepped(l, 0, 1<<20, chunk)
	c := &refusesOnce{}
	c.stream = hub.NewStream(c)
	if err := c.stream.Watch(t.Context(), &Watcher{}, Watch{Key: []byte("a"), Start: 1, PrevKV: true}, 0); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		hub.feed.Publish(l.append("a"))
	}
	hub.run()
	if want := []int64{1, 2, 3}; !slices.Equal(c.got, want) {
		t.Errorf("got %v, want %v", c.got, want)
	}
	if c.messages != 3 {
		t.Errorf("got %d messages, want one for each chunk", c.messages)
	}
	hub.Close()
}

type largePrev struct {
	log
	size int
}

func (l *largePrev) Prev([]byte, int64) []byte { return make([]byte, l.size) }

// refusesOnce is a Sink that has room again at once.
type refusesOnce struct {
	stream   *Stream
	calls    int
	messages int
	got      []int64
}

func (c *refusesOnce) Deliver(_ *Watcher, m *Message) bool {
	if c.calls++; c.calls == 1 {
		c.stream.Drained()
		return false
	}
	c.messages++
	for _, e := range m.Events {
		c.got = append(c.got, e.ModRev)
	}
	return true
}

func (c *refusesOnce) Progress(*Watcher, int64, int) bool { return true }
func (c *refusesOnce) Canceled(*Watcher, error)           {}
func (c *refusesOnce) Created(*Watcher, int64)            {}
func (c *refusesOnce) Ended(error)                        {}
func (c *refusesOnce) Recheck()                           {}

type prevCounter struct {
	log
	asked int
}

func (p *prevCounter) Prev(key []byte, rev int64) []byte {
	p.asked++
	return nil
}

func TestBodyIsTheEventsOfAWatchResponse(t *testing.T) {
	events := []wire.Event{putEvent("a", 2, 10), putEvent("b", 2, 5000), wire.NewDeleteEvent([]byte("c"), 3), putEvent("d", 4, 9000)}
	events[1].Prev = []byte("x")
	events[3].Prev = bytes.Repeat([]byte("y"), 5000)
	for _, prevKV := range []bool{false, true} {
		var want []byte
		for i := range events {
			want = wire.AppendEvent(want, &events[i], prevKV)
		}
		body, size := (&Message{Events: events, PrevKV: prevKV}).Body()
		if got := body.Materialize(); !bytes.Equal(got, want) || size != len(want) {
			t.Errorf("prevKV %v: body of %d bytes, said to be %d, want %d", prevKV, len(got), size, len(want))
		}
		if &body[1].ReadOnlyData()[0] != &events[1].Data[0] {
			t.Error("a large event is copied")
		}
	}
}

func TestRecheckReachesEveryOpenStream(t *testing.T) {
	l := &log{}
	hub, _ := NewStoreHub(l, l.revision, 1<<20)
	defer hub.Close()
	quiet, watching, closed := newCollector(hub, nil), newCollector(hub, nil), newCollector(hub, nil)
	watching.watch(t, keyA)
	closed.watch(t, keyA)
	closed.stream.Close()
	hub.Recheck()
	for c, want := range map[*collector]int{quiet: 1, watching: 1, closed: 0} {
		if c.rechecks != want {
			t.Errorf("a sink is called %d times, want %d", c.rechecks, want)
		}
		c.stream.Close()
	}
}
