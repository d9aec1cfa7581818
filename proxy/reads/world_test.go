package reads

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// world is a Keeper that does all by itself, over a store in memory that is its upstream and feeds its hub.
type world struct {
	t      testing.TB
	hub    *coalesce.Hub
	keeper *Keeper

	mu       sync.Mutex // guards the fields below
	store    *naive
	feed     *coalesce.Feed
	standing Standing
	header   wire.Header
	quiet    bool // events reach the hub only when they are asked for,
	mute     bool // or not even then
	asked    []*pb.RangeRequest
	kept     int64 // as told by Keeps
	syncs    int   // calls of Sync
	// answer, if set, is what Range does, which may call read.
	answer func(context.Context, *pb.RangeRequest) (wire.Raw, error)
}

// newWorld makes one with a store and without a Keeper.
func newWorld(t testing.TB, fill ...op) *world {
	w := &world{
		t: t, store: newNaive(), header: sceneHeader,
		standing: Standing{Shared: true, Confirmed: true, Connected: true, Era: 1},
	}
	if len(fill) > 0 {
		w.store.write(fill...)
	}
	w.hub = coalesce.NewHub(w)
	w.feed = w.newFeed()
	t.Cleanup(w.hub.Close)
	return w
}

// start makes the Keeper, which ends with the test.
func (w *world) start(cfg Config) {
	cfg.Upstream, cfg.Hub, cfg.Logger = w, w.hub, slog.New(slog.DiscardHandler)
	w.set(func() { // so that the Keeper asks nothing before it is there
		var err error
		if w.keeper, err = New(cfg); err != nil {
			w.t.Fatal(err)
		}
	})
	w.t.Cleanup(func() {
		w.keeper.Close()
		if held := w.keeper.held.Load(); held != 0 {
			w.t.Errorf("%d bytes are still counted after Close", held)
		}
	})
}

// waiting is for how many revisions of h somebody waits.
func (h *hot) waiting() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.waits)
}

func (w *world) newFeed() *coalesce.Feed {
	return w.hub.NewFeed(coalesce.FeedConfig{Source: w, Revision: w.store.revision(), RingBytes: 1 << 20})
}

// write writes to the store and, unless it is quiet, tells the hub.
func (w *world) write(ops ...op) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.store.write(ops...)
	if !w.quiet && !w.mute {
		w.publish(1 << 30)
	}
}

// publish tells the hub up to so many revisions. w.mu is held.
func (w *world) publish(revisions int64) {
	to := min(w.store.revision(), w.feed.Revision()+revisions)
	for rev := w.feed.Revision() + 1; rev <= to; rev++ {
		w.feed.Publish(coalesce.Batch{Revision: rev, Events: w.store.events[rev]})
	}
}

// set changes the world.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// cancelWatches ends the feed, and with it all watches.
func (w *world) cancelWatches(reason error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.feed.Close(reason)
	w.feed = w.newFeed()
}

// replace puts another store in the place of the one there is.
func (w *world) replace(store *naive) {
	w.mu.Lock()
	w.standing.Era++
	w.store = store
	w.mu.Unlock()
	w.hub.Reset(errors.New("the store was replaced"))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.feed = w.newFeed()
}

// forward is a read that the proxy forwards.
func (w *world) forward(r *pb.RangeRequest) {
	w.t.Helper()
	raw, err := w.read(r)
	if err != nil {
		w.t.Fatal(err)
	}
	w.keeper.Forwarded(request(w.t, r), raw)
}

// read is what the store answers.
func (w *world) read(r *pb.RangeRequest) (wire.Raw, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	resp, err := w.store.answer(r, w.store.revision())
	if err != nil {
		return nil, err
	}
	resp.Header.ClusterId = w.header.ClusterID
	return encode(resp), nil
}

