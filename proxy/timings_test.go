package proxy

import (
	"context"
	"math"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestTimingsAreOfTheLastMinute(t *testing.T) {
	var timings timings
	now := time.Unix(1e9, 0)
	if median, p99 := timings.quantiles(now); median != 0 || p99 != 0 {
		t.Errorf("of none: %v, %v", median, p99)
	}
	add := func(took time.Duration, err error) { timings.add(now.Add(-took), now, err) }
	// A thousand calls a second for an hour: in the last minute of 1 to 100 ms, before that of a second.
	for second := range 3600 {
		for i := range 1000 {
			if second < 3600-60 {
				add(time.Second, nil)
			} else {
				add(time.Duration(i%100+1)*time.Millisecond, nil)
			}
		}
		add(time.Millisecond, rpctypes.ErrGRPCStopped) // Unavailable
		add(time.Millisecond, status.FromContextError(context.Canceled).Err())
		now = now.Add(time.Second)
	}
	if answered, failed := timings.counts(); answered != 3600*1000 || failed != 3600 {
		t.Errorf("%d answered, %d failed", answered, failed)
	}
	near := func(got, want time.Duration) bool { return math.Abs(float64(got-want)) < float64(want)/8 }
	if median, p99 := timings.quantiles(now.Add(-time.Nanosecond)); !near(median, 50*time.Millisecond) || !near(p99, 99*time.Millisecond) {
		t.Errorf("got %v, %v", median, p99)
	}
	if median, p99 := timings.quantiles(now.Add(time.Minute)); median != 0 || p99 != 0 {
		t.Errorf("a quiet minute later: got %v, %v", median, p99)
	}
}

func TestEveryDurationHasAStepWithAMiddleNearIt(t *testing.T) {
	for took := time.Duration(1 << lowestBit); took < time.Minute; took += took/20 + 1 {
		if got := middle(stepOf(took)); math.Abs(float64(got-took)) > float64(took)/8 {
			t.Errorf("%v counts as %v", took, got)
		}
	}
	for _, took := range []time.Duration{-1, 0, 1, time.Hour, math.MaxInt64} {
		if step := stepOf(took); step < 0 || step >= timingSteps {
			t.Errorf("%v: step %d", took, step)
		}
	}
}

func TestCallsThatAreCancelledSayNothingOfTheMember(t *testing.T) {
	var timings timings
	now := time.Now()
	for _, code := range []codes.Code{codes.OK, codes.NotFound, codes.Canceled, codes.Unavailable, codes.DeadlineExceeded} {
		timings.add(now, now, status.Error(code, ""))
	}
	if answered, failed := timings.counts(); answered != 2 || failed != 2 {
		t.Errorf("%d answered, %d failed", answered, failed)
	}
}
