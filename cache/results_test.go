package cache

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"weak"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"

	"weir/grpcapi/wire"
)

// newResults makes a cache that is closed at the end of the test, with everything that it started.
func newResults(tb testing.TB, maxBytes int) *Results {
	tb.Helper()
	running := goleak.IgnoreCurrent()
	c, err := NewResults(maxBytes)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		c.Close()
		goleak.VerifyNone(tb, running)
	})
	return c
}

// settle waits until all that was put is visible or refused.
func (c *Results) settle() { c.entries.Wait() }

// numbered returns the request with the given number.
func numbered(n int) *wire.RangeRequest {
	return &wire.RangeRequest{Key: binary.BigEndian.AppendUint64([]byte("key-"), uint64(n)), RangeEnd: []byte("l")}
}

func wantResult(t *testing.T, c *Results, owner *Snapshot, changed int64, r *wire.RangeRequest, want string) {
	t.Helper()
	if got, ok := c.Get(owner, changed, r); !ok || string(got) != want {
		t.Errorf("state %d, %+v: got %.20q (%v), want %.20q", changed, r, got, ok, want)
	}
}

func wantNoResult(t *testing.T, c *Results, owner *Snapshot, changed int64, r *wire.RangeRequest) {
	t.Helper()
	if got, ok := c.Get(owner, changed, r); ok {
		t.Errorf("state %d, %+v: got %.20q, want nothing", changed, r, got)
	}
}

func TestResultIsFoundForTheSameRequestOnly(t *testing.T) {
	c, owner := newResults(t, 1<<20), &Snapshot{}
	requests := []*wire.RangeRequest{
		{Key: []byte("a")},
		{Key: []byte("b")},
		{Key: []byte("a"), RangeEnd: []byte("b")},
		{Key: []byte("a"), RangeEnd: []byte{0}},
		{Key: []byte("a"), RangeEnd: bytes.Repeat([]byte("long"), 200)},
		{Key: []byte("a"), Limit: 1},
		{Key: []byte("a"), Limit: 2},
		{Key: []byte("a"), Revision: 5},
		{Key: []byte("a"), Revision: 6},
		{Key: []byte("a"), SortOrder: int32(pb.RangeRequest_DESCEND)},
		{Key: []byte("a"), SortTarget: int32(pb.RangeRequest_MOD)},
		{Key: []byte("a"), KeysOnly: true},
		{Key: []byte("a"), CountOnly: true},
		{Key: []byte("a"), MinModRevision: 1},
		{Key: []byte("a"), MaxModRevision: 1},
		{Key: []byte("a"), MinCreateRevision: 1},
		{Key: []byte("a"), MaxCreateRevision: 1},
	}
	for i, r := range requests {
		wantNoResult(t, c, owner, 7, r)
		c.Put(owner, 7, r, fmt.Appendf(nil, "answer %d", i))
		c.settle()
	}
	for i, r := range requests {
		wantResult(t, c, owner, 7, r, fmt.Sprintf("answer %d", i))
		serializable := *r
		serializable.Serializable = true
		serializable.Raw = []byte("encoded in another way")
		wantResult(t, c, owner, 7, &serializable, fmt.Sprintf("answer %d", i))
	}
	n := uint64(len(requests))
	if got := c.Stats(); got.Hits != 2*n || got.Misses != n {
		t.Errorf("stats are %+v, want %d hits and %d misses", got, 2*n, n)
	}
}

func TestResultIsFoundForTheSameStateOfTheSameSnapshotOnly(t *testing.T) {
	c, r := newResults(t, 1<<20), numbered(1)
	one, two := &Snapshot{}, &Snapshot{}
	c.Put(one, 7, r, []byte("one at 7"))
	c.settle()
	wantResult(t, c, one, 7, r, "one at 7")
	wantNoResult(t, c, one, 6, r)
	wantNoResult(t, c, one, 8, r)
	wantNoResult(t, c, two, 7, r)

	c.Put(one, 8, r, []byte("one at 8"))
	c.settle()
	wantResult(t, c, one, 8, r, "one at 8")
	wantNoResult(t, c, one, 7, r)

	c.Put(two, 8, r, []byte("two at 8"))
	c.settle()
	wantResult(t, c, two, 8, r, "two at 8")
	wantNoResult(t, c, one, 8, r)
}

func TestRequestsWithTheSameHashAreToldApart(t *testing.T) {
	c, owner := newResults(t, 1<<20), &Snapshot{}
	asked, other := numbered(1), numbered(2)
	hash := maphash.Bytes(c.seed, appendCanonical(nil, asked))
	e := &result{owner: weak.Make(owner), changed: 7, request: appendCanonical(nil, other), body: []byte("other")}
	e.holders.Store(2)
	c.waiting.Add(1)
	c.bytes.Add(e.size())
	c.entries.Set(hash, e, 0) // as if other had the same hash
	c.settle()
	wantNoResult(t, c, owner, 7, asked)
	c.Put(owner, 7, asked, []byte("asked"))
	c.settle()
	wantResult(t, c, owner, 7, asked, "asked")
	if got, want := int64(c.Stats().Bytes), e.size(); got != want {
		t.Errorf("%d bytes are held, want the %d of one entry", got, want)
	}
}

