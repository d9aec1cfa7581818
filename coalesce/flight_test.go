package coalesce

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/bubble"
)

const flightPatience = 100 * time.Millisecond

// flightBench is a flight whose calls are held until the test lets them go. It is used inside a synctest bubble.
type flightBench struct {
	t      *testing.T
	flight *Flight[int]

	mu    sync.Mutex  // guards calls
	calls []*heldCall // in the order in which they were sent
}

type heldCall struct {
	ctx  context.Context
	sent time.Time
	end  chan error // a send ends the call
}

// flightCaller is one caller of Do, and what came of it once done is closed.
type flightCaller struct {
	done   chan struct{}
	leave  context.CancelFunc
	answer int
	err    error
}

var errUpstream = errors.New("upstream says no")

// testFlight runs test in a bubble, and wants the flight to be empty and closed afterwards.
func testFlight(t *testing.T, test func(t *testing.T, b *flightBench)) {
	bubble.Test(t, func(t *testing.T) {
		b := &flightBench{t: t, flight: NewFlight[int](flightPatience)}
		test(t, b)
		start := time.Now()
		b.flight.Close()
		if took := time.Since(start); took > 0 {
			t.Errorf("Close took %v: something was left", took)
		}
		if n := len(b.flight.lines); n != 0 {
			t.Errorf("%d lines are left", n)
		}
	})
}

// do has a caller come, and waits until it has joined or sent a call. The answer of a call is its number, from 1.
func (b *flightBench) do(ctx context.Context, key string) *flightCaller {
	c := &flightCaller{done: make(chan struct{})}
	ctx, c.leave = context.WithCancel(ctx)
	go func() {
		defer close(c.done)
		c.answer, c.err = b.flight.Do(ctx, key, func(ctx context.Context) (int, error) {
			h := &heldCall{ctx: ctx, sent: time.Now(), end: make(chan error)}
			b.mu.Lock()
			b.calls = append(b.calls, h)
			number := len(b.calls)
			b.mu.Unlock()
			select {
			case err := <-h.end:
				return number, err
			case <-ctx.Done():
				return 0, fmt.Errorf("call: %w", context.Cause(ctx))
			}
		})
	}()
	synctest.Wait()
	return c
}

// end lets the call with the given number return.
func (b *flightBench) end(number int, err error) {
	b.call(number).end <- err
	synctest.Wait()
}

func (b *flightBench) call(number int) *heldCall {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls[number-1]
}

func (b *flightBench) wantCalls(n int) {
	b.t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.calls) != n {
		b.t.Fatalf("%d calls were sent, want %d", len(b.calls), n)
	}
}

// want wants the caller to have been answered already.
func (b *flightBench) want(c *flightCaller, answer int, err error) {
	b.t.Helper()
	synctest.Wait()
	select {
	case <-c.done:
	default:
		b.t.Fatal("the caller still waits")
	}
	if c.answer != answer || !errors.Is(c.err, err) {
		b.t.Fatalf("the caller was given %d, error %v, want %d, error %v", c.answer, c.err, answer, err)
	}
}

func (b *flightBench) wantWaiting(c *flightCaller) {
	b.t.Helper()
	synctest.Wait()
	select {
	case <-c.done:
		b.t.Fatalf("the caller was given %d, error %v, before its time", c.answer, c.err)
	default:
	}
}

func TestThousandCallersMakeTwoCalls(t *testing.T) {
	testFlight(t, func(t *testing.T, b *flightBench) {
		callers := make([]*flightCaller, 1000)
		for i := range callers {
			callers[i] = b.do(t.Context(), "k")
		}
		b.wantCalls(1)
		b.end(1, nil)
		b.want(callers[0], 1, nil)
		b.wantCalls(2)
		b.wantWaiting(callers[1])
		b.end(2, nil)
		for _, c := range callers[1:] {
			b.want(c, 2, nil)
		}
		if got, want := b.flight.Stats(), (FlightStats{Calls: 2, Shared: 998}); got != want {
			t.Errorf("stats are %+v, want %+v", got, want)
		}
	})
}

