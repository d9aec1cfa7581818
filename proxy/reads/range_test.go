package reads

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"weir/cache"
	"weir/grpcapi/wire"
)

// rangeOf is Keeper.Range, serializable, of a new session.
func (s *scene) rangeOf(m *pb.RangeRequest) (mem.BufferSlice, error) {
	s.t.Helper()
	m = proto.Clone(m).(*pb.RangeRequest)
	m.Serializable = true
	resp, _, err := s.keeper.Range(s.t.Context(), request(s.t, m), nil, s.keeper.up.Standing().Era)
	return resp, err
}

// mustAnswer fails unless a Range, linearizable or not, is answered from memory as the store answers it.
func (s *scene) mustAnswer(m *pb.RangeRequest) {
	s.t.Helper()
	got, _, err := s.keeper.Range(s.t.Context(), request(s.t, m), nil, s.keeper.up.Standing().Era)
	if err != nil {
		s.t.Fatalf("range %v: %v", m, err)
	}
	want, err := s.answer(m, s.revision())
	if err != nil {
		s.t.Fatal(err)
	}
	same(s.t, got, want)
}

// settled waits until all that was written has been applied.
func (s *scene) settled() {
	s.t.Helper()
	synctest.Wait()
	s.mustAnswer(&pb.RangeRequest{Key: []byte("a/"), CountOnly: true}) // a check has the snapshot reach the head
}

func TestAnswersAreThoseOfAStore(t *testing.T) {
	inScenes(t, func(s *scene, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 1))
		for range 50 {
			s.write(randomWrite(rng))
		}
		s.keep(ofPrefix("a/"), plenty)
		first := s.revision()
		for range 400 {
			if rng.IntN(4) == 0 {
				s.write(randomWrite(rng))
				s.settled()
			}
			m := randomRange(rng)
			if rng.IntN(3) == 0 {
				m.Revision = first + rng.Int64N(s.revision()-first+1)
			}
			s.mustAnswer(m)
			s.mustAnswer(m) // perhaps from results
		}
		if stats := s.keeper.results.Stats(); stats.Hits == 0 {
			s.t.Error("no answer came from results")
		}
	})
}

func randomKey(rng *rand.Rand) string { return fmt.Sprintf("a/%02d", rng.IntN(60)) }

func randomWrite(rng *rand.Rand) op {
	o := op{key: randomKey(rng)}
	if rng.IntN(4) > 0 {
		o.value = make([]byte, []int{1, 5, 300, 700}[rng.IntN(4)])
		o.value[0] = byte(rng.IntN(5))
		o.lease = rng.Int64N(3)
	}
	return o
}

// randomRange is a Range of what is below "a/", with any options.
func randomRange(rng *rand.Rand) *pb.RangeRequest {
	m := &pb.RangeRequest{Key: []byte(randomKey(rng)), Serializable: rng.IntN(2) == 0}
	switch rng.IntN(5) {
	case 0:
		return m
	case 1:
		m.Key = []byte("a/")
		m.RangeEnd = []byte("a0")
	default:
		m.RangeEnd = []byte(randomKey(rng)) // also before the key
	}
	some := func() bool { return rng.IntN(4) == 0 }
	if some() {
		m.Limit = rng.Int64N(40) - 2
	}
	if some() {
		m.SortOrder = pb.RangeRequest_SortOrder(rng.IntN(3))
		m.SortTarget = pb.RangeRequest_SortTarget(rng.IntN(5))
	}
	m.KeysOnly, m.CountOnly = some(), some()
	if some() {
		m.MinModRevision, m.MaxModRevision = rng.Int64N(60), rng.Int64N(200)
	}
	if some() {
		m.MinCreateRevision, m.MaxCreateRevision = rng.Int64N(60), rng.Int64N(200)
	}
	return m
}

func TestFromKeyRangesAreAnswered(t *testing.T) {
	inScene(t, func(_ *testing.T, s *scene) {
		for i := range 30 {
			s.put(fmt.Sprintf("a/%d", i), "x")
		}
		s.keep(everything, plenty)
		s.put("\xff\xff", "last")
		s.settled()
		for _, key := range []string{"\x00", "a/5", "\xff", "\xff\xff\xff"} {
			s.mustAnswer(&pb.RangeRequest{Key: []byte(key), RangeEnd: []byte{0}})
		}
	})
}