func TestResultDoesNotKeepItsSnapshot(t *testing.T) {
	c, r := newResults(t, 1<<20), numbered(1)
	owner := &Snapshot{}
	gone := weak.Make(owner)
	c.Put(owner, 7, r, []byte("answer"))
	c.settle()
	wantResult(t, c, owner, 7, r, "answer")
	runtime.KeepAlive(owner)
	runtime.GC()
	if gone.Value() != nil {
		t.Error("the snapshot is still in memory")
	}
	wantNoResult(t, c, &Snapshot{}, 7, r)
}

func TestResultsStayWithinTheirBytes(t *testing.T) {
	const limit = 1 << 20
	c, owner := newResults(t, limit), &Snapshot{}
	rnd := rand.New(rand.NewPCG(1, 2))
	offered := 0
	for n := 0; offered < 10*limit; n++ {
		body := make([]byte, rnd.IntN(8<<10))
		offered += len(body)
		c.Get(owner, 1, numbered(n))
		c.Put(owner, 1, numbered(n), body)
		if got := c.Stats().Bytes; got > limit {
			t.Fatalf("%d bytes are held, the limit is %d", got, limit)
		}
	}
	c.settle()
	if got := c.Stats().Bytes; got < limit/2 {
		t.Errorf("%d bytes are held of %d: the room is not used", got, limit)
	}
}

// ristretto counts what is replaced by something larger, but evicts nothing for it.
func TestResultsThatGrowStayWithinTheirBytesAndLetOthersIn(t *testing.T) {
	const limit, entries = 1 << 20, 500
	c, owner := newResults(t, limit), &Snapshot{}
	for size := 100; size < limit/16; size += size / 4 {
		for n := range entries {
			c.Put(owner, int64(size), numbered(n), make([]byte, size))
			if got := c.Stats().Bytes; got > limit {
				t.Fatalf("%d bytes are held, the limit is %d", got, limit)
			}
		}
		c.settle()
		if got := c.Stats().Bytes; got > limit-limit/8 {
			t.Fatalf("%d bytes are held of %d: there is no room for somebody new", got, limit)
		}
	}
	if got := c.Stats().Bytes; got < limit/2 {
		t.Errorf("%d bytes are held of %d: the room is not used", got, limit)
	}
	// Somebody new is let in when it has been asked for more often than the others.
	r, body := numbered(entries), make([]byte, limit/16)
	found := false
	for range 100_000 {
		if _, found = c.Get(owner, 1, r); found {
			break
		}
		c.Put(owner, 1, r, body)
	}
	if !found {
		t.Error("nobody new is let in")
	}
}

func TestOutdatedResultsGoThatCannotBeReplaced(t *testing.T) {
	const limit, entries = 1 << 20, 20
	c, owner := newResults(t, limit), &Snapshot{}
	for changed := int64(1); changed <= 2; changed++ {
		for n := range entries {
			c.Put(owner, changed, numbered(n), make([]byte, changed*limit*2/3/entries))
			c.settle()
		}
	}
	for n := range entries {
		wantNoResult(t, c, owner, 1, numbered(n))
	}
	c.entries.IterValues(func(e *result) bool {
		if e.changed == 1 {
			t.Errorf("an outdated entry of %d bytes is kept", e.size())
		}
		return false
	})
}

func TestResultThatIsTooLargeIsNotKept(t *testing.T) {
	const limit = 64 << 10
	c, owner := newResults(t, limit), &Snapshot{}
	c.Put(owner, 1, numbered(1), make([]byte, limit/8))
	c.settle()
	wantNoResult(t, c, owner, 1, numbered(1))
	if got := c.Stats().Bytes; got != 0 {
		t.Errorf("%d bytes are held", got)
	}
}

func TestNoBytesKeepAndStartNothing(t *testing.T) {
	c, owner := newResults(t, 0), &Snapshot{}
	if c.entries != nil {
		t.Error("a cache was made")
	}
	c.Put(owner, 1, numbered(1), []byte("answer"))
	wantNoResult(t, c, owner, 1, numbered(1))
	if got := c.Stats(); got != (ResultStats{}) {
		t.Errorf("stats are %+v", got)
	}
	if _, err := NewResults(-1); err == nil {
		t.Error("a negative size was accepted")
	}
}

func TestClosedResultsKeepNothing(t *testing.T) {
	c, owner := newResults(t, 1<<20), &Snapshot{}
	c.Put(owner, 1, numbered(1), []byte("one"))
	c.settle()
	for n := range 2000 {
		c.Put(owner, 1, numbered(2+n), []byte("may still wait"))
	}
	c.Close()
	c.Close()
	c.Put(owner, 1, numbered(0), []byte("late"))
	for n := range 4 {
		wantNoResult(t, c, owner, 1, numbered(n))
	}
	if got := c.Stats().Bytes; got != 0 {
		t.Errorf("%d bytes are held", got)
	}
}

