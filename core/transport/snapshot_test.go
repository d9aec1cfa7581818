package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// content is a snapshot of size bytes, each position's own.
type content struct {
	size   int64
	failAt int64 // if not 0, reading fails there
	closed atomic.Int32
}

var errDisk = errors.New("input/output error")

func (c *content) WriteTo(w io.Writer) (int64, error) {
	buf := make([]byte, 8000)
	for at := int64(0); at < c.size; {
		if c.failAt > 0 && at >= c.failAt {
			return at, errDisk
		}
		n := min(int64(len(buf)), c.size-at)
		for i := 0; i < len(buf); i += 8 {
			binary.LittleEndian.PutUint64(buf[i:], uint64(at)+uint64(i))
		}
		written, err := w.Write(buf[:n])
		if at += int64(written); err != nil {
			return at, err
		}
	}
	return c.size, nil
}

func (c *content) Close() error {
	c.closed.Add(1)
	return nil
}

func (c *content) wantClosed(t *testing.T) {
	t.Helper()
	if n := c.closed.Load(); n != 1 {
		t.Errorf("the snapshot was closed %d times", n)
	}
}

func discard(_ context.Context, _ *raftpb.Message, body io.Reader) error {
	_, err := io.Copy(io.Discard, body)
	return err
}

func snapshotMsg(from, to *member) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: proto.Uint64(from.id), To: proto.Uint64(to.id), Term: proto.Uint64(7),
		Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: proto.Uint64(1000), Term: proto.Uint64(6), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}},
		}},
	}
}

func TestSnapshotArrivesWhole(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(a, b)
	for _, size := range []int64{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 10 << 20} {
		got := new(bytes.Buffer)
		b.onSnapshot(func(_ context.Context, m *raftpb.Message, body io.Reader) error {
			wantMessage(t, m, snapshotMsg(a, b))
			_, err := io.Copy(got, body)
			return err
		})
		c := &content{size: size}
		a.SendSnapshot(snapshotMsg(a, b), size, c)
		if sent := next(t, a.sent); sent.err != nil || sent.to != 2 {
			t.Fatalf("%d bytes: %+v", size, sent)
		}
		want := new(bytes.Buffer)
		if _, err := (&content{size: size}).WriteTo(want); err != nil || !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("%d bytes arrived as %d, or changed", size, got.Len())
		}
		c.wantClosed(t)
	}
}

func TestReceiverWithoutSpaceFailsTheSnapshotAtOnce(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(a, b)
	b.onSnapshot(func(_ context.Context, _ *raftpb.Message, body io.Reader) error {
		_, err := io.CopyN(io.Discard, body, 1<<20)
		return errors.Join(err, errors.New("no space left on device"))
	})
	c := &content{size: 1 << 40} // would take hours
	a.SendSnapshot(snapshotMsg(a, b), c.size, c)
	sent := next(t, a.sent)
	if sent.err == nil || !strings.Contains(sent.err.Error(), "no space left") {
		t.Errorf("got %v", sent.err)
	}
	c.wantClosed(t)
	b.onSnapshot(discard)
	a.SendSnapshot(snapshotMsg(a, b), 10, &content{size: 10})
	if sent := next(t, a.sent); sent.err != nil {
		t.Errorf("the next one: %v", sent.err)
	}
}

func TestSnapshotThatCannotBeReadFails(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(a, b)
	b.onSnapshot(func(ctx context.Context, m *raftpb.Message, body io.Reader) error {
		err := discard(ctx, m, body)
		if err == nil {
			t.Error("the receiver has taken it for whole")
		}
		return err
	})
	for _, c := range []struct {
		name      string
		announced int64
		content   *content
		want      string
	}{
		{"disk error", 1 << 20, &content{size: 1 << 20, failAt: 500_000}, errDisk.Error()},
		{"too short", 1 << 20, &content{size: 1000}, "it has 1000 bytes instead of 1048576"},
		{"too long", 1 << 20, &content{size: 1<<20 + 1}, ""}, // whoever notices first
		{"far too long", 1 << 10, &content{size: 1 << 40}, ""},
	} {
		a.SendSnapshot(snapshotMsg(a, b), c.announced, c.content)
		if sent := next(t, a.sent); sent.err == nil || !strings.Contains(sent.err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, sent.err, c.want)
		}
		c.content.wantClosed(t)
	}
}

