package reads

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"

	"weir/coalesce"
	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inWorld runs a test on a clock of its own.
func inWorld(t *testing.T, cfg Config, fill []op, test func(t *testing.T, w *world)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, fill...)
		w.start(cfg)
		synctest.Wait()
		test(t, w)
	})
}

// pass lets time pass, and everything that happens meanwhile come to rest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// heat has a range read until it is kept, and not as often as would make a wider one be looked at.
func (w *world) heat(r *pb.RangeRequest) *hot {
	w.t.Helper()
	for range 8 {
		w.forward(r)
	}
	pass(tendInterval)
	return w.hot(intervalOf(r.Key, r.RangeEnd))
}

func ofKey(k string) interval { return intervalOf([]byte(k), nil) }

func TestAFixedPrefixIsKeptFromTheBeginning(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20, Fixed: []string{"a/", "a/b/"}}, puts("a/", 10, 100), func(t *testing.T, w *world) {
		if got := w.ranges(); len(got) != 1 || got[0] != ofPrefix("a/") {
			t.Fatalf("kept are %v, want a/ alone, which has a/b/ too", got)
		}
		w.write(op{key: "a/b/new", value: []byte("v")})
		synctest.Wait()
		h := w.hot(ofKey("a/b/new"))
		w.same(h, 0)
		if w.isHot(ofKey("b")) || w.isHot(everything) {
			t.Error("more is kept than what is fixed")
		}
	})
}

func TestNothingIsKeptWithoutMemory(t *testing.T) {
	inWorld(t, Config{}, puts("a/", 10, 100), func(t *testing.T, w *world) {
		for range 100 {
			w.forward(get("a/0001"))
		}
		pass(time.Second)
		if w.isHot(ofKey("a/0001")) || w.keeper.Stats().Candidates != 0 || len(w.requests()) != 0 {
			t.Error("something is kept or was looked at")
		}
	})
	if _, err := New(Config{Fixed: []string{"a/"}}); err == nil {
		t.Error("a prefix is to be kept in no memory, and nobody says so")
	}
}

func TestAFixedPrefixIsLoadedAgainUntilItSucceeds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, puts("a/", 10, 100)...)
		var at []time.Time
		w.answer = func(_ context.Context, r *pb.RangeRequest) (wire.Raw, error) {
			if at = append(at, time.Now()); len(at) < 9 {
				return nil, errors.New("not now")
			}
			return w.read(r)
		}
		w.start(Config{Bytes: 1 << 20, Fixed: []string{"a/"}})
		pass(time.Minute)
		w.same(w.hot(ofPrefix("a/")), 0)
		pause := firstFixedPause
		for i := 1; i < len(at); i++ {
			if got := at[i].Sub(at[i-1]); got < pause || got > pause+tendInterval {
				t.Errorf("try %d comes after %v, want %v", i, got, pause)
			}
			pause = min(2*pause, longestFixedPause)
		}
		w.cancelWatches(errors.New("the watch cannot go on"))
		synctest.Wait()
		if w.isHot(ofPrefix("a/")) {
			t.Error("it is kept without a watch")
		}
		pass(time.Minute)
		w.same(w.hot(ofPrefix("a/")), 0)
	})
}

func TestWhatIsReadOftenIsKept(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20}, puts("a/", 10, 100), func(t *testing.T, w *world) {
		h := w.heat(get("a/0003"))
		w.write(op{key: "a/0003", value: []byte("new")}, op{key: "a/0004", value: []byte("new")})
		synctest.Wait()
		w.same(h, 0)
		w.same(h, w.store.revision()-1)
		if w.isHot(ofKey("a/0004")) {
			t.Error("a key is kept that was never read")
		}
	})
}

func TestAWiderRangeReplacesNarrowOnesButNotFixedOnes(t *testing.T) {
	fill := append(puts("a/", 30, 100), puts("b/", 30, 100)...)
	inWorld(t, Config{Bytes: 1 << 20, Fixed: []string{"b/"}}, fill, func(t *testing.T, w *world) {
		narrow := w.heat(get("a/0003"))
		fixed := w.hot(ofPrefix("b/"))
		wide := w.heat(listOf(""))
		if !narrow.dropped() || w.hot(ofKey("a/0003")) != wide {
			t.Error("a narrow range is kept beside a wider one")
		}
		if fixed.dropped() || w.hot(ofKey("b/0003")) != fixed {
			t.Error("a fixed range was given up for a wider one")
		}
	})
}