func TestCallersOneAfterAnotherMakeACallEach(t *testing.T) {
	testFlight(t, func(t *testing.T, b *flightBench) {
		for i := range 3 {
			c := b.do(t.Context(), "k")
			b.end(i+1, nil)
			b.want(c, i+1, nil)
		}
		if got := b.flight.Stats(); got != (FlightStats{Calls: 3}) {
			t.Errorf("stats are %+v", got)
		}
	})
}

func TestDifferentKeysShareNothing(t *testing.T) {
	testFlight(t, func(t *testing.T, b *flightBench) {
		one, two := b.do(t.Context(), "1"), b.do(t.Context(), "2")
		b.wantCalls(2)
		b.end(2, nil)
		b.want(two, 2, nil)
		b.wantWaiting(one)
		b.end(1, nil)
		b.want(one, 1, nil)
	})
}

func TestErrorIsGivenToAllWhoJoined(t *testing.T) {
	testFlight(t, func(t *testing.T, b *flightBench) {
		first, second, third := b.do(t.Context(), "k"), b.do(t.Context(), "k"), b.do(t.Context(), "k")
		b.end(1, nil)
		b.end(2, errUpstream)
		b.want(first, 1, nil)
		b.want(second, 2, errUpstream)
		b.want(third, 2, errUpstream)
	})
}

func TestNextCallIsSentWhenTheOneUnderWayHasTakenPatience(t *testing.T) {
	testFlight(t, func(t *testing.T, b *flightBench) {
		start := time.Now()
		hung := b.do(t.Context(), "k")
		time.Sleep(flightPatience / 2)
		second, third := b.do(t.Context(), "k"), b.do(t.Context(), "k")
		time.Sleep(flightPatience/2 - time.Nanosecond)
		b.wantCalls(1)
		time.Sleep(time.Nanosecond)
		b.wantCalls(2)
		if took := b.call(2).sent.Sub(start); took != flightPatience {
			t.Errorf("sent after %v", took)
		}
		// The patience of those who come now starts with the second call, and its end sends theirs, not that of the first.
		fourth := b.do(t.Context(), "k")
		b.end(1, nil)
		b.want(hung, 1, nil)
		b.wantCalls(2)
		b.end(2, nil)
		b.want(second, 2, nil)
		b.want(third, 2, nil)
		b.wantCalls(3)
		b.end(3, nil)
		b.want(fourth, 3, nil)
	})
}

func TestWhoComesAfterPatienceCallsAtOnce(t *testing.T) {
	testFlight(t, func(t *testing.T, b *flightBench) {
		hung := b.do(t.Context(), "k")
		time.Sleep(flightPatience)
		c := b.do(t.Context(), "k")
		b.wantCalls(2)
		b.end(2, nil)
		b.want(c, 2, nil)
		// The newest call has ended, so that nothing is known against calling again.
		c = b.do(t.Context(), "k")
		b.end(3, nil)
		b.want(c, 3, nil)
		b.end(1, nil)
		b.want(hung, 1, nil)
	})
}

func TestHangingCallsOfAKeyAreBounded(t *testing.T) {
	for _, since := range []time.Duration{0, flightPatience} { // the last of them was sent
		testFlight(t, func(t *testing.T, b *flightBench) {
			var hung []*flightCaller
			for range maxUnderWay {
				time.Sleep(flightPatience)
				hung = append(hung, b.do(t.Context(), "k"))
			}
			time.Sleep(since)
			b.wantCalls(maxUnderWay)
			late := []*flightCaller{b.do(t.Context(), "k"), b.do(t.Context(), "k")}
			time.Sleep(time.Hour)
			b.wantCalls(maxUnderWay)
			b.end(3, nil)
			b.want(hung[2], 3, nil)
			b.wantCalls(maxUnderWay + 1)
			b.end(maxUnderWay+1, nil)
			for _, c := range late {
				b.want(c, maxUnderWay+1, nil)
			}
			for i, c := range hung {
				if i != 2 {
					b.end(i+1, nil)
					b.want(c, i+1, nil)
				}
			}
		})
	}
}

