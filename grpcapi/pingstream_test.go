package grpcapi

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"weir/coalesce"
	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// scriptedPings is a client's stream in a synctest bubble. Messages that it is sent are not written until the test says so, and
// block when there are too many, as gRPC's do.
type scriptedPings struct {
	grpc.ServerStream
	protocol pingProtocol
	ctx      context.Context
	pings    chan []int64  // of a message; closed by a half-close
	accept   chan struct{} // an element for each message that may be sent
	refuses  error
	all      *pingStreams // nil is of this one alone

	mu       sync.Mutex // guards the fields below
	sent     []wire.Pong
	failures []wire.PingFailure

	stream *pingStream
	ended  chan error
}

func (s *scriptedPings) Context() context.Context { return s.ctx }

func (s *scriptedPings) RecvMsg(m any) error {
	select {
	case ids, ok := <-s.pings:
		if !ok {
			return io.EOF
		}
		if s.protocol.batches() {
			*m.(*wire.Raw) = wire.AppendPings(nil, ids)
		} else {
			*m.(*wire.Raw) = wire.AppendPing(nil, ids[0])
		}
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func (s *scriptedPings) SendMsg(m any) error {
	select {
	case <-s.accept:
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
	if s.refuses != nil {
		return s.refuses
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	raw := (*m.(*mem.BufferSlice)).Materialize()
	if !s.protocol.batches() {
		_, p, err := wire.UnmarshalPong(raw)
		s.sent = append(s.sent, p)
		return err
	}
	var b wire.PongBatch
	err := b.Unmarshal(raw)
	s.sent, s.failures = append(s.sent, b.Pongs...), append(s.failures, b.Failures...)
	return err
}

// ping sends single pings, all of whose pongs may be sent.
func (s *scriptedPings) ping(ids ...int64) {
	for _, id := range ids {
		s.pings <- []int64{id}
		s.accept <- struct{}{}
	}
}

// accepts has the stream take pings that go nowhere; they are numbered from 0.
func (s *scriptedPings) accepts(ids ...int64) {
	for _, id := range ids {
		s.stream.accept([]int64{id})
	}
}

// got are the pongs that were sent, and the failures.
func (s *scriptedPings) got() ([]wire.Pong, []wire.PingFailure) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sent), slices.Clone(s.failures)
}

// hasEnded tells whether the stream has ended, and how.
func (s *scriptedPings) hasEnded() (ended bool, err error) {
	synctest.Wait()
	select {
	case err = <-s.ended:
		return true, err
	default:
		return false, nil
	}
}

// serve serves the stream in the background, until the test ends.
func (s *scriptedPings) serve(t *testing.T, protocol pingProtocol, p pinger) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s.protocol, s.ctx = protocol, ctx
	s.pings = make(chan []int64, 10*maxOpenPings)
	s.accept = make(chan struct{}, 10*maxOpenPings)
	s.ended = make(chan error, 1)
	if s.all == nil {
		s.all = &pingStreams{}
	}
	s.stream = newPingStream(s, protocol, p, s.all, make([]byte, 0, markerCap))
	go func() { s.ended <- s.stream.run() }()
	t.Cleanup(func() {
		cancel()
		synctest.Wait()
		s.all.tasks.Wait()
	})
}

// onScriptedPings runs f with a stream over keepalives of which upstream is held up for so long.
func onScriptedPings(t *testing.T, delay time.Duration, f func(s *scriptedPings)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		s := &scriptedPings{}
		s.serve(t, singlePings{}, &sharedPinger{keepalives: slowKeepalives(t, delay)})
		f(s)
	})
}

// slowKeepalives open no stream before delay is over.
func slowKeepalives(t *testing.T, delay time.Duration) *coalesce.Keepalives {
	k := coalesce.NewKeepalives(coalesce.KeepaliveConfig{Upstream: &slowPinger{delay: delay}})
	t.Cleanup(k.Close)
	return k
}

// slowPinger opens no stream before delay is over.
type slowPinger struct {
	fakePinger
	delay time.Duration
}

