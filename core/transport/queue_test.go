package transport

import (
	"context"
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func ofSize(size int, mark uint64) outgoing {
	return outgoing{&raftpb.Message{Commit: proto.Uint64(mark)}, size}
}

func TestFullQueueDropsTheNewestAndSaysSoOnce(t *testing.T) {
	q := newQueue(1000)
	for i, want := range []struct{ ok, first bool }{{true, false}, {true, false}, {false, true}, {false, false}} {
		if ok, first := q.put(ofSize(200, uint64(i))); ok != want.ok || first != want.first {
			t.Errorf("put %d: %v, %v", i, ok, first)
		}
	}
	batch, err := q.take(t.Context())
	if err != nil || len(batch) != 2 || batch[1].GetCommit() != 1 {
		t.Fatalf("took %v, %v", batch, err)
	}
	if ok, _ := q.put(ofSize(200, 0)); !ok {
		t.Error("it is full though it is empty")
	}
	if _, first := q.put(ofSize(2000, 0)); !first {
		t.Error("it has been empty, but the next drop does not count")
	}
}

func TestQueueTakesOneMessageOfAnySize(t *testing.T) {
	q := newQueue(1000)
	if ok, _ := q.put(ofSize(maxFrameSize, 1)); !ok {
		t.Fatal("it was dropped, and would be for ever")
	}
	if batch, err := q.take(t.Context()); err != nil || len(batch) != 1 {
		t.Fatalf("took %v, %v", batch, err)
	}
}

func TestQueueGivesEveryMessageOnceInFramesOfBoundedSize(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	q := newQueue(8 << 20)
	var put, taken, bytes uint64
	for range 20_000 {
		size := rnd.IntN(2 * frameSize >> rnd.IntN(16))
		if rnd.IntN(3) > 0 {
			if ok, _ := q.put(ofSize(size, put)); ok {
				put++
				bytes += uint64(size)
			}
			continue
		}
		batch := q.takeNow()
		if len(batch) == 0 && put != taken {
			t.Fatalf("took nothing of %d", put-taken)
		}
		total := 0
		for _, m := range batch {
			if m.GetCommit() != taken {
				t.Fatalf("took %d, want %d", m.GetCommit(), taken)
			}
			taken++
			total += m.size
		}
		if len(batch) > 1 && total > frameSize {
			t.Fatalf("a frame of %d messages has %d bytes", len(batch), total)
		}
		if bytes -= uint64(total); q.bytes != int(bytes)+int(put-taken)*messageOverhead {
			t.Fatalf("counts %d bytes in %d messages, has %d", q.bytes, put-taken, bytes)
		}
	}
}

func TestWaitingForAMessageEndsWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errPeerGone)
	if _, err := newQueue(1).take(ctx); err != errPeerGone {
		t.Errorf("got %v", err)
	}
}
