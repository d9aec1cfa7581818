package suite

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/loadtest/report"
)

// waiting is a turn of a second in which one client is answered each 10 ms after 3 ms, and another, who asks so long after the warm-up
// began, only after the turn.
func waiting(t *testing.T, asks time.Duration) report.Result {
	t.Helper()
	s := newScript(1, 1)
	s.WarmUp = 500 * time.Millisecond // 1.5 s in the first round
	s.do = func(_ string, l *scriptedLoad) {
		l.run = func(ctx context.Context, stop <-chan struct{}) error {
			begun := time.Now().Add(asks)
			starved := l.recorder.Track()
			if err := l.answer(ctx, stop); err != nil {
				return err
			}
			time.Sleep(20 * time.Second)
			starved.Done(begun, 256)
			return nil
		}
	}
	if err := s.all(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s.result(0, "B")
}

// A client who waits for all of a turn is no part of its answers, so it must be seen otherwise.
func TestClientWhoIsGivenNothingInATurnFailsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := waiting(t, 0)
		if len(b.Failed) != 1 || !strings.Contains(b.Failed[0].Reason, "1 operations were waited for throughout the 1s") ||
			!strings.Contains(b.Failed[0].Reason, "for 2.") {
			t.Errorf("B has %+v", b)
		}
	})
}

// How long the client who asked within the turn had waited at its end is a latency, though it is no answer.
func TestWaitOfWhatIsUnderWayAtTheEndIsALatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := waiting(t, 2*time.Second)
		if len(b.Turns) != 1 {
			t.Fatalf("B has %+v", b)
		}
		turn := b.Turns[0]
		if turn.Operations > 101 || turn.Latency.Max < 400 || turn.Latency.Max > 600 || turn.Latency.P50 > 3.1 {
			t.Errorf("%d operations, latency %+v: one had waited half a second", turn.Operations, turn.Latency)
		}
	})
}

// A stall that is shorter than what counts as starving is a latency too, however short the turn is.
func TestShortStallOverAllOfAShortTurnIsALatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Recorder{}
		track := r.Track()
		begun := time.Now()
		time.Sleep(100 * time.Millisecond)
		r.start()
		time.Sleep(200 * time.Millisecond)
		track.Done(time.Now(), 0)
		r.stop()
		track.Done(begun, 0)
		if turn, err := r.turn(); err != nil || turn.Latency.Max < 297 || turn.Latency.Max > 303 {
			t.Errorf("error %v, latency %+v", err, turn.Latency)
		}
	})
}

func TestWhatIsAskedForAfterATurnIsNoPartOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Recorder{}
		track := r.Track()
		r.start()
		time.Sleep(time.Second)
		track.Done(time.Now().Add(-time.Millisecond), 0)
		r.stop()
		time.Sleep(time.Second)
		track.Done(time.Now().Add(-time.Millisecond), 0)
		if turn, err := r.turn(); err != nil || turn.Operations != 1 || turn.Latency.Max > 1.1 {
			t.Errorf("error %v, %d operations, latency %+v", err, turn.Operations, turn.Latency)
		}
	})
}