// Everything at once, with answers that say what they are the answer to, until the cache is closed below the callers.
func TestResultsAreNeverWrongWhateverRuns(t *testing.T) {
	const workers, requests, limit = 8, 50, 64 << 10
	for seed := range uint64(3) {
		c := newResults(t, limit)
		owners := []*Snapshot{{}, {}}
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, uint64(w)))
				for i := range 5000 {
					if w == 0 && i == 3000 {
						c.Close()
					}
					owner, changed, n := rnd.IntN(2), int64(i/500+rnd.IntN(2)), rnd.IntN(requests)
					says := fmt.Appendf(nil, "owner %d state %d request %d ", owner, changed, n)
					if body, ok := c.Get(owners[owner], changed, numbered(n)); !ok {
						c.Put(owners[owner], changed, numbered(n), append(says, make([]byte, rnd.IntN(4000))...))
					} else if !bytes.HasPrefix(body, says) {
						t.Errorf("seed %d: got %.40q, want %q", seed, body, says)
					}
					if got := c.Stats().Bytes; got > limit {
						t.Errorf("seed %d: %d bytes are held, the limit is %d", seed, got, limit)
					}
				}
			})
		}
		wg.Wait()
		if got := c.Stats(); got.Hits == 0 || got.Bytes != 0 {
			t.Errorf("seed %d: stats are %+v, want hits and no bytes", seed, got)
		}
	}
}

// What is counted must be what is held: as soon as the cache has settled, the entries that can be found.
func TestBytesAreThoseOfTheEntriesThere(t *testing.T) {
	c, owner := newResults(t, 256<<10), &Snapshot{}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(3, uint64(w)))
			for range 10_000 {
				c.Put(owner, rnd.Int64N(10), numbered(rnd.IntN(200)), make([]byte, rnd.IntN(4000)))
			}
		})
	}
	wg.Wait()
	c.settle()
	var want int64
	c.entries.IterValues(func(e *result) bool {
		want += e.size()
		return false
	})
	if got := c.bytes.Load(); got != want || c.waiting.Load() != 0 {
		t.Errorf("%d bytes are counted and %d entries wait, want %d and none", got, c.waiting.Load(), want)
	}
}

func TestResultsTakeTheBytesTheySay(t *testing.T) {
	const entries = 100_000
	for _, size := range []int{64, 1024} {
		before := liveHeap()
		c, owner := newResults(t, 4*entries*(size+resultBytes)), &Snapshot{}
		fixed := liveHeap() - before
		for n := range entries {
			c.Put(owner, 1, numbered(n), make([]byte, size))
			if n%1000 == 0 {
				c.settle()
			}
		}
		c.settle()
		took, says := liveHeap()-before-fixed, c.Stats().Bytes
		t.Logf("%d entries of %d bytes take %d, counted are %d; %d when empty", entries, size, took, says, fixed)
		if took > says || took < says/2 {
			t.Errorf("%d entries of %d bytes take %d, counted are %d", entries, size, took, says)
		}
		runtime.KeepAlive(c)
		c.Close()
	}
}

func TestMemoryIsFlatOverAMillionDifferentResults(t *testing.T) {
	const limit, step = 4 << 20, 250_000
	c, owner := newResults(t, limit), &Snapshot{}
	before := liveHeap()
	for n := range 4 * step {
		c.Put(owner, 1, numbered(n), make([]byte, 100+n%400))
		if n%step == step-1 {
			c.settle()
			took := liveHeap() - before
			t.Logf("after %d: %d KiB", n+1, took>>10)
			if took > limit {
				t.Errorf("after %d results they take %d bytes, the limit is %d", n+1, took, limit)
			}
		}
	}
}

func BenchmarkResultsGet(b *testing.B) {
	list := &wire.RangeRequest{Key: []byte("/registry/pods/"), RangeEnd: []byte("/registry/pods0"), Limit: 500}
	c, owner := newResults(b, 1<<20), &Snapshot{}
	c.Put(owner, 1, list, make([]byte, 30_000))
	c.settle()
	b.Run("hit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := c.Get(owner, 1, list); !ok {
				b.Fatal("no hit")
			}
		}
	})
	b.Run("hit, in parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				c.Get(owner, 1, list)
			}
		})
	})
	b.Run("another state", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c.Get(owner, 2, list)
		}
	})
}

func BenchmarkResultsPut(b *testing.B) {
	b.ReportAllocs()
	c, owner := newResults(b, 16<<20), &Snapshot{}
	body := make([]byte, 4000)
	n := 0
	for b.Loop() {
		n++
		c.Put(owner, int64(n), numbered(n%1000), body)
	}
}