func (p *slowPinger) Open(ctx context.Context) (coalesce.PingStream, error) {
	select {
	case <-time.After(p.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return p.fakePinger.Open(ctx)
}

func TestHalfClosedClientIsAnsweredWhatItSent(t *testing.T) {
	onScriptedPings(t, time.Second/2, func(s *scriptedPings) {
		s.ping(0, 1, 2)
		close(s.pings)
		if ended, err := s.hasEnded(); ended {
			t.Fatalf("ended with %v", err)
		}
		time.Sleep(time.Second / 2)
		if ended, err := s.hasEnded(); !ended || err != nil || len(s.sent) != 3 {
			t.Errorf("ended (%v) with %v after %v", ended, err, s.sent)
		}
	})
}

// Those that came before it are answered, as at etcd, which serves them one after another, and none that came after it is.
func TestPingThatFailsEndsTheStreamInItsTurn(t *testing.T) {
	onScriptedPings(t, 0, func(s *scriptedPings) {
		s.accepts(1, 3, 7, 5)
		go s.stream.Pong(coalesce.Pong{ID: 1, TTL: 10, Number: 0})
		synctest.Wait() // it is being sent
		s.stream.Pong(coalesce.Pong{ID: 5, TTL: 50, Number: 3})
		s.stream.Pong(coalesce.Pong{ID: 7, Number: 2, Err: errors.New("why")})
		for range 4 {
			s.accept <- struct{}{}
		}
		if ended, err := s.hasEnded(); ended {
			t.Fatalf("ended with %v before lease 3 was answered", err)
		}
		s.stream.Pong(coalesce.Pong{ID: 3, TTL: 30, Number: 1})
		if _, err := s.hasEnded(); err == nil || err.Error() != "why" || !slices.Equal(s.sent, []wire.Pong{{ID: 1, TTL: 10}, {ID: 3, TTL: 30}}) {
			t.Errorf("ended with %v after %v", err, s.sent)
		}
		s.stream.Pong(coalesce.Pong{ID: 7, TTL: 70, Number: 2}) // is nobody's any more
	})
}

func TestPongsThatAreReadyAreSentBeforeTheStreamEnds(t *testing.T) {
	onScriptedPings(t, 0, func(s *scriptedPings) {
		s.accepts(1, 3, 7, 5)
		go s.stream.Pong(coalesce.Pong{ID: 1, TTL: 10, Number: 0})
		synctest.Wait() // it is being sent
		s.stream.Pong(coalesce.Pong{ID: 3, TTL: 30, Number: 1})
		s.stream.Pong(coalesce.Pong{ID: 5, TTL: 50, Number: 3}) // has to wait for 7
		s.stream.end(errors.New("why"))
		for range 4 {
			s.accept <- struct{}{}
		}
		if _, err := s.hasEnded(); err == nil || err.Error() != "why" || !slices.Equal(s.sent, []wire.Pong{{ID: 1, TTL: 10}, {ID: 3, TTL: 30}}) {
			t.Errorf("ended with %v after %v", err, s.sent)
		}
	})
}

func TestStreamThatCannotBeSentToEnds(t *testing.T) {
	onScriptedPings(t, 0, func(s *scriptedPings) {
		s.refuses = errors.New("gone")
		s.ping(0, 1, 2, 3, 4, 5)
		if _, err := s.hasEnded(); !errors.Is(err, s.refuses) {
			t.Errorf("ended with %v", err)
		}
		s.stream.Pong(coalesce.Pong{ID: 9, TTL: 90}) // is nobody's
	})
}

// TestPongsAreSentByWhoBringsThemAsLongAsThatCannotBlock counts what is sent without room for it. Nothing that was sent is ever
// written.
func TestPongsAreSentByWhoBringsThemAsLongAsThatCannotBlock(t *testing.T) {
	onScriptedPings(t, 0, func(s *scriptedPings) {
		for range maxInline {
			s.accept <- struct{}{}
		}
		for i := range int64(3 * maxOpenPings) {
			s.pings <- []int64{i} // answered by upstream in the same order
		}
		if sent, _ := s.got(); len(sent) != maxInline {
			t.Errorf("%d were sent", len(sent))
		}
		s.stream.mu.Lock()
		unsent, unwritten := s.stream.unsent, s.stream.unwritten
		s.stream.mu.Unlock()
		if unsent != maxOpenPings || unwritten != maxInline+1 { // the stream's own goroutine is at one
			t.Errorf("%d are unsent, %d unwritten", unsent, unwritten)
		}
		if left := len(s.pings); left != 3*maxOpenPings-maxInline-maxOpenPings {
			t.Errorf("%d were not read", left)
		}
		for range maxInline / pongsPerMark {
			(&pongMark{s.stream}).Put(nil)
		}
		for range 3 * maxOpenPings {
			s.accept <- struct{}{}
		}
		close(s.pings)
		if ended, err := s.hasEnded(); !ended || err != nil || len(s.sent) != 3*maxOpenPings {
			t.Errorf("ended (%v) with %v after %d", ended, err, len(s.sent))
		}
	})
}