func TestARangeThatIsLoadedLateGivesWayToAWiderOne(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20}, puts("a/", 30, 100), func(t *testing.T, w *world) {
		w.set(func() {
			w.answer = func(_ context.Context, r *pb.RangeRequest) (wire.Raw, error) {
				if len(r.RangeEnd) == 0 {
					time.Sleep(time.Second)
				}
				return w.read(r)
			}
		})
		for range 8 {
			w.forward(get("a/0003"))
		}
		pass(tendInterval)
		wide := w.heat(listOf("a/"))
		pass(time.Second)
		if got := w.loaded(); len(got) != 1 || got[0] != wide || w.hot(ofKey("a/0003")) != wide {
			t.Errorf("kept are %v, want only the wider range", w.ranges())
		}
	})
}

func TestWhatIsNotReadAnyMoreIsDropped(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20, Fixed: []string{"b/"}}, puts("a/", 10, 100), func(t *testing.T, w *world) {
		h := w.heat(get("a/0003"))
		for range 10 {
			pass(unusedAfter - time.Second)
			h.used(time.Millisecond)
		}
		if h.dropped() {
			t.Fatal("it is dropped though it is read")
		}
		pass(unusedAfter + time.Second)
		if !h.dropped() || w.isHot(ofKey("a/0003")) {
			t.Error("it is kept though nobody reads it")
		}
		w.hot(ofPrefix("b/"))
		w.heat(get("a/0003")) // and may come back at once
	})
}

func TestWhatCostsMoreThanItSparesIsDropped(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20}, puts("a/", 10, 100), func(t *testing.T, w *world) {
		cheap, dear := w.heat(get("a/0003")), w.heat(get("a/0004"))
		for range 90 {
			for range 20 {
				w.write(op{key: "a/0004", value: []byte("v")})
			}
			w.write(op{key: "a/0003", value: []byte("v")})
			cheap.used(80 * time.Microsecond)
			dear.used(80 * time.Microsecond)
			pass(time.Second)
		}
		if cheap.dropped() || !dear.dropped() {
			t.Errorf("dropped are the one with few changes: %v, the one with many: %v", cheap.dropped(), dear.dropped())
		}
		for range 8 {
			w.forward(get("a/0004"))
		}
		pass(time.Second)
		if w.isHot(ofKey("a/0004")) {
			t.Error("it is loaded again at once")
		}
	})
}

func TestAnotherEraVoidsEverything(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20, Fixed: []string{"b/"}}, puts("a/", 10, 100), func(t *testing.T, w *world) {
		chosen, fixed := w.heat(get("a/0003")), w.hot(ofPrefix("b/"))
		w.set(func() { w.standing.Era++ })
		pass(tendInterval)
		if !chosen.dropped() || !fixed.dropped() {
			t.Error("a range of another era is kept")
		}
		pass(time.Second)
		if h := w.hot(ofPrefix("b/")); h.era != w.Standing().Era {
			t.Error("the fixed range is of another era")
		}
	})
}

func TestNothingIsLoadedWhileReadsAreNotSharedOrUpstreamIsAway(t *testing.T) {
	for _, standing := range []Standing{{Shared: true, Era: 1}, {Connected: true, Confirmed: true, Era: 1}} {
		inWorld(t, Config{Bytes: 1 << 20}, puts("a/", 10, 100), func(t *testing.T, w *world) {
			w.set(func() { w.standing = standing })
			for range 20 {
				w.forward(get("a/0003"))
			}
			pass(time.Second)
			if asked := w.requests(); len(asked) != 0 {
				t.Errorf("%+v: upstream was asked %v", standing, asked)
			}
		})
	}
}

// Within a second of a compaction nothing that is older is kept, and upstream is told what is.
func TestCompactionIsHonoured(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20, Fixed: []string{"a/"}}, puts("a/", 10, 100), func(t *testing.T, w *world) {
		for i := range 10 {
			w.write(op{key: "a/0003", value: fmt.Appendf(nil, "%d", i)})
			pass(tendInterval)
		}
		h := w.hot(ofPrefix("a/"))
		oldest, head := h.snap.Oldest(), h.snap.Revision()
		if w.kept != oldest || oldest >= head-5 {
			t.Fatalf("revisions from %d to %d are kept, and upstream was told %d", oldest, head, w.kept)
		}
		w.set(func() { w.store.compacted = head - 2 })
		pass(tendInterval)
		if h.snap.Oldest() != head-2 {
			t.Errorf("the oldest revision is %d, want the compact revision %d", h.snap.Oldest(), head-2)
		}
		pass(tendInterval)
		if w.kept != head-2 {
			t.Errorf("upstream was told that %d is kept, want %d", w.kept, head-2)
		}
		w.set(func() { w.store.compacted = head })
		pass(2 * tendInterval)
		if w.kept != head {
			t.Errorf("upstream was told that %d is kept, want %d", w.kept, head)
		}
	})
}