func TestWhoCallsForHimselfIsGivenHisContextsErrorWhenItEnds(t *testing.T) {
	testFlight(t, func(t *testing.T, b *flightBench) {
		c := b.do(t.Context(), "k")
		c.leave()
		b.want(c, 0, context.Canceled)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c = b.do(ctx, "k")
		time.Sleep(time.Second)
		if b.want(c, 0, context.DeadlineExceeded); c.err != context.DeadlineExceeded {
			t.Errorf("the error is %v, not that of the context", c.err)
		}
	})
}

func TestSharedCallGoesOnUntilTheLastCallerHasLeft(t *testing.T) {
	type key struct{}
	testFlight(t, func(t *testing.T, b *flightBench) {
		first := b.do(t.Context(), "k")
		ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), key{}, "value"), time.Hour)
		defer cancel()
		second, third := b.do(ctx, "k"), b.do(t.Context(), "k")
		b.end(1, nil)
		b.want(first, 1, nil)
		b.wantCalls(2)
		call := b.call(2).ctx
		if _, ok := call.Deadline(); ok || call.Value(key{}) != "value" {
			t.Errorf("the context of the call has a deadline (%v) or not the values of a caller", ok)
		}
		second.leave()
		b.want(second, 0, context.Canceled)
		if call.Err() != nil {
			t.Fatal("the call ended although somebody waits for it")
		}
		third.leave()
		b.want(third, 0, context.Canceled)
		if synctest.Wait(); call.Err() == nil {
			t.Fatal("the call goes on although nobody waits for it")
		}
	})
}

func TestSharedCallAnswersThoseWhoStay(t *testing.T) {
	testFlight(t, func(t *testing.T, b *flightBench) {
		first, second, third := b.do(t.Context(), "k"), b.do(t.Context(), "k"), b.do(t.Context(), "k")
		second.leave() // before it is sent
		b.want(second, 0, context.Canceled)
		b.end(1, nil)
		b.want(first, 1, nil)
		b.end(2, nil)
		b.want(third, 2, nil)
	})
}

func TestCallThatNobodyWaitsForIsNotSent(t *testing.T) {
	testFlight(t, func(t *testing.T, b *flightBench) {
		hung, second := b.do(t.Context(), "k"), b.do(t.Context(), "k")
		second.leave()
		b.want(second, 0, context.Canceled)
		time.Sleep(2 * flightPatience)
		b.wantCalls(1)
		b.end(1, nil)
		b.want(hung, 1, nil)
		b.wantCalls(1)
	})
}

func TestPanicOfACallHangsNobody(t *testing.T) {
	testFlight(t, func(t *testing.T, b *flightBench) {
		panics := make(chan struct{})
		recovered := make(chan any, 1)
		go func() {
			defer func() { recovered <- recover() }()
			_, _ = b.flight.Do(t.Context(), "k", func(context.Context) (int, error) {
				<-panics
				panic("at the disco")
			})
		}()
		synctest.Wait()
		second := b.do(t.Context(), "k")
		close(panics)
		if got := <-recovered; got != "at the disco" {
			t.Errorf("recovered %v", got)
		}
		b.wantCalls(1)
		b.end(1, nil)
		b.want(second, 1, nil)
	})
}

func TestSharedCallThatDoesNotReturnIsAnError(t *testing.T) {
	testFlight(t, func(t *testing.T, b *flightBench) {
		first := b.do(t.Context(), "k")
		err := make(chan error)
		go func() {
			_, got := b.flight.Do(t.Context(), "k", func(context.Context) (int, error) {
				runtime.Goexit()
				return 1, nil
			})
			err <- got
		}()
		synctest.Wait()
		b.end(1, nil)
		b.want(first, 1, nil)
		if got := <-err; !errors.Is(got, errNoReturn) {
			t.Errorf("error is %v", got)
		}
	})
}

