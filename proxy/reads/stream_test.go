package reads

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/cache"
)

// stream is Keeper.RangeStream without a session; between is called after each part but the last.
func (s *scene) stream(m *pb.RangeRequest, between func()) (parts []*pb.RangeResponse, err error) {
	s.t.Helper()
	err = s.keeper.RangeStream(s.t.Context(), request(s.t, m), nil, s.keeper.up.Standing().Era, func(part mem.BufferSlice, _ time.Duration) error {
		var resp pb.RangeStreamResponse
		if err := proto.Unmarshal(part.Materialize(), &resp); err != nil {
			s.t.Fatal(err)
		}
		parts = append(parts, resp.RangeResponse)
		if resp.RangeResponse.Header == nil {
			between()
		}
		return nil
	})
	return parts, err
}

// mustStream fails unless a RangeStream is the answer to a Range, in parts of which only the last is not bare.
func (s *scene) mustStream(m *pb.RangeRequest, between func()) (parts int) {
	s.t.Helper()
	want, err := s.answer(m, s.revision())
	if err != nil {
		s.t.Fatal(err)
	}
	fromUpstream(want)
	got, err := s.stream(m, between)
	if err != nil {
		s.t.Fatalf("stream %v: %v", m, err)
	}
	whole := &pb.RangeResponse{}
	for i, part := range got {
		last := i == len(got)-1
		if (part.Header != nil) != last || !last && (part.More || part.Count != 0 || len(part.Kvs) == 0) {
			s.t.Fatalf("stream %v: part %d of %d has header %v, more %v, count %d and %d keys", m, i, len(got), part.Header, part.More, part.Count, len(part.Kvs))
		}
		if size := proto.Size(part); len(part.Kvs) > 1 && size > streamPartBytes+len(part.Kvs)*5+100 {
			s.t.Errorf("stream %v: part %d has %d bytes", m, i, size)
		}
		proto.Merge(whole, part)
	}
	if !proto.Equal(whole, want) {
		s.t.Fatalf("stream %v: %d keys, more %v, count %d, header %v; want %d keys, more %v, count %d, header %v",
			m, len(whole.Kvs), whole.More, whole.Count, whole.Header, len(want.Kvs), want.More, want.Count, want.Header)
	}
	return len(got)
}

// streamScene has 3,000 small keys below "s/", two of half a part and one of two parts below "l/", and all of it in
// memory.
func streamScene(s *scene, historyBytes int) {
	var ops []op
	for i := range 3000 {
		ops = append(ops, op{key: fmt.Sprintf("s/%04d", i), value: []byte("small")})
	}
	for i, size := range []int{streamPartBytes / 2, 2 * streamPartBytes, streamPartBytes / 2} {
		ops = append(ops, op{key: fmt.Sprintf("l/%d", i), value: slices.Repeat([]byte{byte(i)}, size)})
	}
	s.write(ops...)
	s.keep(everything, historyBytes)
}

