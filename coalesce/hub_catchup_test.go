package coalesce

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// newPast makes a hub whose one feed has published so many revisions, of keys k0, k1, ..., and keeps no more of them than
// cfg says.
func newPast(l Source, log *log, revisions int, cfg FeedConfig) *stepped {
	hub, r := newRouted(l, 1, cfg)
	for i := range revisions {
		r.to[0].Publish(log.append(fmt.Sprint("k", i)))
	}
	hub.feed, r.now = r.to[0], int64(revisions)
	hub.run()
	return hub
}

func TestWatchesOfOneStreamReadMergedHistoryTogether(t *testing.T) {
	const watches = 10 * streamWindow
	l := &reads{}
	hub := newPast(l, &l.log, watches, FeedConfig{MergeHistory: true})
	c := newCollector(hub.Hub, nil)
	for i := range watches {
		c.watch(t, Watch{Key: fmt.Append(nil, "k", i), Start: 1})
	}
	hub.run()
	if len(c.got) != watches || len(l.ranges) != 1 {
		t.Errorf("%d of %d watches got their event, in %d reads", len(c.got), watches, len(l.ranges))
	}
	c.stream.Close()
	hub.Close()
}

func TestWatchesOfOneStreamTakeTurnsWhereHistoryIsNotMerged(t *testing.T) {
	const watches = 2 * streamWindow
	l := &reads{}
	hub := newPast(l, &l.log, watches, FeedConfig{})
	c := newCollector(hub.Hub, nil)
	for i := range watches {
		c.watch(t, Watch{Key: fmt.Append(nil, "k", i), Start: 1})
	}
	if n := c.stream.served[fromHistory]; n != streamWindow {
		t.Errorf("%d wait in the queue", n)
	}
	hub.run()
	if len(c.got) != watches {
		t.Errorf("%d of %d watches got their event", len(c.got), watches)
	}
	c.stream.Close()
	hub.Close()
}

// TestSlowStreamIsReadForAsItTakes has a client that takes ten messages at a time.
func TestSlowStreamIsReadForAsItTakes(t *testing.T) {
	const watches, room = 2000, 10
	l := &reads{}
	hub := newPast(l, &l.log, watches, FeedConfig{MergeHistory: true})
	hub.window = room
	c := newCollector(hub.Hub, nil)
	c.room = room
	for i := range watches {
		c.watch(t, Watch{Key: fmt.Append(nil, "k", i), Start: 1})
	}
	hub.run()
	full := len(l.ranges)
	hub.run()
	if len(l.ranges) != full || c.stream.served != [2]int{} {
		t.Error("a full stream is read for")
	}
	for i := 0; len(c.got) < watches; i++ {
		c.drain(room)
		if n := c.stream.served[fromHistory]; i > 10 && n > 3*room {
			t.Fatalf("%d watchers are read for at once of a stream that takes %d", n, room)
		}
		hub.run()
		if i > watches {
			t.Fatal("the stream is never done")
		}
	}
	c.drain(1 << 30)
	hub.run()
	for i := range watches {
		c.watch(t, Watch{Key: fmt.Append(nil, "k", i), Start: 1})
	}
	hub.run()
	if c.stream.window < watches {
		t.Errorf("%d watchers are read for at once after the client has taken %d messages", c.stream.window, watches)
	}
	c.stream.Close()
	hub.Close()
}

// TestHistoryThatWaitsHoldsUpNoRingOfItsStream has many watches of a stream that wait for a network.
func TestHistoryThatWaitsHoldsUpNoRingOfItsStream(t *testing.T) {
	l := &log{}
	hub := newPast(l, l, 10, FeedConfig{RingBytes: 250, MergeHistory: true}) // that is the newest revision
	c := newCollector(hub.Hub, nil)
	for i := range 2 * streamWindow {
		c.watch(t, Watch{Key: fmt.Append(nil, "k", i), Start: 1})
	}
	w := c.watch(t, Watch{Key: []byte("k9"), Start: 10})
	if w.state != waiting || w.source != fromRing {
		t.Errorf("state %d, source %d", w.state, w.source)
	}
	hub.run()
	if !slices.Equal(c.got[w], []int64{10}) {
		t.Errorf("got %v", c.got[w])
	}
	c.stream.Close()
	hub.Close()
}

func TestWatchersThatLackWhatIsCompactedAreNotReadFor(t *testing.T) {
	const watches = 10 * streamWindow
	for _, merge := range []bool{false, true} {
		l := &reads{}
		hub := newPast(l, &l.log, watches, FeedConfig{MergeHistory: merge})
		c := newCollector(hub.Hub, nil)
		c.canceled = make(chan error, watches)
		for i := range watches {
			c.watch(t, Watch{Key: fmt.Append(nil, "k", i), Start: 1})
		}
		kept := c.watch(t, Watch{Key: []byte("k5"), Start: 6})
		hub.Compacted(6)
		l.compacted = 6
		hub.run()
		if len(c.canceled) != watches || len(l.ranges) != 1 || !slices.Equal(c.got[kept], []int64{6}) {
			t.Errorf("merge %v: %d of %d cancelled after %d reads", merge, len(c.canceled), watches, len(l.ranges))
		}
		for len(c.canceled) > 0 {
			var compacted *CompactedError
			if err := <-c.canceled; !errors.As(err, &compacted) || compacted.CompactRevision != 6 {
				t.Fatalf("cancelled with %v", err)
			}
		}
		c.stream.Close()
		hub.Close()
	}
}

func TestCompactionOfAnotherStoreCancelsNobodyOfTheOld(t *testing.T) {
	l, why := &log{}, errors.New("restored from a backup")
	hub := newPast(l, l, 10, FeedConfig{MergeHistory: true})
	c := newCollector(hub.Hub, nil)
	c.watch(t, Watch{Key: []byte("k0"), Start: 1})
	resync := hub.tasks
	hub.tasks = nil
	hub.Reset(why)
	hub.Compacted(5)
	hub.tasks = append(resync, hub.tasks...) // the feed's end comes to its watchers last
	hub.run()
	if err := <-c.canceled; !errors.Is(err, why) {
		t.Errorf("cancelled with %v", err)
	}
	hub.Close()
}

// createdHook is a Sink that lets things happen between the answer to a watch and its start.
type createdHook struct {
	*collector
	then func()
}

func (c *createdHook) Created(w *Watcher, now int64) {
	c.collector.Created(w, now)
	c.then()
}

func TestWatchFromNowIsCompactedOnlyIfItsFeedHasForgotten(t *testing.T) {
	for _, forgotten := range []bool{false, true} {
		l := &log{}
		hub, r := newRouted(l, 1, FeedConfig{RingBytes: 1 << 20})
		f := r.to[0]
		c := &createdHook{collector: newCollector(hub.Hub, nil)}
		c.stream = hub.NewStream(c)
		c.then = func() {
			f.Publish(l.append("a"), l.append("a"), l.append("a"))
			hub.run()
			if forgotten {
				f.SetRingBytes(0)
			}
			l.compacted = 3
			hub.Compacted(3)
		}
		w := c.watch(t, keyA)
		hub.run()
		var compacted *CompactedError
		switch {
		case !forgotten && (len(c.canceled) != 0 || !slices.Equal(c.got[w], []int64{1, 2, 3})):
			t.Errorf("got %v, %d cancelled", c.got[w], len(c.canceled))
		case forgotten && (len(c.canceled) != 1 || !errors.As(<-c.canceled, &compacted) || compacted.CompactRevision != 3):
			t.Error("not cancelled as compacted")
		}
		c.stream.Close()
		hub.Close()
	}
}