func TestReadAtARevision(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		for range 3 {
			s.put("a/1", "before")
		}
		s.keep(ofPrefix("a/"), plenty)
		start := s.revision()
		for i := range 10 {
			s.put(fmt.Sprintf("a/%d", i%4), fmt.Sprint(i))
		}
		s.settled()
		all := func(rev int64) *pb.RangeRequest {
			return &pb.RangeRequest{Key: []byte("a/"), RangeEnd: []byte("a0"), Limit: 2, Revision: rev}
		}
		for rev := start; rev <= s.revision(); rev++ {
			s.mustAnswer(all(rev))
		}
		s.mustAnswer(all(-5))

		fails := func(rev int64, want error) {
			t.Helper()
			if _, err := s.rangeOf(all(rev)); !errors.Is(err, want) {
				t.Errorf("at revision %d of [%d, %d]: %v; want %v", rev, start, s.revision(), err, want)
			}
		}
		fails(s.revision()+1, ErrForward)
		fails(start-1, ErrForward)

		s.set(func() { s.naive.compacted = start + 4 })
		fails(start+3, rpctypes.ErrGRPCCompacted)
		fails(start-1, rpctypes.ErrGRPCCompacted)
		s.mustAnswer(all(start + 4))
		s.set(func() { s.naive.compacted = s.revision() + 10 }) // memory is behind
		fails(s.revision()+5, ErrForward)
	})
}

func TestHeaderOfAReadAtARevisionStatesTheNewest(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.put("a/1", "one")
		s.keep(ofPrefix("a/"), plenty)
		pinned := s.revision()
		s.put("a/1", "two")
		s.settled()
		var session cache.Session
		r := &wire.RangeRequest{Key: []byte("a/1"), Revision: pinned, Serializable: true}
		resp, _, err := s.keeper.Range(t.Context(), r, &session, s.keeper.up.Standing().Era)
		if err != nil {
			t.Fatal(err)
		}
		want, err := s.answer(&pb.RangeRequest{Key: []byte("a/1"), Revision: pinned}, s.revision())
		if err != nil {
			t.Fatal(err)
		}
		same(t, resp, want)
		if session.Floor(7) != s.revision() {
			t.Errorf("the session was told %d; want the newest, %d", session.Floor(7), s.revision())
		}
	})
}

func TestLongAnswersAreBuiltOncePerState(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		for i := range 40 {
			s.put(fmt.Sprintf("a/%02d", i), "x")
		}
		s.keep(ofPrefix("a/"), plenty)
		start := s.revision()
		lookups := func(m *pb.RangeRequest) (hits, misses uint64) {
			t.Helper()
			before := s.keeper.results.Stats()
			for range 3 {
				s.mustAnswer(m)
				synctest.Wait() // for ristretto to have it
			}
			after := s.keeper.results.Stats()
			return after.Hits - before.Hits, after.Misses - before.Misses
		}
		for _, c := range []struct {
			name         string
			m            *pb.RangeRequest
			hits, misses uint64
		}{
			{"a long list", &pb.RangeRequest{}, 2, 1},
			{"the same, serializable", &pb.RangeRequest{Serializable: true}, 3, 0},
			{"another order", &pb.RangeRequest{SortOrder: pb.RangeRequest_DESCEND}, 2, 1},
			{"pinned", &pb.RangeRequest{Revision: start}, 2, 1},
			{"a filter over many keys", &pb.RangeRequest{MaxModRevision: 3}, 2, 1},
			{"a short page", &pb.RangeRequest{Limit: 10}, 0, 0},
			{"a count", &pb.RangeRequest{CountOnly: true}, 0, 0},
			{"few keys", &pb.RangeRequest{RangeEnd: []byte("a/09")}, 0, 3},
		} {
			c.m.Key = []byte("a/")
			if c.m.RangeEnd == nil {
				c.m.RangeEnd = []byte("a0")
			}
			if hits, misses := lookups(c.m); hits != c.hits || misses != c.misses {
				t.Errorf("%s: %d hits and %d misses; want %d and %d", c.name, hits, misses, c.hits, c.misses)
			}
		}
		list := &pb.RangeRequest{Key: []byte("a/"), RangeEnd: []byte("a0")}
		s.put("a/00", "changed")
		if hits, misses := lookups(list); hits != 2 || misses != 1 {
			t.Errorf("after a change: %d hits and %d misses; want 2 and 1", hits, misses)
		}
		s.put("elsewhere", "x")
		if hits, misses := lookups(list); hits != 3 || misses != 0 {
			t.Errorf("after a change elsewhere: %d hits and %d misses; want 3 and 0", hits, misses)
		}
	})
}

func TestHugeAnswersAreNotKept(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		for i := range 20 {
			s.write(op{key: fmt.Sprintf("a/%02d", i), value: make([]byte, maxResultBytes/16)})
		}
		s.keep(ofPrefix("a/"), plenty)
		for range 3 {
			s.mustAnswer(&pb.RangeRequest{Key: []byte("a/"), RangeEnd: []byte("a0")})
			synctest.Wait()
		}
		if stats := s.keeper.results.Stats(); stats.Bytes != 0 || stats.Hits != 0 {
			t.Errorf("%d bytes are kept, and there were %d hits; want none", stats.Bytes, stats.Hits)
		}
	})
}