func TestStreamIsARangeInParts(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		streamScene(s, plenty)
		for _, c := range []struct {
			name  string
			m     *pb.RangeRequest
			parts int
		}{
			{"everything", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}, 8},
			{"small keys", &pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0")}, 2},
			{"as many as a part", &pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0"), Limit: streamFirstKeys}, 1},
			{"one more", &pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0"), Limit: streamFirstKeys + 1}, 2},
			{"exactly all", &pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0"), Limit: 3000}, 2},
			{"more than all", &pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0"), Limit: 3001}, 2},
			{"a negative limit", &pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0"), Limit: -1}, 2},
			{"large keys", &pb.RangeRequest{Key: []byte("l/"), RangeEnd: []byte("l0")}, 3},
			{"cut within large keys", &pb.RangeRequest{Key: []byte("l/"), RangeEnd: []byte("l0"), Limit: 2}, 2},
			{"large keys alone", &pb.RangeRequest{Key: []byte("l/"), RangeEnd: []byte("l0"), KeysOnly: true}, 1},
			{"a count", &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true}, 1},
			{"one key", &pb.RangeRequest{Key: []byte("s/0001")}, 1},
			{"no key", &pb.RangeRequest{Key: []byte("x")}, 1},
			{"ascending", &pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0"), SortOrder: pb.RangeRequest_ASCEND}, 2},
			{"serializable", &pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0"), Serializable: true}, 2},
		} {
			if parts := s.mustStream(c.m, func() {}); parts != c.parts {
				t.Errorf("%s: %d parts; want %d", c.name, parts, c.parts)
			}
		}
		if len(s.asked) > 0 {
			t.Errorf("upstream was asked for %v", s.asked[0])
		}
		s.keeper.cfg.MaxKeys, s.keeper.cfg.MaxBytes = 10, 10
		s.mustStream(&pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0")}, func() {})
	})
}

func TestStreamStaysAtItsRevision(t *testing.T) {
	for _, c := range []struct {
		name         string
		historyBytes int
		upstream     bool
	}{{"which is in memory", plenty, false}, {"which memory has forgotten", 0, true}} {
		t.Run(c.name, func(t *testing.T) {
			inScene(t, func(t *testing.T, s *scene) {
				streamScene(s, c.historyBytes)
				s.mustStream(&pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0"), Serializable: true}, func() {
					s.put("s/2999", "changed")
					s.put("s/9999", "new")
					synctest.Wait()
				})
				for _, m := range s.asked {
					if m.Serializable {
						t.Error("upstream was asked for a part that a lagging member may not have")
					}
				}
				if asked := len(s.asked) > 0; asked != c.upstream {
					t.Errorf("upstream was asked: %v; want %v", asked, c.upstream)
				}
			})
		})
	}
}

func TestStreamAtAPinnedRevision(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		streamScene(s, plenty)
		pinned := s.revision()
		s.put("s/2999", "changed")
		s.settled()
		m := &pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0"), Revision: pinned}
		s.mustStream(m, func() {})
		s.set(func() { s.naive.compacted = pinned + 1 })
		if _, err := s.stream(m, func() {}); !errors.Is(err, rpctypes.ErrGRPCCompacted) {
			t.Errorf("at a compacted revision: %v; want ErrCompacted", err)
		}
	})
}

func TestStreamEndsWithItsReason(t *testing.T) {
	m := &pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0")}
	for name, c := range map[string]struct {
		between func(s *scene)
		want    error
	}{
		"compaction overtakes it": {func(s *scene) { s.put("s/1", "x"); s.set(func() { s.naive.compacted = s.revision() }) }, rpctypes.ErrGRPCCompacted},
		"upstream is replaced":    {func(s *scene) { s.set(func() { s.standing.Era++ }) }, errReplaced},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(t *testing.T, s *scene) {
				streamScene(s, 0)
				_, err := s.stream(m, func() { c.between(s); synctest.Wait() })
				if !errors.Is(err, c.want) {
					t.Errorf("it ended with %v; want %v", err, c.want)
				}
			})
		})
	}
	inScene(t, func(t *testing.T, s *scene) {
		streamScene(s, plenty)
		gone := errors.New("the client is gone")
		sent := 0
		err := s.keeper.RangeStream(t.Context(), request(t, m), nil, s.keeper.up.Standing().Era, func(mem.BufferSlice, time.Duration) error { sent++; return gone })
		if !errors.Is(err, gone) || sent != 1 {
			t.Errorf("after %d parts it ended with %v; want the error of the first", sent, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		err = s.keeper.RangeStream(ctx, request(t, m), nil, s.keeper.up.Standing().Era, func(mem.BufferSlice, time.Duration) error { cancel(); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("with its context ended: %v", err)
		}
	})
}

func TestStreamIsForwardedBeforeItBeginsOrNotAtAll(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		streamScene(s, plenty)
		m := &pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0")}
		forwarded := func(why string, m *pb.RangeRequest) {
			t.Helper()
			if parts, err := s.stream(m, func() {}); !errors.Is(err, ErrForward) || len(parts) > 0 {
				t.Errorf("%s: %d parts, then %v; want it forwarded", why, len(parts), err)
			}
		}
		forwarded("sorted in parts", &pb.RangeRequest{Key: m.Key, RangeEnd: m.RangeEnd, SortTarget: pb.RangeRequest_VALUE})
		forwarded("of the future", &pb.RangeRequest{Key: m.Key, RangeEnd: m.RangeEnd, Revision: s.revision() + 1})
		s.header = func() { s.set(func() { s.standing.Era++ }) }
		forwarded("of an era that has ended", m)
		s.header = nil
		s.set(func() { s.standing.Era, s.standing.Before37 = 7, true })
		forwarded("of an upstream that has no such method", m)
		s.set(func() { s.standing.Era, s.standing.Before37 = 8, false })
		forwarded("of another era", m)
	})
}

func TestStreamToldItsSessionAndItsAge(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		streamScene(s, plenty)
		s.settled()
		time.Sleep(time.Minute)
		s.check = func(context.Context) (int64, error) { return 0, status.Error(codes.Unavailable, "away") }
		m := &pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0"), Serializable: true}
		var session cache.Session
		var ages []time.Duration
		err := s.keeper.RangeStream(t.Context(), request(t, m), &session, s.keeper.up.Standing().Era, func(_ mem.BufferSlice, stale time.Duration) error {
			ages = append(ages, stale)
			return nil
		})
		if err != nil || !slices.Equal(ages, []time.Duration{time.Minute, time.Minute}) || session.Floor(7) != s.revision() {
			t.Errorf("ages %v, told %d, error %v; want a minute twice, and %d", ages, session.Floor(7), err, s.revision())
		}
	})
}
