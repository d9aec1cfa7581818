package reads

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/grpcapi/wire"
)

// heater is a heat on a clock of its own.
type heater struct {
	*heat
	t   *testing.T
	now time.Time
}

func newHeater(t *testing.T) *heater {
	return &heater{heat: newHeat(), t: t, now: time.Unix(1e9, 0)}
}

// read counts a read of which the answer has so many keys, each of so many bytes, and there are `more`.
func (h *heater) read(r *pb.RangeRequest, keys, bytes, more int) {
	h.add(h.now, readingOf(request(h.t, r), wire.RangeResponse{Count: int64(keys + more), More: more > 0}, keys*bytes))
}

// get counts a read of one key of 256 bytes.
func (h *heater) get(key string) { h.read(get(key), 1, 256, 0) }

// ripe are the ranges that are worth loading now.
func (h *heater) ripe() (all []string) {
	for _, o := range h.heat.ripe(h.now) {
		all = append(all, o.String())
	}
	return all
}

func (h *heater) mustBeRipe(want ...string) {
	h.t.Helper()
	if got := h.ripe(); fmt.Sprint(got) != fmt.Sprint(want) {
		h.t.Fatalf("worth loading: %q, want %q", got, want)
	}
}

func TestAKeyThatIsReadOftenIsWorthLoading(t *testing.T) {
	h := newHeater(t)
	for range 5 {
		h.get("a/1")
		h.now = h.now.Add(100 * time.Millisecond)
	}
	h.mustBeRipe()
	h.get("a/1")
	h.get("a/1")
	h.mustBeRipe("a/1")
}

func TestAKeyThatIsReadSeldomIsNeverWorthLoading(t *testing.T) {
	h := newHeater(t)
	for range 1000 {
		h.get("a/1")
		h.now = h.now.Add(4 * time.Second)
		h.mustBeRipe()
	}
}

func TestAListIsWorthLoadingAfterAsManyReadsAsAKey(t *testing.T) {
	for _, keys := range []int{10, 1000, 100_000} {
		h := newHeater(t)
		reads := 0
		for ; len(h.ripe()) == 0 && reads < 100; reads++ {
			h.read(listOf("a/"), keys, 300, 0)
		}
		if reads > 7 {
			t.Errorf("a list of %d keys is worth loading after %d reads, want at most 7", keys, reads)
		}
	}
}

// The pages of a list are all different ranges. What they have in common is the prefix, of which each states the count
// of only a part.
func TestAListReadInPagesMakesItsPrefixWorthLoading(t *testing.T) {
	h := newHeater(t)
	for range 8 {
		for page := range 10 {
			r := listOf("a/")
			r.Key, r.Limit = fmt.Appendf(nil, "a/%d", page), 100
			h.read(r, 100, 300, 900-100*page)
		}
	}
	i, ok := h.uncounted(h.now)
	if !ok || i != ofPrefix("a/") {
		t.Fatalf("to be counted: %s, %v; want the prefix", i, ok)
	}
	h.counted(i, 1000)
	var found *offer
	for _, o := range h.heat.ripe(h.now) {
		if o.interval == i {
			found = &o
		}
	}
	if found == nil || found.size != (size{keys: 1000, bytes: 300_000}) {
		t.Fatalf("of the prefix is offered %+v", found)
	}
}

func TestAPrefixIsWorthLoadingWhenNoneOfItsKeysIs(t *testing.T) {
	h := newHeater(t)
	for key := range 2000 {
		h.get(fmt.Sprintf("a/b/%d", key))
	}
	h.mustBeRipe()
	if i, ok := h.uncounted(h.now); !ok || i != ofPrefix("a/b/") {
		t.Fatalf("to be counted: %s, %v; want the longest prefix", i, ok)
	}
	h.counted(ofPrefix("a/b/"), 2000)
	h.mustBeRipe(ofPrefix("a/b/").String())
	if got := h.heat.ripe(h.now)[0].size; got != (size{keys: 2000, bytes: 2000 * 256}) {
		t.Fatalf("its size is taken to be %+v", got)
	}
}

func TestALargePrefixIsNotLoadedForAFewOfItsKeys(t *testing.T) {
	h := newHeater(t)
	for range 400 {
		for key := range 10 {
			h.get(fmt.Sprintf("a/%d", key))
		}
		h.counted(ofPrefix("a/"), 1_000_000)
		h.counted(everything, 5_000_000)
	}
	if got := h.ripe(); len(got) != 10 {
		t.Fatalf("worth loading: %q, want the ten keys", got)
	}
}

func TestTheNarrowestIsLoadedFirst(t *testing.T) {
	h := newHeater(t)
	for range 1000 {
		h.get("a/b/1")
		h.get("a/b/2")
		h.read(listOf("a/b/"), 10, 256, 0)
	}
	h.counted(ofPrefix("a/"), 100)
	h.counted(everything, 1000)
	got := h.ripe()
	want := []string{ofPrefix("a/b/").String(), ofPrefix("a/").String(), everything.String()}
	if len(got) != 5 || fmt.Sprint(got[2:]) != fmt.Sprint(want) {
		t.Fatalf("worth loading: %q, want the keys, then %q", got, want)
	}
}