func TestCloseCancelsEveryCallAndWaitsForThem(t *testing.T) {
	testFlight(t, func(t *testing.T, b *flightBench) {
		own, shared := b.do(t.Context(), "k"), b.do(t.Context(), "k")
		time.Sleep(flightPatience)
		b.wantCalls(2)
		unsent := b.do(t.Context(), "k")
		b.wantCalls(2)

		// One more, which takes its time to return.
		slow := make(chan struct{})
		go func() {
			_, _ = b.flight.Do(t.Context(), "slow", func(ctx context.Context) (int, error) {
				<-ctx.Done()
				<-slow
				return 0, nil
			})
		}()
		synctest.Wait()

		closed := make(chan struct{})
		go func() {
			b.flight.Close()
			close(closed)
		}()
		for _, c := range []*flightCaller{own, shared, unsent} {
			b.want(c, 0, ErrFlightClosed)
		}
		select {
		case <-closed:
			t.Error("Close did not wait for a call")
		default:
		}
		close(slow)
		<-closed
		b.want(b.do(t.Context(), "k"), 0, ErrFlightClosed)
		b.wantCalls(2)
	})
}

// Callers come and leave at random while a revision rises. Each must be given a revision that is not below the one it
// could have known when it came: that is what "joins only a call not yet sent" is for.
func TestAnswerIsNeverOlderThanTheQuestion(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	bubble.Test(t, func(t *testing.T) {
		const keys, callers, each = 3, 40, 100
		flight := NewFlight[int64](5 * time.Millisecond)
		var revision atomic.Int64
		var underWay [keys]atomic.Int64
		var wg sync.WaitGroup
		for n := range callers {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, uint64(n)))
				below := func(d time.Duration) time.Duration { return time.Duration(rnd.Int64N(int64(d))) }
				for range each {
					time.Sleep(below(4 * time.Millisecond))
					key, takes, hangs := rnd.IntN(keys), below(4*time.Millisecond), rnd.IntN(20) == 0
					ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond+below(40*time.Millisecond))
					asked := revision.Add(1)
					got, err := flight.Do(ctx, strconv.Itoa(key), func(ctx context.Context) (int64, error) {
						if underWay[key].Add(1) > maxUnderWay {
							t.Error("too many calls under way")
						}
						defer underWay[key].Add(-1)
						rev := revision.Load()
						if hangs {
							<-ctx.Done()
							return 0, ctx.Err()
						}
						time.Sleep(takes)
						return rev, nil
					})
					if err != nil && ctx.Err() == nil || err == nil && got < asked {
						t.Errorf("asked at %d, was given %d, error %v", asked, got, err)
					}
					cancel()
				}
			})
		}
		wg.Wait()
		flight.Close()
		if s := flight.Stats(); s.Shared == 0 || s.Calls == 0 {
			t.Errorf("stats are %+v: nothing was tried", s)
		}
	})
}

// What an uncontended Do costs over the call, whose context is that of a request.
func BenchmarkFlightAlone(b *testing.B) {
	b.ReportAllocs()
	flight := NewFlight[int](time.Second)
	defer flight.Close()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	for b.Loop() {
		if _, err := flight.Do(ctx, "key", func(context.Context) (int, error) { return 0, nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFlightManyKeys(b *testing.B) {
	b.ReportAllocs()
	flight := NewFlight[int](time.Second)
	defer flight.Close()
	var workers atomic.Int64
	b.RunParallel(func(p *testing.PB) {
		key := fmt.Sprint("key-", workers.Add(1))
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		for p.Next() {
			if _, err := flight.Do(ctx, key, func(context.Context) (int, error) { return 0, nil }); err != nil {
				b.Error(err)
			}
		}
	})
}
