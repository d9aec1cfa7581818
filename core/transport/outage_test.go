package transport

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

func within(silence time.Duration) option {
	return func(o *memberOptions) { o.cfg.timing.silence = silence }
}

func TestBrokenConnectionIsReportedOnceAndMadeAgain(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(a, b)
	a.active(t, b)
	before := a.ActiveSince(2)
	a.cables.change(func(c *cables) { c.refusing = true })
	a.cables.cut()
	next(t, a.unreachable)
	until(t, func() bool { return a.ActiveSince(2).IsZero() && a.peer(2).bulk.activeSince().IsZero() })
	until(t, func() bool { return a.cables.attempts() > 10 })
	for len(a.unreachable) > 0 { // each of the two links has lost something, at its time
		<-a.unreachable
	}
	if s := a.State(2); s.Connected || s.Since.Before(before) || s.Err == nil || !strings.Contains(s.Err.Error(), "refused by the test") {
		t.Errorf("while it is down: %+v", s)
	}
	told := a.cables.attempts()
	until(t, func() bool { return a.cables.attempts() > told+6 })
	if n := len(a.unreachable); n > 0 {
		t.Errorf("reported %d times more while it was down", n)
	}
	if n := a.logs.count("no connection to a peer", "refused by the test"); n > 2 {
		t.Errorf("logged %d times", n)
	}

	a.cables.change(func(c *cables) { c.refusing = false })
	a.active(t, b)
	if !a.ActiveSince(2).After(before) {
		t.Error("the connection is as old as the one that broke")
	}
	if s := a.State(2); !s.Connected || !s.Since.Equal(a.ActiveSince(2)) || s.Err != nil {
		t.Errorf("when it is up again: %+v", s)
	}
	if s := a.State(9); s != (State{}) {
		t.Errorf("of a peer that is not known: %+v", s)
	}
	// What was sent while it was down may have been dropped; this may not.
	a.say(heartbeat(a, b, 5))
	wantMessage(t, next(t, b.received), heartbeat(a, b, 5))
}

func (c *cables) attempts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.dialled)
}

func TestPeerThatFallsSilentIsCutOff(t *testing.T) {
	a, b, c := start(t, 1, within(300*time.Millisecond)), start(t, 2), start(t, 3)
	connect(a, b, c)
	a.active(t, b)
	a.active(t, c)
	a.cables.change(func(c *cables) { c.stalledTo = strings.TrimPrefix(b.url, "http://") })
	if id := next(t, a.unreachable); id != 2 {
		t.Fatalf("%d is unreachable", id)
	}
	until(t, func() bool { return a.logs.count("no connection", "no answer for 300ms") > 0 })
	until(t, func() bool { return !a.peer(2).bulk.present() })
	if a.ActiveSince(3).IsZero() {
		t.Error("another peer was cut off too")
	}
	a.cables.change(func(c *cables) { c.stalledTo = "" })
	a.active(t, b)
	a.say(heartbeat(a, b, 1))
	next(t, b.received)
}

func TestStalledPeerCostsBoundedMemoryAndNobodyElse(t *testing.T) {
	a, b, c := start(t, 1), start(t, 2), start(t, 3)
	connect(a, b, c)
	a.active(t, b)
	a.active(t, c)
	release := make(chan struct{})
	b.onReceive(func(*raftpb.Message) { <-release })
	data := bytes.Repeat([]byte("x"), 1<<20)
	const n = 100
	for i := range uint64(n) {
		a.say(appendMsg(a, b, i, data), heartbeat(a, b, i))
		if i%10 == 0 {
			a.say(appendMsg(a, c, i, []byte("value")), heartbeat(a, c, i))
			next(t, c.received)
			next(t, c.received)
		}
		for _, l := range []*link{a.peer(2).bulk, a.peer(2).small} {
			l.queue.mu.Lock()
			bytes := l.queue.bytes
			l.queue.mu.Unlock()
			if bytes > l.limit {
				t.Fatalf("%d bytes are queued on %s", bytes, l.name)
			}
		}
	}
	if id := next(t, a.unreachable); id != 2 {
		t.Errorf("%d is unreachable", id)
	}
	if len(a.unreachable) > 0 {
		t.Errorf("one burst of drops is reported %d times more", len(a.unreachable))
	}
	if a.ActiveSince(2).IsZero() {
		t.Error("a peer that is only slow was cut off")
	}
	close(release)
	next(t, b.received)
}

