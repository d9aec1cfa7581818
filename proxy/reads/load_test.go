package reads

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// inLoad runs a test in which a/ is to be kept, and loaded with what answer says.
func inLoad(t *testing.T, bytes int, fill []op, answer func(*world, *pb.RangeRequest) (wire.Raw, error), test func(*testing.T, *world)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, fill...)
		w.answer = func(_ context.Context, r *pb.RangeRequest) (wire.Raw, error) { return answer(w, r) }
		w.start(Config{Bytes: bytes, Fixed: []string{"a/"}})
		synctest.Wait()
		test(t, w)
	})
}

// TestARangeIsReadInPagesOfOneRevision: the first linearizably, and the others from the same member as it is.
func TestARangeIsReadInPagesOfOneRevision(t *testing.T) {
	const keys = 3000
	read := (*world).read
	inLoad(t, 8<<20, puts("a/", keys, 300), read, func(t *testing.T, w *world) {
		w.same(w.hot(ofPrefix("a/")), 0)
		pages := w.requests()
		if len(pages) < 4 || len(pages) > 8 {
			t.Errorf("read in %d pages, want a few", len(pages))
		}
		for i, r := range pages {
			first := i == 0
			if r.Limit < 1 || r.Serializable == first || (r.Revision == 0) != first || r.Revision > 0 && r.Revision != w.store.revision() {
				t.Errorf("page %d is read by %v", i, r)
			}
		}
	})
}

// TestNoPageIsLargerThanItsPart of the memory, or than pageBytes, though nothing is known in advance.
func TestNoPageIsLargerThanItsPart(t *testing.T) {
	const bytes = 2 << 20
	largest := 0
	answer := func(w *world, r *pb.RangeRequest) (wire.Raw, error) {
		raw, err := w.read(r)
		largest = max(largest, len(raw))
		return raw, err
	}
	inLoad(t, bytes, puts("a/", 300, 3000), answer, func(t *testing.T, w *world) {
		w.same(w.hot(ofPrefix("a/")), 0)
		if largest > bytes/pageShare {
			t.Errorf("a page has %d bytes, want at most %d", largest, bytes/pageShare)
		}
	})
}

func TestWhatIsWrittenDuringALoadIsThere(t *testing.T) {
	n := 0
	answer := func(w *world, r *pb.RangeRequest) (wire.Raw, error) {
		change := func() {
			n++
			w.write(op{key: fmt.Sprintf("a/%04d", 7*n), value: []byte("changed")}, op{key: fmt.Sprintf("a/%04d", 11*n)},
				op{key: fmt.Sprintf("a/new%d", n), value: []byte("new")})
		}
		change()
		raw, err := w.read(r)
		change()
		time.Sleep(time.Millisecond) // some events come with the page, others before it
		return raw, err
	}
	inLoad(t, 8<<20, puts("a/", 1000, 300), answer, func(t *testing.T, w *world) {
		pass(time.Second)
		h := w.hot(ofPrefix("a/"))
		if n < 6 || h.snap.Revision() != w.store.revision() {
			t.Fatalf("after %d changes it is at %d, want %d", n, h.snap.Revision(), w.store.revision())
		}
		w.same(h, 0)
	})
}

