package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"weir/internal/bubble"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func TestUnknownCallerIsHeardAndAnswered(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(a, b)
	b.SetPeers(map[uint64][]string{2: {b.url}}) // has not applied yet that a is a member
	a.active(t, b)
	a.say(heartbeat(a, b, 1))
	next(t, b.received)
	b.say(heartbeat(b, a, 2))
	next(t, a.received)

	a.stop()
	until(t, func() bool { return b.peer(1) == nil })
}

func TestGuestThatBecomesAMemberStays(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(a, b)
	b.SetPeers(nil)
	a.active(t, b)
	b.active(t, a)
	guest := b.peer(1)
	connect(a, b)
	if b.peer(1) != guest || b.ActiveSince(1).IsZero() {
		t.Error("it was connected to anew")
	}
	a.stop()
	next(t, b.unreachable)
	until(t, func() bool { return b.ActiveSince(1).IsZero() })
	if b.peer(1) == nil {
		t.Error("a member was forgotten")
	}
}

func TestGuestsAreBounded(t *testing.T) {
	b := start(t, 2)
	for i := range maxGuests {
		s := rawStream(rawContext(t, uint64(100+i), b, keyChannel, "small"), t, b, &messagesDesc)
		if _, err := s.Header(); err != nil {
			t.Fatal(err)
		}
	}
	s := rawStream(rawContext(t, 99, b, keyChannel, "small"), t, b, &messagesDesc)
	if _, err := s.end(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v", err)
	}
	b.SetPeers(map[uint64][]string{3: {"http://127.0.0.1:1"}})
	s = rawStream(rawContext(t, 3, b, keyChannel, "small"), t, b, &messagesDesc)
	if _, err := s.Header(); err != nil {
		t.Errorf("a member: %v", err)
	}
}

func TestQuietGuestIsEndedAndAQuietMemberIsNot(t *testing.T) {
	b := start(t, 2, func(o *memberOptions) { o.cfg.timing.quiet = time.Millisecond })
	b.SetPeers(map[uint64][]string{1: {"http://127.0.0.1:1"}})
	member := rawStream(rawContext(t, 1, b, keyChannel, "small"), t, b, &messagesDesc)
	if _, err := member.Header(); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		guest := rawStream(rawContext(t, 9, b, keyChannel, "small"), t, b, &messagesDesc)
		if _, err := guest.end(); status.Code(err) != codes.DeadlineExceeded {
			t.Fatalf("the guest's stream ended with %v", err)
		}
	}
	until(t, func() bool { return b.peer(9) == nil })
	member.send(frameOf(t, heartbeat(&raftMember1, b, 1)))
	next(t, b.received)
}

// Such a member has just been made, and is to hear its leader.
func TestQuietStrangersKeepNobodyFromAMemberThatKnowsNobody(t *testing.T) {
	b := start(t, 2, func(o *memberOptions) { o.cfg.timing.quiet = time.Millisecond })
	b.SetPeers(nil)
	for i := range maxGuests {
		s := rawStream(rawContext(t, uint64(100+i), b, keyChannel, "small"), t, b, &messagesDesc)
		if _, err := s.end(); status.Code(err) != codes.DeadlineExceeded {
			t.Fatalf("the stream of a stranger ended with %v", err)
		}
	}
	a := start(t, 1)
	a.SetPeers(map[uint64][]string{2: {b.url}})
	until(t, func() bool { // its stream ends too when it is quiet, and is made again
		a.say(heartbeat(a, b, 1))
		return len(b.received) > 0
	})
}

func TestQuietStreamEndsIfItIsInTheWay(t *testing.T) {
	const waiting, working = 5, 6 // values of receives
	link := func(from uint64) inboundKey { return inboundKey{from, "small"} }
	nobody := map[uint64][]string{}
	known := map[uint64][]string{1: {"http://127.0.0.1:1"}}
	for _, c := range []struct {
		name     string
		members  map[uint64][]string
		key      inboundKey
		from     uint64
		receives uint64
		want     error
	}{
		{"a member's link", known, link(1), 1, waiting, nil},
		{"a guest's link", known, link(9), 9, waiting, errQuiet},
		{"a guest's link, of which a message is being taken", known, link(9), 9, working, nil},
		{"a guest's link, where nobody is known", nobody, link(9), 9, waiting, errQuiet},
		{"a member's snapshot", known, snapshotKey, 1, waiting, errQuiet},
		{"a member's snapshot that is being stored", known, snapshotKey, 1, working, nil},
		{"a guest's snapshot", nobody, snapshotKey, 9, waiting, errQuiet},
	} {
		bubble.Test(t, func(t *testing.T) {
			tr := New(Config{ID: 2, Handler: new(member), Logger: slog.New(slog.DiscardHandler)})
			defer tr.Close()
			tr.mu.Lock() // so that nothing is dialled
			for id := range c.members {
				tr.peers[id] = &peer{id: id}
			}
			tr.mu.Unlock()
			in := &inbound{from: c.from, ended: make(chan struct{})}
			in.receives.Store(c.receives)
			worked := make(chan error, 1)
			time.AfterFunc(3*tr.cfg.timing.quiet, func() { worked <- nil })
			if err := tr.watch(c.key, in, worked); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.name, err, c.want)
			}
		})
	}
}

func TestStreamOnWhichSomethingComesNowAndThenIsNotQuiet(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		tr := New(Config{ID: 2, Handler: new(member), Logger: slog.New(slog.DiscardHandler)})
		defer tr.Close()
		in := &inbound{from: 9, ended: make(chan struct{})}
		in.receives.Store(1)
		worked := make(chan error, 1)
		go func() {
			for range 10 {
				time.Sleep(tr.cfg.timing.quiet - time.Second)
				in.receives.Add(2)
			}
			worked <- nil
		}()
		if err := tr.watch(snapshotKey, in, worked); err != nil {
			t.Error(err)
		}
	})
}

