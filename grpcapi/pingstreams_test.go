package grpcapi

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"weir/coalesce"
	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// greedyPings is the stream of a client that pings without end, and takes no pongs.
type greedyPings struct {
	grpc.ServerStream
	ctx  context.Context
	sent atomic.Int64
}

func (s *greedyPings) Context() context.Context { return s.ctx }

func (s *greedyPings) RecvMsg(m any) error {
	*m.(*wire.Raw) = wire.AppendPing(nil, 7)
	return s.ctx.Err()
}

// SendMsg blocks when there are too many, as gRPC's does.
func (s *greedyPings) SendMsg(any) error {
	if s.sent.Add(1) <= maxInline {
		return nil
	}
	<-s.ctx.Done()
	return s.ctx.Err()
}

// promptPinger answers all pings at once.
type promptPinger struct{}

func (promptPinger) ping(s *pingStream, ids []int64, stamp pingStamp) {
	for _, id := range ids {
		s.Pong(coalesce.Pong{ID: id, TTL: 10, Number: stamp.number})
	}
}

func (promptPinger) settle(context.Context, *pingStream, waitingPing) error { return nil }

func (promptPinger) patience() time.Duration { return coalesce.PingLife }

func TestPongsThatNobodyTakesAreBoundedOverAllStreams(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const greedy = 2 * maxAllOpenPings / maxOpenPings
		var all pingStreams
		ctx, cancel := context.WithCancel(t.Context())
		for range greedy {
			s := newPingStream(&greedyPings{ctx: ctx}, singlePings{}, promptPinger{}, &all, make([]byte, 0, markerCap))
			all.tasks.Go(func() { _ = s.run() })
		}
		synctest.Wait()
		if n := all.unsent.Load(); n < maxAllOpenPings/2 || n > maxAllOpenPings+greedy*fewOpenPings {
			t.Errorf("%d pings are kept, of which there may be %d", n, maxAllOpenPings)
		}
		cancel()
		synctest.Wait()
		if n := all.unsent.Load(); n != 0 {
			t.Errorf("%d pings are counted when all streams have ended", n)
		}
	})
}

func TestStreamMayHaveAFewPingsWhenOthersHaveAll(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := &scriptedPings{all: &pingStreams{}}
		s.all.unsent.Add(maxAllOpenPings)
		s.serve(t, singlePings{}, &sharedPinger{keepalives: slowKeepalives(t, time.Second/2)})
		for range 3 * fewOpenPings {
			s.ping(1)
		}
		synctest.Wait()
		if n := s.all.unsent.Load() - maxAllOpenPings; n != fewOpenPings {
			t.Errorf("%d pings were read", n)
		}
		close(s.pings)
		time.Sleep(2 * time.Second) // the others come in their turn
		if ended, err := s.hasEnded(); !ended || err != nil || len(s.sent) != 3*fewOpenPings {
			t.Errorf("ended (%v) with %v after %d pongs", ended, err, len(s.sent))
		}
	})
}
