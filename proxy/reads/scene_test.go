package reads

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"weir/cache"
	"weir/coalesce"
	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// scene is a Keeper, a hub, and an upstream that does as a test says. Its hot ranges are there from the beginning, made
// of the store as it is when they are kept.
type scene struct {
	*naive
	t      testing.TB
	keeper *Keeper
	hub    *coalesce.Hub
	feed   *coalesce.Feed

	mu       sync.Mutex // guards the fields below, and the store in tests that write concurrently
	standing Standing
	proofs   []proof
	checks   int
	asked    []*pb.RangeRequest
	silent   bool // events reach the hub only when it is synced,
	deaf     bool // or not even then
	// check, if set, is what a check does instead of stating the store's revision.
	check func(context.Context) (int64, error)
	// header and proven, if set, are called by Header and ProvenAt.
	header, proven func()
}

// proof is of a check that was sent at `at`.
type proof struct {
	rev int64
	at  time.Time
}

// inScene runs a test on a clock of its own.
func inScene(t *testing.T, test func(t *testing.T, s *scene)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) { test(t, newScene(t, Config{MaxStaleness: 2 * time.Second})) })
}

// inScenes runs a random test with a few seeds.
func inScenes(t *testing.T, test func(s *scene, seed uint64)) {
	t.Helper()
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			inScene(t, func(_ *testing.T, s *scene) { test(s, seed) })
		})
	}
}

func newScene(t testing.TB, cfg Config) *scene {
	s := &scene{naive: newNaive(), t: t, standing: Standing{Shared: true, Confirmed: true, Connected: true, Era: 7}}
	s.hub = coalesce.NewHub(s)
	s.feed = s.hub.NewFeed(coalesce.FeedConfig{Source: s, Revision: s.revision(), RingBytes: 1 << 20})
	cfg.Upstream, cfg.Hub, cfg.Logger = sceneUpstream{s}, s.hub, slog.New(slog.DiscardHandler)
	var err error
	if s.keeper, err = New(cfg); err != nil { // without Bytes, so that it keeps what the test wants kept
		t.Fatal(err)
	}
	s.keeper.results.Close()
	if s.keeper.results, err = cache.NewResults(64 << 20); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.keeper.Close()
		s.hub.Close()
	})
	return s
}

// keep has a range kept, and past states of it in so many bytes.
func (s *scene) keep(i interval, historyBytes int) *hot {
	s.t.Helper()
	loader := cache.NewLoader()
	span := i.span()
	for _, kv := range s.in(span.Key, span.End, s.revision()) {
		if err := loader.Add(encode(kv)); err != nil {
			s.t.Fatal(err)
		}
	}
	h := &hot{interval: i, span: span, era: s.standing.Era, keeper: s.keeper, gone: make(chan struct{}), loaded: true}
	h.cancel = func(error) {}
	h.snap = loader.Snapshot(s.revision(), historyBytes)
	h.stream = s.hub.NewStream(h)
	if err := h.stream.Watch(s.t.Context(), &h.watcher, coalesce.Watch{Key: span.Key, End: span.End}, 0); err != nil {
		s.t.Fatal(err)
	}
	s.keeper.mu.Lock()
	defer s.keeper.mu.Unlock()
	s.keeper.hots[h] = struct{}{}
	s.keeper.catalog.add(h)
	return h
}

// write writes to the store and, unless the scene is silent, tells the hub.
func (s *scene) write(ops ...op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.naive.write(ops...)
	if !s.silent && !s.deaf {
		s.publish()
	}
}

func (s *scene) publish() {
	for rev := s.feed.Revision() + 1; rev <= s.revision(); rev++ {
		s.feed.Publish(coalesce.Batch{Revision: rev, Events: s.events[rev]})
	}
}

// put writes one key.
func (s *scene) put(key, value string) { s.write(op{key: key, value: []byte(value)}) }

// set changes the scene.
func (s *scene) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// get is Keeper.Range of one key; it returns the key's value, the header's revision, and how stale the answer is.
func (s *scene) get(ctx context.Context, key string, serializable bool, session *cache.Session) (value string, rev int64, stale time.Duration, err error) {
	s.t.Helper()
	buffers, stale, err := s.keeper.Range(ctx, &wire.RangeRequest{Key: []byte(key), Serializable: serializable}, session, s.keeper.up.Standing().Era)
	if err != nil {
		return "", 0, stale, err
	}
	var resp pb.RangeResponse
	if err := proto.Unmarshal(buffers.Materialize(), &resp); err != nil {
		s.t.Fatal(err)
	}
	if len(resp.Kvs) > 0 {
		value = string(resp.Kvs[0].Value)
	}
	return value, resp.Header.Revision, stale, nil
}