// raftMember1 is a member of which only messages are seen.
var raftMember1 = member{id: 1}

func TestOneGuestAtATimeSendsWhatIsLarge(t *testing.T) {
	b := start(t, 2)
	part := append([]byte{formatVersion | continued}, make([]byte, partSize-1)...)
	open := func(from uint64) *raw {
		s := rawStream(rawContext(t, from, b, keyChannel, "bulk"), t, b, &messagesDesc)
		if _, err := s.Header(); err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := open(8)
	first.send(part)
	until(t, func() bool { return len(b.guestFrame) == 1 })
	second := open(9)
	second.send(part)
	if _, err := second.end(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a second guest: %v", err)
	}
	b.SetPeers(map[uint64][]string{1: {"http://127.0.0.1:1"}})
	large := appendMsg(&raftMember1, b, 1, bytes.Repeat([]byte("x"), 3*partSize))
	known := open(1)
	frame, err := encodeFrame([]outgoing{{large, proto.Size(large)}})
	if err != nil {
		t.Fatal(err)
	}
	for part := range partsOf(frame) {
		known.send(part.Materialize())
		part.Free()
	}
	wantMessage(t, next(t, b.received), large)

	if err := first.CloseSend(); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return len(b.guestFrame) == 0 })
}

func TestGuestMaySayWhatMembersSayByTheirFlagsAndNoMore(t *testing.T) {
	b := start(t, 2, func(o *memberOptions) { o.cfg.MaxMessage = 3 * partSize })
	b.SetPeers(map[uint64][]string{1: {"http://127.0.0.1:1"}})
	say := func(from uint64, size int) (*raw, *raftpb.Message) {
		m := appendMsg(&member{id: from}, b, 1, make([]byte, size))
		frame, err := encodeFrame([]outgoing{{m, proto.Size(m)}})
		if err != nil {
			t.Fatal(err)
		}
		s := rawStream(rawContext(t, from, b, keyChannel, "bulk"), t, b, &messagesDesc)
		for part := range materialized(frame) {
			s.send(part)
		}
		return s, m
	}
	for _, c := range []struct {
		from uint64
		size int
	}{{9, 3*partSize - 100}, {1, 5 * partSize}} {
		_, m := say(c.from, c.size)
		wantMessage(t, next(t, b.received), m)
	}
	s, _ := say(9, 3*partSize)
	if _, err := s.end(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("more of a guest: %v", err)
	}
	until(t, func() bool { return len(b.guestFrame) == 0 })
}

// incomingSnapshots has b tell of each snapshot that begins to come in, and of how it ends.
func incomingSnapshots(b *member) (began chan uint64, ended chan error) {
	began, ended = make(chan uint64, 10), make(chan error, 10)
	b.onSnapshot(func(ctx context.Context, m *raftpb.Message, body io.Reader) error {
		began <- m.GetFrom()
		err := discard(ctx, m, body)
		ended <- err
		return err
	})
	return began, ended
}

func TestGuestCannotTakeTheSnapshotOfAMember(t *testing.T) {
	a, b, guest := start(t, 1), start(t, 2), start(t, 9)
	connect(a, b)
	guest.SetPeers(map[uint64][]string{2: {b.url}})
	began, _ := incomingSnapshots(b)
	of := &content{size: 1 << 40}
	a.SendSnapshot(snapshotMsg(a, b), of.size, of)
	next(t, began)
	newer := snapshotMsg(guest, b)
	newer.Term = proto.Uint64(1 << 60)
	guest.SendSnapshot(newer, 10, &content{size: 10})
	if sent := next(t, guest.sent); sent.err == nil {
		t.Error("it was let in")
	}
	if len(a.sent) > 0 {
		t.Errorf("the member's has ended: %+v", <-a.sent)
	}
}

func TestMemberTakesTheSnapshotOfAGuestWhateverItsTerm(t *testing.T) {
	a, b, guest := start(t, 1), start(t, 2), start(t, 9)
	connect(a, b)
	guest.SetPeers(map[uint64][]string{2: {b.url}})
	began, ended := incomingSnapshots(b)
	endless := snapshotMsg(guest, b)
	endless.Term = proto.Uint64(1 << 60)
	guest.SendSnapshot(endless, 1<<40, &content{size: 1 << 40})
	next(t, began)
	a.SendSnapshot(snapshotMsg(a, b), 10, &content{size: 10})
	if sent := next(t, a.sent); sent.err != nil {
		t.Errorf("the member's: %v", sent.err)
	}
	if err := next(t, ended); err == nil {
		t.Error("the guest's is taken for whole")
	}
	if err := next(t, ended); err != nil {
		t.Errorf("the member's: %v", err)
	}
}

func TestSnapshotThatDoesNotGoOnIsGivenUp(t *testing.T) {
	b := start(t, 2, func(o *memberOptions) { o.cfg.timing.quiet = time.Millisecond })
	b.SetPeers(map[uint64][]string{1: {"http://127.0.0.1:1"}})
	_, ended := incomingSnapshots(b)
	for _, from := range []uint64{1, 9} {
		s := rawStream(rawContext(t, from, b, keyTerm, "7"), t, b, &snapshotDesc)
		head, err := snapshotHead{10, snapshotMsg(&member{id: from}, b)}.encode()
		if err != nil {
			t.Fatal(err)
		}
		s.send(head.Materialize())
		if _, err := s.end(); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("that of %d ended with %v", from, err)
		}
	}
	for range len(ended) { // the head may have been too late
		if err := next(t, ended); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("it is taken for whole: %v", err)
		}
	}
}
