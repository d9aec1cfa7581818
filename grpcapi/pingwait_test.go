package grpcapi

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// take is a check that takes a time, and then allows everything.
func take(d time.Duration) fakeRights {
	return func(ctx context.Context, _ int64) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

func never(ctx context.Context, _ int64) error {
	<-ctx.Done()
	return ctx.Err()
}

// onCheckedPings runs f with a stream each of whose pings is checked, and then sent to where nothing is sent for delay.
func onCheckedPings(t *testing.T, p pingProtocol, delay time.Duration, check fakeRights, f func(s *scriptedPings)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		s := &scriptedPings{}
		s.serve(t, p, &sharedPinger{keepalives: slowKeepalives(t, delay), rights: []wire.PingRights{check}})
		f(s)
	})
}

func TestSecondOfAPingBeginsWhenItIsReadAndNotWhenItIsAllowed(t *testing.T) {
	for _, c := range []struct {
		check, upstream time.Duration
		answered        bool
	}{
		{600 * time.Millisecond, 300 * time.Millisecond, true},
		{600 * time.Millisecond, 600 * time.Millisecond, false},
	} {
		onCheckedPings(t, singlePings{}, c.upstream, take(c.check), func(s *scriptedPings) {
			s.ping(1)
			time.Sleep(1100 * time.Millisecond)
			pongs, _ := s.got()
			ended, err := s.hasEnded()
			if answered := len(pongs) == 1; answered != c.answered || ended == answered || ended && errText(err) != errText(rpctypes.ErrGRPCTimeout) {
				t.Errorf("%+v: got %v, ended (%v) with %v", c, pongs, ended, err)
			}
		})
	}
}

func TestPingsThatAStreamBroughtAlongAreAsOldAsTheStream(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := &scriptedPings{}
		s.serve(t, singlePings{}, &sharedPinger{keepalives: slowKeepalives(t, 300*time.Millisecond)})
		s.stream.openedAfter(800 * time.Millisecond)
		s.ping(1)
		time.Sleep(250 * time.Millisecond)
		if ended, err := s.hasEnded(); !ended || errText(err) != errText(rpctypes.ErrGRPCTimeout) {
			t.Errorf("ended (%v) with %v", ended, err)
		}
	})
	bubble.Test(t, func(t *testing.T) {
		s := &scriptedPings{}
		s.serve(t, singlePings{}, &sharedPinger{keepalives: slowKeepalives(t, 300*time.Millisecond)})
		s.stream.openedAfter(800 * time.Millisecond)
		time.Sleep(time.Second)
		s.ping(1)
		time.Sleep(400 * time.Millisecond)
		if pongs, _ := s.got(); len(pongs) != 1 {
			_, err := s.hasEnded()
			t.Errorf("a later ping is not answered: %v", err)
		}
	})
}

func TestPingWhoseCheckHangsFailsWhenPatienceEnds(t *testing.T) {
	onCheckedPings(t, singlePings{}, 0, never, func(s *scriptedPings) {
		s.ping(1)
		time.Sleep(refusalPatience - time.Millisecond)
		if ended, err := s.hasEnded(); ended {
			t.Fatalf("ended with %v", err)
		}
		time.Sleep(time.Millisecond)
		if ended, err := s.hasEnded(); !ended || errText(err) != errText(rpctypes.ErrGRPCTimeout) {
			t.Errorf("ended (%v) with %v", ended, err)
		}
	})
}

func TestPingOfABatchWhoseCheckHangsFailsAlone(t *testing.T) {
	onCheckedPings(t, batchedPings{}, 0, never, func(s *scriptedPings) {
		for range 10 {
			s.accept <- struct{}{}
		}
		s.pings <- []int64{1, 101, 3}
		s.pings <- []int64{103}
		if pongs, failures := s.got(); len(pongs) != 2 || len(failures) != 0 {
			t.Errorf("at once: %v, %v", pongs, failures)
		}
		time.Sleep(refusalPatience)
		_, failures := s.got()
		for i := range failures {
			if codes.Code(failures[i].Code) != codes.Unavailable || failures[i].Text != "etcdserver: request timed out" {
				t.Errorf("failed with %+v", failures[i])
			}
		}
		if ended, err := s.hasEnded(); ended || len(failures) != 2 {
			t.Errorf("ended (%v) with %v after %v", ended, err, failures)
		}
	})
}

func TestRefusalIsToldAndNotThatItWasLate(t *testing.T) {
	onCheckedPings(t, singlePings{}, 0, func(ctx context.Context, _ int64) error {
		<-ctx.Done()
		return rpctypes.ErrGRPCPermissionDenied
	}, func(s *scriptedPings) {
		s.ping(1)
		time.Sleep(refusalPatience)
		if _, err := s.hasEnded(); errText(err) != errText(rpctypes.ErrGRPCPermissionDenied) {
			t.Errorf("ended with %v", err)
		}
	})
}

// TestSlowChecksOfOneStreamDoNotAddUp has a whole stream of pings checked within their second.
func TestSlowChecksOfOneStreamDoNotAddUp(t *testing.T) {
	const delay = 5 * time.Millisecond
	var checks, most atomic.Int64
	check := func(ctx context.Context, id int64) error {
		if n := checks.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer checks.Add(-1)
		return take(delay)(ctx, id)
	}
	onCheckedPings(t, singlePings{}, 0, check, func(s *scriptedPings) {
		var want []int64
		for i := range int64(maxOpenPings) {
			want = append(want, 2*(i%50)-1) // those from 100 on need no check
		}
		s.ping(want...)
		time.Sleep(maxOpenPings / maxPingWaiters * delay)
		pongs, _ := s.got()
		if !slices.EqualFunc(pongs, want, func(p wire.Pong, id int64) bool { return p.ID == id }) {
			ended, err := s.hasEnded()
			t.Errorf("%d pongs, or not in order; ended (%v) with %v", len(pongs), ended, err)
		}
		if n := most.Load(); n != maxPingWaiters {
			t.Errorf("%d checks at a time", n)
		}
	})
}

// TestChecksEndWithTheStream leaves nothing behind that a check waits for.
func TestChecksEndWithTheStream(t *testing.T) {
	var waiting atomic.Int64
	check := func(ctx context.Context, id int64) error {
		waiting.Add(1)
		defer waiting.Add(-1)
		return never(ctx, id)
	}
	onCheckedPings(t, singlePings{}, 0, check, func(s *scriptedPings) {
		for range 2 * maxPingWaiters {
			s.ping(1)
		}
		synctest.Wait()
		if n := waiting.Load(); n != maxPingWaiters {
			t.Fatalf("%d checks", n)
		}
		s.stream.end(rpctypes.ErrGRPCNoLeader)
		if ended, err := s.hasEnded(); !ended || errText(err) != errText(rpctypes.ErrGRPCNoLeader) || waiting.Load() != 0 {
			t.Errorf("ended (%v) with %v, and %d checks go on", ended, err, waiting.Load())
		}
	})
}