// mustGet is get of "a/1" that must succeed with value, from the newest state or a fresh one.
func (s *scene) mustGet(serializable bool, session *cache.Session, value string) {
	s.t.Helper()
	got, _, stale, err := s.get(s.t.Context(), "a/1", serializable, session)
	if err != nil || stale != 0 || got != value {
		s.t.Fatalf("get = %q, stale %v, error %v; want %q", got, stale, err, value)
	}
}

// mustForward is get that must be forwarded.
func (s *scene) mustForward(key string, serializable bool, session *cache.Session) {
	s.t.Helper()
	if got, _, _, err := s.get(s.t.Context(), key, serializable, session); !errors.Is(err, ErrForward) {
		s.t.Fatalf("get %s = %q, error %v; want it forwarded", key, got, err)
	}
}

// request is m as grpcapi gives it.
func request(t testing.TB, m *pb.RangeRequest) *wire.RangeRequest {
	t.Helper()
	var r wire.RangeRequest
	if err := r.Unmarshal(encode(m)); err != nil {
		t.Fatal(err)
	}
	return &r
}

// response is a message that has a header.
type response interface {
	proto.Message
	GetHeader() *pb.ResponseHeader
}

// fromUpstream gives m the header of upstream.
func fromUpstream[M response](m M) M {
	h := m.GetHeader()
	h.ClusterId, h.MemberId, h.RaftTerm = sceneHeader.ClusterID, sceneHeader.MemberID, sceneHeader.RaftTerm
	return m
}

// same fails unless got is want, encoded and with the header of upstream.
func same(t testing.TB, got mem.BufferSlice, want response) {
	t.Helper()
	if b := got.Materialize(); !slices.Equal(b, encode(fromUpstream(want))) {
		decoded := want.ProtoReflect().New().Interface()
		err := proto.Unmarshal(b, decoded)
		t.Fatalf("answer %v (%v)\nwant   %v", decoded, err, want)
	}
}

var sceneHeader = wire.Header{ClusterID: 11, MemberID: 22, Revision: 1, RaftTerm: 33}

// scene as the hub's Feeder.

func (s *scene) Arrive() coalesce.Arrival { return 0 }

func (s *scene) Find(context.Context, coalesce.Watch, coalesce.Arrival) (*coalesce.Feed, int64, error) {
	return s.feed, s.feed.Revision(), nil
}

func (s *scene) Now(context.Context, coalesce.Arrival) int64 { return s.feed.Revision() }

func (s *scene) Sync(ctx context.Context, _ *coalesce.Feed, _ coalesce.Arrival, _ int64) (int64, error) {
	s.mu.Lock()
	if !s.deaf {
		defer s.mu.Unlock()
		s.publish()
		return s.feed.Revision(), nil
	}
	s.mu.Unlock()
	<-ctx.Done()
	return 0, ctx.Err()
}

// scene as the feed's Source, which is not needed: watches begin with what is there.

func (s *scene) History(context.Context, coalesce.Range, int64, func(coalesce.Batch) bool) (int64, error) {
	return 0, errors.New("the scene has no history")
}

func (s *scene) Prev([]byte, int64) []byte { return nil }

// sceneUpstream is a scene as Upstream.
type sceneUpstream struct{ s *scene }

func (u sceneUpstream) Check(ctx context.Context) (int64, error) {
	s := u.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks++
	sent := time.Now()
	rev, err := s.revision(), error(nil)
	if check := s.check; check != nil {
		s.mu.Unlock()
		rev, err = check(ctx)
		s.mu.Lock()
	}
	if err == nil {
		s.proofs = append(s.proofs, proof{rev, sent})
	}
	return rev, err
}

func (u sceneUpstream) ProvenAt(rev int64) (at time.Time) {
	if u.s.proven != nil {
		u.s.proven()
	}
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	for _, p := range u.s.proofs {
		if p.rev <= rev && p.at.After(at) {
			at = p.at
		}
	}
	return at
}

func (u sceneUpstream) Standing() Standing {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	return u.s.standing
}

func (u sceneUpstream) Header() wire.Header {
	if u.s.header != nil {
		u.s.header()
	}
	return sceneHeader
}

func (u sceneUpstream) Compacted() int64 {
	u.s.mu.Lock()
	defer u.s.mu.Unlock()
	return u.s.naive.compacted
}

func (u sceneUpstream) Keeps(int64) {}

func (u sceneUpstream) Range(_ context.Context, r *wire.RangeRequest) (wire.Raw, error) {
	s := u.s
	s.mu.Lock()
	defer s.mu.Unlock()
	var m pb.RangeRequest
	if err := proto.Unmarshal(wire.AppendRangeRequest(nil, r), &m); err != nil {
		return nil, err
	}
	s.asked = append(s.asked, &m)
	resp, err := s.answer(&m, s.revision())
	if err != nil {
		return nil, err
	}
	return encode(resp), nil
}

// plenty is more history than any test makes.
const plenty = math.MaxInt32