func TestWhoWaitsForARevisionIsWokenByItsEvent(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20, Fixed: []string{"a/"}}, puts("a/", 3, 10), func(t *testing.T, w *world) {
		h := w.hot(ofPrefix("a/"))
		w.set(func() { w.mute = true })
		w.write(op{key: "a/0001", value: []byte("new")})
		head := w.store.revision()
		errs := make(chan error, 2)
		for range 2 {
			go func() { errs <- h.await(t.Context(), head) }()
		}
		synctest.Wait()
		if len(errs) != 0 {
			t.Fatal("nobody may know yet")
		}
		w.set(func() { w.publish(1) })
		for range 2 {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		w.same(h, head)
		if n := h.waiting(); n != 0 {
			t.Errorf("%d revisions are still waited for", n)
		}
	})
}

// A thousand who wait for a revision in which nothing happened to the range cost one request for progress.
func TestWhoWaitsSharesOneRequestForProgress(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20, Fixed: []string{"a/"}}, puts("a/", 3, 10), func(t *testing.T, w *world) {
		h := w.hot(ofPrefix("a/"))
		w.set(func() { w.quiet = true })
		w.write(op{key: "b", value: []byte("elsewhere")})
		head, before := w.store.revision(), w.syncs
		errs := make(chan error, 1000)
		for range cap(errs) {
			go func() { errs <- h.await(t.Context(), head) }()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		if got := h.snap.Revision(); got != head {
			t.Errorf("the range is at %d, want %d", got, head)
		}
		if n := w.syncs - before; n > 2 {
			t.Errorf("upstream was asked %d times, want once or twice", n)
		}
	})
}

func TestWhoWaitsLeavesWithHisContextOrTheRange(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20, Fixed: []string{"a/"}}, puts("a/", 3, 10), func(t *testing.T, w *world) {
		h := w.hot(ofPrefix("a/"))
		w.set(func() { w.mute = true })
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := h.await(ctx, 100); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want that of the context", err)
		}
		if n := h.waiting(); n != 0 {
			t.Errorf("%d revisions are still waited for", n)
		}
		errs := make(chan error)
		go func() { errs <- h.await(t.Context(), 100) }()
		synctest.Wait()
		w.hub.End(errors.New("reads are not shared any more"))
		if err := <-errs; !errors.Is(err, errDropped) {
			t.Errorf("error %v, want %v", err, errDropped)
		}
		if !h.dropped() {
			t.Error("a range of which the stream has ended is not dropped")
		}
		if err := h.await(t.Context(), 1); err != nil {
			t.Errorf("what has been reached is to be had for ever: %v", err)
		}
	})
}

func TestCloseEndsLoadsAndWaits(t *testing.T) {
	inWorld(t, Config{Bytes: 1 << 20, Fixed: []string{"a/", "b/"}}, puts("a/", 3, 10), func(t *testing.T, w *world) {
		h := w.hot(ofPrefix("a/"))
		w.set(func() {
			w.mute = true
			w.answer = func(ctx context.Context, _ *pb.RangeRequest) (wire.Raw, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		})
		w.cancelWatches(&coalesce.CompactedError{CompactRevision: 1})
		pass(time.Second)
		if got := w.keeper.Stats().Loading; got != 2 {
			t.Fatalf("%d loads are under way, want 2", got)
		}
		errs := make(chan error, 1)
		go func() { errs <- h.await(t.Context(), 100) }()
		w.keeper.Close()
		if err := <-errs; !errors.Is(err, errDropped) {
			t.Errorf("error %v, want %v", err, errDropped)
		}
		w.keeper.turn(time.Now()) // as if one had been about to begin
		if s := w.keeper.Stats(); w.isHot(ofPrefix("a/")) || s.Loading != 0 || w.kept != 0 {
			t.Error("something is kept after Close")
		}
	})
}