func TestHeartbeatsPassWhileAppendsAndASnapshotStandStill(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(a, b)
	a.active(t, b)
	b.onSnapshot(discard)
	a.cables.change(func(c *cables) { c.stallAfter = 4 << 20 })
	data := bytes.Repeat([]byte("x"), 1<<20)
	for i := range uint64(20) {
		a.say(appendMsg(a, b, i, data))
	}
	a.SendSnapshot(snapshotMsg(a, b), 1<<30, &content{size: 1 << 30})
	next(t, a.cables.stalls)
	next(t, a.cables.stalls)
	for i := range uint64(1000) {
		a.say(heartbeat(a, b, i))
		for {
			if m := next(t, b.received); m.GetType() == raftpb.MsgHeartbeat {
				wantMessage(t, m, heartbeat(a, b, i))
				break
			}
		}
	}
	if len(a.unreachable) > 0 || len(a.sent) > 0 {
		t.Error("something was given up")
	}
}

func TestReceiverThatIsBusyWithAppendsStillHearsHeartbeats(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(a, b)
	busy, release := make(chan struct{}), make(chan struct{})
	b.onReceive(func(m *raftpb.Message) {
		if m.GetType() == raftpb.MsgApp {
			close(busy)
			<-release
		}
	})
	a.say(appendMsg(a, b, 1, []byte("value")))
	next(t, busy)
	a.say(heartbeat(a, b, 9))
	wantMessage(t, next(t, b.received), heartbeat(a, b, 9))
	close(release)
}

func TestRestartedPeerIsReachedAgain(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(a, b)
	a.active(t, b)
	b.stop()
	next(t, a.unreachable)
	until(t, func() bool { return a.ActiveSince(2).IsZero() })
	b = start(t, 2)
	connect(a, b)
	a.active(t, b)
	a.say(heartbeat(a, b, 1))
	next(t, b.received)
}

func TestAllURLsOfAPeerAreTried(t *testing.T) {
	a, b, other := start(t, 1), start(t, 2), start(t, 3)
	const nobody = "http://127.0.0.1:1"
	a.SetPeers(map[uint64][]string{2: {nobody, "https://" + strings.TrimPrefix(b.url, "http://"), other.url, "bad://x", b.url}})
	a.active(t, b)
	a.say(heartbeat(a, b, 1))
	next(t, b.received)
	if a.logs.count("this is member 3") == 0 {
		t.Error("it is not said that somebody else answers at a URL")
	}
}

// Whose URLs are changed before it moves is reached where it is until it is gone from there.
func TestPeerThatMovesIsFollowed(t *testing.T) {
	a, old := start(t, 1), start(t, 2)
	moved := start(t, 2)
	connect(a, old)
	a.active(t, old)
	since := a.ActiveSince(2)
	connect(a, moved)
	a.say(heartbeat(a, old, 1))
	next(t, old.received)
	if got := a.ActiveSince(2); got != since {
		t.Errorf("it is connected since %v, not %v", got, since)
	}
	old.stop()
	next(t, a.unreachable)
	a.active(t, moved)
	a.say(heartbeat(a, moved, 1))
	next(t, moved.received)
}

func TestDelayedMessagesArriveInOrder(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	a.cables.change(func(c *cables) { c.delay = 2 * time.Millisecond })
	connect(a, b)
	for i := range uint64(100) {
		a.say(heartbeat(a, b, i))
	}
	for i := range uint64(100) {
		wantMessage(t, next(t, b.received), heartbeat(a, b, i))
	}
}

func TestCloseDoesNotWaitForAStalledPeer(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(a, b)
	a.active(t, b)
	a.cables.change(func(c *cables) { c.stalledTo = strings.TrimPrefix(b.url, "http://") })
	for i := range uint64(100) {
		a.say(appendMsg(a, b, i, make([]byte, 1<<20)))
	}
	next(t, a.cables.stalls)
	closed := make(chan struct{})
	go func() {
		a.Close()
		close(closed)
	}()
	next(t, closed)
	a.say(heartbeat(a, b, 1)) // to nobody, and harmless
}