// same fails unless the snapshot of h has at rev what the store has.
func (w *world) same(h *hot, rev int64) {
	w.t.Helper()
	view, ok := h.snap.View(rev)
	if !ok {
		w.t.Fatalf("range %s, which is at %d to %d, has no state of %d", h, h.snap.Oldest(), h.snap.Revision(), rev)
	}
	kvs, count := view.Range(h.span.Key, h.span.End, 0)
	w.mu.Lock()
	defer w.mu.Unlock()
	want := w.store.in(h.span.Key, h.span.End, view.Revision())
	if len(kvs) != len(want) || count != int64(len(want)) {
		w.t.Fatalf("range %s has %d keys (count %d) at revision %d, want %d", h, len(kvs), count, view.Revision(), len(want))
	}
	for i, kv := range kvs {
		if !slices.Equal(kv, encode(want[i])) {
			w.t.Fatalf("range %s has %q at revision %d, want %v", h, kv, view.Revision(), want[i])
		}
	}
}

// hot returns what is kept for the keys of [key, end), which must be there.
func (w *world) hot(i interval) *hot {
	w.t.Helper()
	span := i.span()
	h := w.keeper.find(span.Key, span.End)
	if h == nil {
		w.t.Fatalf("%s is not kept", i)
	}
	return h
}

// isHot tells whether i is kept, by itself or in a wider range.
func (w *world) isHot(i interval) bool {
	span := i.span()
	return w.keeper.find(span.Key, span.End) != nil
}

// loaded are the hot ranges that reads are answered from.
func (w *world) loaded() (all []*hot) {
	w.keeper.mu.Lock()
	defer w.keeper.mu.Unlock()
	for h := range w.keeper.hots {
		if h.isLoaded() {
			all = append(all, h)
		}
	}
	return all
}

// ranges are those of loaded.
func (w *world) ranges() (all []interval) {
	for _, h := range w.loaded() {
		all = append(all, h.interval)
	}
	return all
}

// requests are what the store was asked, and forgets them.
func (w *world) requests() []*pb.RangeRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	asked := w.asked
	w.asked = nil
	return asked
}

// world as Upstream.

func (w *world) Range(ctx context.Context, r *wire.RangeRequest) (wire.Raw, error) {
	var m pb.RangeRequest
	if err := proto.Unmarshal(wire.AppendRangeRequest(nil, r), &m); err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.asked = append(w.asked, &m)
	answer := w.answer
	w.mu.Unlock()
	if answer != nil {
		return answer(ctx, &m)
	}
	return w.read(&m)
}

func (w *world) Check(context.Context) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.store.revision(), nil
}

func (w *world) Standing() Standing {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.standing
}

func (w *world) ProvenAt(int64) time.Time { return time.Now() }

func (w *world) Header() wire.Header {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.header
}

func (w *world) Compacted() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.store.compacted
}

func (w *world) Keeps(oldest int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept = oldest
}

// world as the hub's Feeder.

func (w *world) Arrive() coalesce.Arrival { return 0 }

func (w *world) Find(context.Context, coalesce.Watch, coalesce.Arrival) (*coalesce.Feed, int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.feed, w.store.revision(), nil
}

func (w *world) Now(context.Context, coalesce.Arrival) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.store.revision()
}

func (w *world) Sync(ctx context.Context, _ *coalesce.Feed, _ coalesce.Arrival, _ int64) (int64, error) {
	w.mu.Lock()
	w.syncs++
	if !w.mute {
		defer w.mu.Unlock()
		w.publish(1 << 30)
		return w.feed.Revision(), nil
	}
	w.mu.Unlock()
	<-ctx.Done()
	return 0, ctx.Err()
}

// world as the feed's Source, which is not needed: watches begin with what is there.

func (w *world) History(context.Context, coalesce.Range, int64, func(coalesce.Batch) bool) (int64, error) {
	return 0, errors.New("the world has no history")
}

func (w *world) Prev([]byte, int64) []byte { return nil }

// puts are writes of n keys below a prefix, with values of so many bytes.
func puts(prefix string, n, bytes int) []op {
	ops := make([]op, n)
	for i := range ops {
		ops[i] = op{key: fmt.Sprintf("%s%04d", prefix, i), value: slices.Repeat([]byte{'v'}, bytes)}
	}
	return ops
}

// get and listOf are requests.

func get(key string) *pb.RangeRequest { return &pb.RangeRequest{Key: []byte(key)} }

func listOf(prefix string) *pb.RangeRequest {
	span := ofPrefix(prefix).span()
	return &pb.RangeRequest{Key: span.Key, RangeEnd: span.End}
}

func decode(t testing.TB, b []byte, m proto.Message) {
	t.Helper()
	if err := proto.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
}