func TestCountsAreAskedForEverMoreSeldom(t *testing.T) {
	h := newHeater(t)
	var asked []time.Time
	start := h.now
	for h.now.Sub(start) < 4*time.Hour {
		h.read(get("k"), 1, 1<<20, 0) // there is only the whole key space to count
		if _, ok := h.uncounted(h.now); ok {
			asked = append(asked, h.now)
			h.counted(everything, 1<<40)
		}
		h.now = h.now.Add(time.Second)
	}
	pause := firstCountPause
	for i := 1; i < len(asked); i++ {
		if got := asked[i].Sub(asked[i-1]); got < pause {
			t.Fatalf("counted %v after the time before, want at least %v", got, pause)
		}
		pause = min(2*pause, longestCountPause)
	}
	if len(asked) < 6 {
		t.Fatalf("counted %d times, want more", len(asked))
	}
}

func TestWhatIsRememberedOfReadsIsBounded(t *testing.T) {
	const seed = 2
	rnd := rand.New(rand.NewPCG(seed, 0))
	h := newHeater(t)
	most := 0
	for i := range 100_000 {
		h.get(fmt.Sprintf("a/%x/%x", rnd.Uint32(), rnd.Uint32()))
		if i%50 == 0 {
			h.get("hot/key")
		}
		h.now = h.now.Add(50 * time.Microsecond)
		most = max(most, len(h.candidates))
	}
	if most > maxCandidates {
		t.Errorf("%d ranges are remembered, want at most %d", most, maxCandidates)
	}
	h.mustBeRipe("hot/key")
}

func TestRangesOfLongKeysAreNotRemembered(t *testing.T) {
	h := newHeater(t)
	long := string(make([]byte, maxInterval))
	h.get(long)
	h.read(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("a" + long)}, 1, 1, 0)
	if h.len() != 0 {
		t.Errorf("%d ranges are remembered, want none", h.len())
	}
}

func TestEmptyRangesAreNotRemembered(t *testing.T) {
	h := newHeater(t)
	h.read(&pb.RangeRequest{Key: []byte("b"), RangeEnd: []byte("a")}, 0, 0, 0)
	if h.len() != 0 {
		t.Errorf("%d ranges are remembered, want none", h.len())
	}
}

func TestAnswersWithoutValuesDoNotTellHowLargeKeysAre(t *testing.T) {
	h := newHeater(t)
	h.get("b")
	for _, r := range []*pb.RangeRequest{{KeysOnly: true}, {CountOnly: true}, {MinModRevision: 7}} {
		r.Key, r.RangeEnd = []byte("a/"), []byte("a0")
		h.read(r, 100, 1, 0)
	}
	c := h.candidates[ofPrefix("a/")]
	if got := h.sizeOf(c); got != (size{keys: 100, bytes: 100 * 256}) {
		t.Errorf("size is taken to be %+v, want that of other keys", got)
	}
}

func TestAFailureIsWaitedForLongerEachTime(t *testing.T) {
	h := newHeater(t)
	heat := func() {
		for range 10 {
			h.get("a")
		}
	}
	for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
		heat()
		h.setBack(h.now, intervalOf([]byte("a"), nil), firstPause, longestPause)
		h.now = h.now.Add(want*time.Second - 1)
		heat()
		h.mustBeRipe()
		h.now = h.now.Add(1)
		h.mustBeRipe("a")
	}
	h.now = h.now.Add(10 * time.Minute)
	heat()
	h.setBack(h.now, intervalOf([]byte("a"), nil), firstPause, longestPause)
	h.now = h.now.Add(time.Second)
	h.mustBeRipe("a")
}

func TestFailuresThatAreRememberedAreBounded(t *testing.T) {
	h := newHeater(t)
	for i := range 3 * maxSetbacks {
		h.setBack(h.now, intervalOf(fmt.Appendf(nil, "%d", i), nil), firstWorthPause, longestWorthPause)
		h.now = h.now.Add(time.Millisecond)
	}
	if len(h.setbacks) > maxSetbacks || !h.isSetBack(h.now, intervalOf(fmt.Appendf(nil, "%d", 3*maxSetbacks-1), nil)) {
		t.Errorf("%d are remembered, want at most %d with the last", len(h.setbacks), maxSetbacks)
	}
	h.now = h.now.Add(time.Hour)
	h.setBack(h.now, everything, firstPause, longestPause)
	if len(h.setbacks) != 1 {
		t.Errorf("%d are remembered, want only the one that matters", len(h.setbacks))
	}
}

// BenchmarkHeat is what a forwarded read pays.
func BenchmarkHeat(b *testing.B) {
	h := newHeat()
	r := wire.RangeRequest{Key: []byte("/registry/pods/namespace/some-name")}
	now := time.Now()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		key := fmt.Appendf(r.Key[:30], "%d", i%100_000)
		r.Key = key
		h.add(now, readingOf(&r, wire.RangeResponse{Count: 1}, 300))
	}
}
