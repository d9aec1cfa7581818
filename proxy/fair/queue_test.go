package fair

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/bubble"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestCallsOfOneAccountAreServedInTheirOrder(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPool(1)
		holds := take(t, p, "a")
		var waiting []*call
		for range 5 {
			waiting = append(waiting, wait(t.Context(), p, "a", 0))
		}
		for i := range waiting {
			holds.Release()
			for j := i; j < len(waiting); j++ {
				if given(t, waiting[j]) != (i == j) {
					t.Fatalf("after release %d, call %d: slot given %v", i, j, i != j)
				}
			}
			holds = waiting[i].slot
		}
		holds.Release()
		checkEmpty(t, p)
	})
}

func TestWhoGivesUpLeavesTheQueue(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPool(1)
		holds := take(t, p, "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		before := wait(t.Context(), p, "b", 0)
		leaving := wait(ctx, p, "b", 0)
		alone := wait(ctx, p, "c", 0)
		after := wait(t.Context(), p, "b", 0)
		time.Sleep(time.Second)
		for _, c := range []*call{leaving, alone} {
			if err := <-c.err; status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("who gave up got %v", err)
			}
		}
		if s := p.Stats(); s.Queued != 2 || s.Accounts != 2 || s.Left != 2 {
			t.Errorf("after two gave up: %+v", s)
		}
		holds.Release()
		if !given(t, before) {
			t.Error("who waited before was not served")
		}
		before.slot.Release()
		if !given(t, after) {
			t.Error("who waited behind was not served")
		}
		after.slot.Release()
		checkEmpty(t, p)
	})
}

func TestASlotGivenToWhoGaveUpGoesOn(t *testing.T) {
	p := newPool(1)
	holds := take(t, p, "a")
	w, _ := p.enter("b", 1, 0)
	holds.Release() // gives it to b
	p.leave(w)
	if p.Stats().InUse != 0 {
		t.Error("a slot is lost")
	}
	checkEmpty(t, p)
}

func TestTooManyCallsOfOneAccountAreRefused(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var log strings.Builder
		p := New[string](Config{Slots: 1, MaxQueuedBytes: 1 << 30, MaxQueued: 3, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		take(t, p, "a")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 3 {
			wait(ctx, p, "a", 0)
		}
		for range 5 {
			checkRefused(t, <-wait(ctx, p, "a", 0).err)
		}
		wait(ctx, p, "b", 0)
		if s := p.Stats(); s.Queued != 4 || s.Refused != 5 {
			t.Errorf("with room for 3 calls of each account: %+v", s)
		}
		if n := strings.Count(log.String(), "account=a"); n != 1 {
			t.Errorf("the log was told %d times:\n%s", n, log.String())
		}
	})
}

func checkRefused(t *testing.T, err error) {
	t.Helper()
	if status.Code(err) != codes.ResourceExhausted || rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooManyRequests) {
		t.Errorf("who was too many got %v", err)
	}
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok && info.RetryDelay.AsDuration() > 0 {
			return
		}
	}
	t.Errorf("%v says nothing about when to retry", err)
}

func TestNoAccountFillsTheBytesOfAll(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const (
			callBytes = 100 << 10
			bound     = 4 << 20
		)
		p := New[string](Config{Slots: 1, MaxQueuedBytes: bound, MaxQueued: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
		holds := take(t, p, "flood")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		refused := 0
		for range 200 {
			if got := wait(ctx, p, "flood", callBytes).err; len(got) > 0 {
				checkRefused(t, <-got)
				refused++
			}
		}
		if s := p.Stats(); refused == 0 || s.QueuedBytes > bound/2+callBytes || s.QueuedBytes < bound/2-callBytes {
			t.Errorf("%d bytes of one account wait, of %d, and %d calls were refused", s.QueuedBytes, bound, refused)
		}
		for i := range 3 {
			if got := wait(ctx, p, fmt.Sprint("quiet", i), callBytes).err; len(got) > 0 {
				t.Errorf("quiet account %d cannot wait: %v", i, <-got)
			}
		}
		checkRefused(t, <-wait(ctx, p, "large", bound).err)
		if s := p.Stats(); s.Accounts != 4 || s.QueuedBytes > bound {
			t.Errorf("with a bound of %d: %+v", bound, s)
		}
		cancel()
		synctest.Wait()
		holds.Release()
		checkEmpty(t, p)
	})
}