func TestNewerSnapshotToTheSamePeerTakesOver(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(a, b)
	began := make(chan struct{}, 10)
	b.onSnapshot(func(ctx context.Context, m *raftpb.Message, body io.Reader) error {
		began <- struct{}{}
		return discard(ctx, m, body)
	})
	old := &content{size: 1 << 40}
	a.SendSnapshot(snapshotMsg(a, b), old.size, old)
	next(t, began)
	newer := &content{size: 1 << 20}
	a.SendSnapshot(snapshotMsg(a, b), newer.size, newer)
	if sent := next(t, a.sent); sent.err != nil {
		t.Errorf("the newer one: %v", sent.err)
	}
	if len(a.sent) > 0 {
		t.Error("the older one was reported too")
	}
	old.wantClosed(t)
	newer.wantClosed(t)
}

func TestSnapshotOfANewerLeaderTakesOver(t *testing.T) {
	a, b, c := start(t, 1), start(t, 2), start(t, 3)
	connect(a, b, c)
	began := make(chan uint64, 10)
	var inside atomic.Int32
	b.onSnapshot(func(ctx context.Context, m *raftpb.Message, body io.Reader) error {
		if inside.Add(1) > 1 {
			t.Error("two snapshots are received at once")
		}
		defer inside.Add(-1)
		began <- m.GetFrom()
		return discard(ctx, m, body)
	})
	old := &content{size: 1 << 40}
	a.SendSnapshot(snapshotMsg(a, b), old.size, old)
	next(t, began)

	same := snapshotMsg(c, b)
	c.SendSnapshot(same, 10, &content{size: 10})
	if sent := next(t, c.sent); sent.err == nil || !strings.Contains(sent.err.Error(), "is coming in") {
		t.Errorf("one of the same term: %v", sent.err)
	}
	newer := snapshotMsg(c, b)
	newer.Term = proto.Uint64(8)
	c.SendSnapshot(newer, 10, &content{size: 10})
	if sent := next(t, c.sent); sent.err != nil {
		t.Errorf("one of a newer term: %v", sent.err)
	}
	if sent := next(t, a.sent); sent.err == nil {
		t.Error("the one of the older term is said to have arrived")
	}
	old.wantClosed(t)
}

func TestSnapshotEndsWithItsPeerAndWithTheTransport(t *testing.T) {
	for name, end := range map[string]func(a, b *member){
		"removed":         func(a, _ *member) { a.remove(2); a.SetPeers(nil) },
		"sender closed":   func(a, _ *member) { a.Close() },
		"receiver closed": func(_, b *member) { b.Close() },
		"cut":             func(a, _ *member) { a.cables.cut() },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := start(t, 1), start(t, 2)
			connect(a, b)
			began, ended := make(chan struct{}), make(chan error, 1)
			b.onSnapshot(func(ctx context.Context, m *raftpb.Message, body io.Reader) error {
				close(began)
				err := discard(ctx, m, body)
				ended <- err
				return err
			})
			c := &content{size: 1 << 40}
			a.SendSnapshot(snapshotMsg(a, b), c.size, c)
			next(t, began)
			end(a, b)
			if err := next(t, ended); err == nil {
				t.Error("the receiver has taken it for whole")
			}
			if name == "removed" || name == "sender closed" {
				a.Close()
				if len(a.sent) > 0 {
					t.Errorf("reported %v", <-a.sent)
				}
			} else if sent := next(t, a.sent); sent.err == nil {
				t.Error("it is said to have arrived")
			}
			c.wantClosed(t)
		})
	}
}

func TestFailedSnapshotsAreReportedLaterAndLater(t *testing.T) {
	a := start(t, 1, func(o *memberOptions) { o.cfg.timing.pausing = 10 * time.Millisecond })
	a.SetPeers(map[uint64][]string{2: {"http://127.0.0.1:1"}})
	var last time.Duration
	for i := range 4 {
		c := &content{size: 10}
		begun := time.Now()
		a.SendSnapshot(snapshotMsg(a, &member{id: 2}), 10, c)
		if sent := next(t, a.sent); sent.err == nil {
			t.Fatal("it has arrived nowhere")
		}
		last = time.Since(begun)
		if least := 10 * time.Millisecond << i; last < least {
			t.Errorf("failure %d was reported after %v, before %v", i, last, least)
		}
		c.wantClosed(t)
	}
}

func TestSnapshotToNobodyIsClosed(t *testing.T) {
	a := start(t, 1)
	c := &content{size: 10}
	a.SendSnapshot(snapshotMsg(a, &member{id: 9}), 10, c)
	c.wantClosed(t)
}
