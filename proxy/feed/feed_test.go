package feed

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

func putAt(t *testing.T, key string, rev int64, size int) wire.Event {
	t.Helper()
	kv := wire.KeyValue{Key: []byte(key), Value: bytes.Repeat([]byte("v"), size), ModRevision: rev, CreateRevision: rev}
	e, err := wire.NewPutEvent(kv.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestRevisionsArePutTogetherWhole cuts a random history into responses and fragments as upstream may, with some of it
// sent again, and expects each revision once and whole.
func TestRevisionsArePutTogetherWhole(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		var all []wire.Event
		rev := int64(10)
		for range 1 + rnd.IntN(20) {
			rev += 1 + rnd.Int64N(3)
			for i := range 1 + rnd.IntN(4) {
				all = append(all, putAt(t, fmt.Sprintf("key%d", i), rev, rnd.IntN(20000)))
			}
		}
		reached := int64(10) + rnd.Int64N(rev-9)
		a := startAfter(reached)
		var got []coalesce.Batch
		for rest := all; len(rest) > 0; {
			n := 1 + rnd.IntN(len(rest))
			whole := n == len(rest) || rest[n].ModRev != rest[n-1].ModRev
			r := wire.WatchResponse{Events: bytesOfTheirOwn(rest[:n]), Fragment: !whole || rnd.IntN(3) == 0 && n < len(rest)}
			size := 0
			for _, e := range r.Events {
				size += len(e.Data)
			}
			received := slices.Clone(r.Events)
			done, err := a.add(&r, size)
			if err != nil {
				t.Fatal(err)
			}
			if size >= bigResponse && len(r.Events) > 1 {
				for _, e := range received { // what was given out must not be in it
					clear(e.Data)
				}
			}
			got = append(got, done...)
			rest = rest[n:]
		}
		var want []coalesce.Batch
		for _, e := range all {
			switch n := len(want); {
			case e.ModRev <= reached:
			case n > 0 && want[n-1].Revision == e.ModRev:
				want[n-1].Events = append(want[n-1].Events, e)
			default:
				want = append(want, coalesce.Batch{Revision: e.ModRev, Events: []wire.Event{e}})
			}
		}
		if len(got) != len(want) || len(a.partial) > 0 {
			t.Fatalf("seed %d: %d revisions instead of %d, %d events left", seed, len(got), len(want), len(a.partial))
		}
		for i := range want {
			same := got[i].Revision == want[i].Revision && len(got[i].Events) == len(want[i].Events)
			for j := 0; same && j < len(want[i].Events); j++ {
				g, w := got[i].Events[j], want[i].Events[j]
				same = bytes.Equal(g.Data, w.Data) && bytes.Equal(g.Key, w.Key)
			}
			if !same {
				t.Fatalf("seed %d: revision %d differs", seed, want[i].Revision)
			}
		}
	}
}

func bytesOfTheirOwn(events []wire.Event) []wire.Event {
	own := make([]wire.Event, len(events))
	for i, e := range events {
		e.Data, e.Key = bytes.Clone(e.Data), bytes.Clone(e.Key)
		own[i] = e
	}
	return own
}

func TestRevisionsThatGoBackAreAnError(t *testing.T) {
	five, four := putAt(t, "a", 5, 1), putAt(t, "b", 4, 1)
	for _, responses := range [][]wire.WatchResponse{
		{{Events: []wire.Event{five, four}}},
		{{Events: []wire.Event{five}}, {Events: []wire.Event{four}}},
	} {
		a := startAfter(3)
		var err error
		for i := range responses {
			_, err = a.add(&responses[i], 100)
		}
		if err == nil {
			t.Errorf("%d responses: no error", len(responses))
		}
	}
}
