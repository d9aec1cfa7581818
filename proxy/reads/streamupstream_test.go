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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// These are of streams whose next part is not in memory any more.

// rangedUpstream is a scene as Upstream with another Range.
type rangedUpstream struct {
	sceneUpstream
	ask func(ctx context.Context, r *wire.RangeRequest) (wire.Raw, error)
}

func (u rangedUpstream) Range(ctx context.Context, r *wire.RangeRequest) (wire.Raw, error) {
	return u.ask(ctx, r)
}

func TestAStreamThatUpstreamCannotContinueSaysThatItMayBeTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		ask  func(ctx context.Context, r *wire.RangeRequest) (wire.Raw, error)
		want codes.Code
		wait time.Duration
	}{
		"no session": {func(context.Context, *wire.RangeRequest) (wire.Raw, error) { return nil, errors.New("no session") }, codes.Unavailable, 0},
		"disconnected": {func(context.Context, *wire.RangeRequest) (wire.Raw, error) {
			return nil, status.Error(codes.Unavailable, "reset")
		}, codes.Unavailable, 0},
		"refused": {func(context.Context, *wire.RangeRequest) (wire.Raw, error) {
			return nil, status.Error(codes.PermissionDenied, "no")
		}, codes.PermissionDenied, 0},
		"malformed": {func(context.Context, *wire.RangeRequest) (wire.Raw, error) { return wire.Raw{0xff}, nil }, codes.Unavailable, 0},
		"it hangs": {func(ctx context.Context, _ *wire.RangeRequest) (wire.Raw, error) {
			<-ctx.Done()
			return nil, status.FromContextError(ctx.Err()).Err()
		}, codes.Unavailable, callPatience},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(t *testing.T, s *scene) {
				streamScene(s, 0)
				s.keeper.up = rangedUpstream{sceneUpstream{s}, c.ask}
				start := time.Now()
				parts, err := s.stream(&pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0")}, func() {
					s.put("s/2999", "changed")
					synctest.Wait()
				})
				if len(parts) != 1 || status.Code(err) != c.want || time.Since(start) != c.wait {
					t.Errorf("after %d parts and %v: %v; want %v after one part and %v", len(parts), time.Since(start), err, c.want, c.wait)
				}
			})
		})
	}
}

func TestAStreamThatUpstreamContinuesTakesATurnForEachPartAndNoneWhileItIsSent(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		streamScene(s, 0)
		turns, taken := 0, 0
		s.keeper.cfg.Turn = func(context.Context) (end func(), err error) {
			turns++
			taken++
			return func() { taken-- }, nil
		}
		asked := 0
		s.keeper.up = rangedUpstream{sceneUpstream{s}, func(ctx context.Context, r *wire.RangeRequest) (wire.Raw, error) {
			if asked++; taken != 1 {
				t.Errorf("upstream is asked in %d turns", taken)
			}
			return sceneUpstream{s}.Range(ctx, r)
		}}
		s.mustStream(&pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0"), Serializable: true}, func() {
			if taken != 0 {
				t.Error("a turn is taken while a part is sent")
			}
			s.put("z", "forget")
			synctest.Wait()
		})
		if turns == 0 || turns != asked || taken != 0 {
			t.Errorf("%d turns for %d questions, %d have not ended", turns, asked, taken)
		}
	})
}

func TestAStreamWhoseTurnDoesNotComeIsToldWhy(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		streamScene(s, 0)
		full := status.Error(codes.ResourceExhausted, "too much waits")
		s.keeper.cfg.Turn = func(context.Context) (end func(), err error) { return nil, full }
		parts, err := s.stream(&pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0")}, func() {
			s.put("s/2999", "changed")
			synctest.Wait()
		})
		if len(parts) != 1 || !errors.Is(err, full) || len(s.asked) != 0 {
			t.Errorf("after %d parts: %v; upstream was asked %d times", len(parts), err, len(s.asked))
		}
	})
}

func TestAClientWhoLeavesWhileUpstreamIsAskedEndsTheStream(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		streamScene(s, 0)
		ctx, cancel := context.WithCancel(t.Context())
		s.keeper.up = rangedUpstream{sceneUpstream{s}, func(ctx context.Context, _ *wire.RangeRequest) (wire.Raw, error) {
			cancel()
			<-ctx.Done()
			return nil, status.FromContextError(ctx.Err()).Err()
		}}
		m := request(t, &pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0")})
		err := s.keeper.RangeStream(ctx, m, nil, s.keeper.up.Standing().Era, func(mem.BufferSlice, time.Duration) error {
			s.put("s/2999", "changed")
			synctest.Wait()
			return nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
	})
}

// Large values follow small ones, of which there are many in a part.
func TestAStreamFromUpstreamHoldsLittleThatItDoesNotSend(t *testing.T) {
	for name, c := range map[string]struct {
		between func(s *scene, h *hot)
		most    int // bytes of one answer
		asked   int // times
	}{
		"of a range that is in memory": {func(*scene, *hot) {}, 2 << 20, 30},
		"of a range that is not": {
			func(s *scene, h *hot) { s.keeper.drop(h, errUnused) }, upstreamFirstKeys*(1<<20) + 1<<10, 3000/upstreamFirstKeys + 24,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(t *testing.T, s *scene) {
				ops := puts("s/", 3000, 5)
				for i := range 24 {
					ops = append(ops, op{key: fmt.Sprintf("s/large/%02d", i), value: slices.Repeat([]byte{byte(i)}, 1<<20)})
				}
				s.write(ops...)
				h := s.keep(everything, 0)
				most := 0
				s.keeper.up = rangedUpstream{sceneUpstream{s}, func(ctx context.Context, r *wire.RangeRequest) (wire.Raw, error) {
					raw, err := sceneUpstream{s}.Range(ctx, r)
					most = max(most, len(raw))
					return raw, err
				}}
				s.mustStream(&pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0"), Serializable: true}, func() {
					c.between(s, h)
					s.put("z", "forget")
					synctest.Wait()
				})
				if most > c.most || len(s.asked) > c.asked {
					t.Errorf("upstream was asked %d times, once for %d bytes; want at most %d times and %d bytes", len(s.asked), most, c.asked, c.most)
				}
			})
		})
	}
}
