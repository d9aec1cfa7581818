package coalesce

import (
	"errors"
	"slices"
	"testing"
)

// newJump makes the hub of a log whose feed has published three revisions, and has watchers from now on and of the first one.
func newJump(t *testing.T) (l *log, hub *stepped, f *Feed, c *collector) {
	t.Helper()
	l = &log{}
	hub, r := newRouted(l, 1, FeedConfig{RingBytes: 1 << 20})
	f = r.to[0]
	c = newCollector(hub.Hub, nil)
	f.Publish(l.append("a"), l.append("b"), l.append("a"))
	hub.run()
	r.now = 3
	return l, hub, f, c
}

func TestJumpBringsWatchersWhatWasSkipped(t *testing.T) {
	l, hub, f, c := newJump(t)
	live := c.watch(t, keyA)
	idle := c.watch(t, Watch{Key: []byte("c")})
	future := c.watch(t, Watch{Key: []byte("a"), Start: 7})
	hub.run()
	f.Publish(l.append("a")) // not delivered before the jump
	l.append("a")            // skipped, all of these
	l.append("b")
	l.append("a")
	l.append("c")
	f.Jump(8)
	f.Jump(5) // is behind that already
	f.Publish(l.append("a", "c"))
	hub.run()
	for w, want := range map[*Watcher][]int64{live: {4, 5, 7, 9}, idle: {8, 9}, future: {7, 9}} {
		if !slices.Equal(c.got[w], want) {
			t.Errorf("got %v, want %v", c.got[w], want)
		}
	}
	if f.Revision() != 9 || hub.Revision() != 9 || f.Oldest() != 9 {
		t.Errorf("at %d, hub at %d, oldest %d", f.Revision(), hub.Revision(), f.Oldest())
	}
	c.stream.Close()
	hub.Close()
}

func TestJumpBeyondTheCompactRevisionCancelsWithIt(t *testing.T) {
	l, hub, f, c := newJump(t)
	w := c.watch(t, keyA)
	future := c.watch(t, Watch{Key: []byte("a"), Start: 6})
	hub.run()
	l.append("a")
	l.append("a")
	l.append("a")
	l.compacted = 6
	hub.Compacted(6)
	f.Jump(6)
	hub.run()
	var compacted *CompactedError
	if err := <-c.canceled; !errors.As(err, &compacted) || compacted.CompactRevision != 6 {
		t.Errorf("cancelled with %v", err)
	}
	if len(c.canceled) != 0 || len(c.got[w]) != 0 || !slices.Equal(c.got[future], []int64{6}) {
		t.Errorf("%d more cancelled; got %v and %v", len(c.canceled), c.got[w], c.got[future])
	}
	c.stream.Close()
	hub.Close()
}

func TestProgressAfterAJumpIsToldWhenWhatWasSkippedIsDelivered(t *testing.T) {
	l, hub, f, c := newJump(t)
	w := c.watch(t, keyA)
	hub.run()
	c.drain(0)
	l.append("a")
	l.append("a")
	f.Jump(5)
	c.stream.RequestProgress(Arrival(5))
	hub.run()
	if len(c.progress) != 0 || len(c.got[w]) != 0 {
		t.Errorf("progress before a client that takes nothing has taken what was skipped; got %v", c.got[w])
	}
	c.drain(100)
	hub.run()
	if rev := <-c.progress; rev != 5 || !slices.Equal(c.got[w], []int64{4, 5}) {
		t.Errorf("progress %d, got %v", rev, c.got[w])
	}
	c.stream.Close()
	hub.Close()
}

func TestJumpOfAClosedFeedIsIgnored(t *testing.T) {
	_, hub, f, c := newJump(t)
	f.Close(errIdle)
	f.Jump(10)
	hub.run()
	if f.Revision() != 3 || hub.Revision() != 3 {
		t.Errorf("at %d, hub at %d", f.Revision(), hub.Revision())
	}
	c.stream.Close()
	hub.Close()
}
