package reads

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// within fails when more memory is taken than there is.
func (w *world) within() {
	w.t.Helper()
	if held := int(w.keeper.held.Load()); held > w.keeper.limit {
		w.t.Fatalf("%d bytes are held, want at most %d", held, w.keeper.limit)
	}
}

// TestPastStatesMakeRoomForNewOnes: they have what is left, at most a part of all, and go first.
func TestPastStatesMakeRoomForNewOnes(t *testing.T) {
	const bytes = 256 << 10
	inWorld(t, Config{Bytes: bytes, Fixed: []string{"a/"}}, puts("a/", 10, 1000), func(t *testing.T, w *world) {
		h := w.hot(ofPrefix("a/"))
		for range 1000 {
			w.write(op{key: "a/0001", value: make([]byte, 1000)})
			synctest.Wait()
			w.within()
		}
		if got, most := h.snap.HistoryBytes(), w.keeper.limit/historyPart; got < most/2 || got > most {
			t.Errorf("past states take %d bytes, want up to %d", got, most)
		}
		states := h.snap.Revision() - h.snap.Oldest()
		for i := range 160 {
			w.write(op{key: fmt.Sprintf("a/new%03d", i), value: make([]byte, 1000)})
			synctest.Wait()
			w.within()
		}
		if h.dropped() {
			t.Fatal("it is dropped, and not its past states")
		}
		if got := h.snap.Revision() - h.snap.Oldest(); got >= states {
			t.Errorf("there are %d past states, as many as before", got)
		}
	})
}

func TestWhatGrowsBeyondTheMemoryIsDropped(t *testing.T) {
	inWorld(t, Config{Bytes: 128 << 10, Fixed: []string{"a/"}}, nil, func(t *testing.T, w *world) {
		h := w.hot(ofPrefix("a/"))
		for i := range 200 {
			w.write(op{key: fmt.Sprintf("a/%04d", i), value: make([]byte, 1000)})
			synctest.Wait()
			w.within()
		}
		if !h.dropped() {
			t.Error("it is kept")
		}
		w.requests()
		pass(10 * time.Minute)
		if n := len(w.requests()); n == 0 || n > 12 {
			t.Errorf("upstream was asked %d times whether it fits now, want a few times", n)
		}
		if s := w.keeper.Stats(); s.DroppedRoom != 1 || w.isHot(ofPrefix("a/")) {
			t.Errorf("it is kept, or was not dropped for want of memory: %+v", s)
		}
	})
}

// TestWhatSparesLessMakesRoom: of two lists that do not fit together, the one that is read more stays.
func TestWhatSparesLessMakesRoom(t *testing.T) {
	fill := append(puts("a/", 100, 1000), puts("b/", 100, 1000)...)
	inWorld(t, Config{Bytes: 200 << 10}, fill, func(t *testing.T, w *world) {
		a := w.heat(listOf("a/"))
		for range 60 { // a second between two reads
			a.used(400 * time.Microsecond)
			pass(time.Second)
		}
		for range 8 {
			w.forward(listOf("b/"))
			pass(10 * time.Second)
		}
		if a.dropped() || w.isHot(ofPrefix("b/")) {
			t.Fatal("what is read every ten seconds takes the place of what is read each second")
		}
		pass(2 * time.Minute) // in which nobody reads
		for range 100 {
			w.forward(listOf("b/"))
			pass(100 * time.Millisecond)
			if w.isHot(ofPrefix("b/")) {
				break
			}
		}
		if !a.dropped() || !w.isHot(ofPrefix("b/")) {
			t.Error("what is read ten times a second finds no place beside what is not read any more")
		}
		w.within()
	})
}

func TestWhatIsFixedTakesThePlaceOfTheRest(t *testing.T) {
	fill := append(puts("a/", 100, 1000), puts("b/", 100, 1000)...)
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, fill...)
		w.standing.Connected = false // so that what is fixed comes later
		w.start(Config{Bytes: 200 << 10, Fixed: []string{"b/"}})
		synctest.Wait()
		w.keeper.mu.Lock()
		for _, f := range w.keeper.fixed {
			f.setback.extend(time.Now(), time.Minute, time.Minute)
		}
		w.keeper.mu.Unlock()
		w.set(func() { w.standing.Connected = true })
		pass(30 * time.Second)
		a := w.heat(listOf("a/"))
		pass(time.Minute)
		if !a.dropped() || !w.isHot(ofPrefix("b/")) {
			t.Error("what is fixed finds no place")
		}
		w.within()
	})
}

func TestARangeThatDoesNotFitIsNotLoaded(t *testing.T) {
	fill := append(puts("a/", 100, 3000), puts("b/", 1, 100)...)
	inWorld(t, Config{Bytes: 200 << 10}, fill, func(t *testing.T, w *world) {
		b := w.heat(get("b/0000"))
		for range 20 {
			w.forward(listOf("a/"))
		}
		pass(time.Second)
		for _, r := range w.requests() {
			if string(r.Key) == "a/" {
				t.Errorf("upstream was asked %v", r)
			}
		}
		if w.isHot(ofPrefix("a/")) || b.dropped() {
			t.Errorf("a/ is kept: %v, b/ is dropped: %v", w.isHot(ofPrefix("a/")), b.dropped())
		}
	})
}

func TestWhatALoadWillTakeIsNotGivenToAnother(t *testing.T) {
	fill := append(puts("a/", 100, 1000), puts("b/", 100, 1000)...)
	inWorld(t, Config{Bytes: 200 << 10}, fill, func(t *testing.T, w *world) {
		w.set(func() {
			w.answer = func(_ context.Context, r *pb.RangeRequest) (wire.Raw, error) {
				time.Sleep(time.Second)
				return w.read(r)
			}
		})
		for _, prefix := range []string{"a/", "b/"} {
			for range 8 {
				w.forward(listOf(prefix))
			}
			pass(2 * tendInterval)
		}
		for _, r := range w.requests() {
			if string(r.Key) == "b/" {
				t.Errorf("upstream was asked %v while a/ is loaded", r)
			}
		}
	})
}

func TestHotRangesLeaveRoomForTheWatchesOfClients(t *testing.T) {
	const crowded = 1000 // upstream watches, from which on proxy/feed merges them at any price
	if maxHots > crowded*2/3 {
		t.Errorf("%d ranges can be hot; want well below %d", maxHots, crowded)
	}
}

func TestRangesAreBoundedInNumber(t *testing.T) {
	inWorld(t, Config{Bytes: 64 << 20}, nil, func(t *testing.T, w *world) {
		w.set(func() {
			w.answer = func(_ context.Context, r *pb.RangeRequest) (wire.Raw, error) {
				if r.CountOnly {
					return nil, errors.New("nobody is to think of all keys together")
				}
				return w.read(r)
			}
		})
		for i := range maxHots + 100 {
			for range 8 {
				w.forward(get(fmt.Sprintf("k%04d", i)))
			}
			if i%10 == 0 {
				pass(tendInterval)
			}
		}
		pass(tendInterval)
		if n := len(w.ranges()); n > maxHots || n < maxHots-10 {
			t.Errorf("%d ranges are kept, want at most %d", n, maxHots)
		}
	})
}