func TestALoadThatCannotBeTrustedIsGivenUp(t *testing.T) {
	tamper := func(change func(*pb.RangeResponse)) func(*world, *pb.RangeRequest) (wire.Raw, error) {
		return func(w *world, r *pb.RangeRequest) (wire.Raw, error) {
			raw, err := w.read(r)
			var resp pb.RangeResponse
			decode(w.t, raw, &resp)
			change(&resp)
			return encode(&resp), err
		}
	}
	for name, answer := range map[string]func(*world, *pb.RangeRequest) (wire.Raw, error){
		"it fails":              func(*world, *pb.RangeRequest) (wire.Raw, error) { return nil, errors.New("upstream fails") },
		"it is no answer":       func(*world, *pb.RangeRequest) (wire.Raw, error) { return wire.Raw{0xff}, nil },
		"another cluster's":     tamper(func(r *pb.RangeResponse) { r.Header.ClusterId++ }),
		"from before the watch": tamper(func(r *pb.RangeResponse) { r.Header.Revision = 1 }),
		"more without keys":     tamper(func(r *pb.RangeResponse) { r.Kvs, r.More = nil, true }),
		"not in order":          tamper(func(r *pb.RangeResponse) { r.Kvs[0], r.Kvs[1] = r.Kvs[1], r.Kvs[0] }),
		"the second page fails": func(w *world, r *pb.RangeRequest) (wire.Raw, error) {
			if r.Revision > 0 {
				return nil, errors.New("upstream fails")
			}
			return w.read(r)
		},
		"the era changes": func(w *world, r *pb.RangeRequest) (wire.Raw, error) {
			w.set(func() { w.standing.Era++ })
			return w.read(r)
		},
		"the watch is cancelled": func(w *world, r *pb.RangeRequest) (wire.Raw, error) {
			w.cancelWatches(errors.New("the watch cannot go on"))
			time.Sleep(time.Millisecond)
			return w.read(r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inLoad(t, 1<<20, puts("a/", 100, 100), answer, func(t *testing.T, w *world) {
				pass(10 * time.Second)
				if w.isHot(ofPrefix("a/")) {
					t.Error("it is kept")
				}
				if s := w.keeper.Stats(); s.LoadsFailed < 3 || s.LoadsFailed > 20 || s.Bytes != 0 {
					t.Errorf("tried %d times, which leave %d bytes; want it to be tried now and then, for nothing", s.LoadsFailed, s.Bytes)
				}
			})
		})
	}
}

// A range that changes faster than it can be read must not take all memory for the changes.
func TestChangesDuringALoadAreBounded(t *testing.T) {
	const bytes = 512 << 10
	most := int64(0)
	answer := func(w *world, r *pb.RangeRequest) (wire.Raw, error) {
		for range 200 {
			w.write(op{key: "a/0001", value: make([]byte, 10<<10)})
			time.Sleep(time.Millisecond)
			w.set(func() { most = max(most, w.keeper.held.Load()) })
		}
		return w.read(r)
	}
	inLoad(t, bytes, puts("a/", 100, 100), answer, func(t *testing.T, w *world) {
		pass(10 * time.Second)
		if s := w.keeper.Stats(); w.isHot(ofPrefix("a/")) || s.LoadsFailed == 0 || s.Bytes != 0 {
			t.Errorf("after a load that had no room there is %+v", s)
		}
		w.set(func() {
			if most > bytes {
				t.Errorf("%d bytes were held, want at most %d", most, bytes)
			}
		})
	})
}

// An event may be a small part of a message that upstream has sent.
func TestChangesDuringALoadDoNotKeepTheirMessage(t *testing.T) {
	e, err := wire.NewPutEvent(encode(&mvccpb.KeyValue{Key: []byte("a/1"), Value: []byte("v"), ModRevision: 7}))
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Clone(e.Data)
	got := copyRevision([]wire.Event{e})
	clear(e.Data) // of which Key is a part
	if e := got.events[0]; got.rev != 7 || string(e.Key) != "a/1" || !bytes.Equal(e.Data, data) {
		t.Errorf("revision %d has %q, %q", got.rev, e.Key, e.Data)
	}
}

func TestAtMostTwoLoadsAreUnderWay(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, puts("a/", 3, 10)...)
		loading, most := 0, 0
		w.answer = func(_ context.Context, r *pb.RangeRequest) (wire.Raw, error) {
			w.set(func() { loading++; most = max(most, loading) })
			time.Sleep(time.Second)
			w.set(func() { loading-- })
			return w.read(r)
		}
		w.start(Config{Bytes: 1 << 20, Fixed: []string{"a/", "b/", "c/"}})
		pass(10 * time.Second)
		if got := len(w.ranges()); got != 3 || most != maxLoads {
			t.Errorf("%d ranges are kept, and %d loads were under way at a time; want 3 and %d", got, most, maxLoads)
		}
	})
}

func TestALoadThatHangsIsGivenUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, puts("a/", 3, 10)...)
		hang := true
		w.answer = func(ctx context.Context, r *pb.RangeRequest) (wire.Raw, error) {
			if hang {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return w.read(r)
		}
		w.start(Config{Bytes: 1 << 20, Fixed: []string{"a/"}})
		pass(callPatience + time.Second)
		if w.keeper.Stats().LoadsFailed == 0 {
			t.Error("it is waited for, for ever")
		}
		w.set(func() { hang = false })
		pass(callPatience + time.Second)
		w.same(w.hot(ofPrefix("a/")), 0)
	})
}
