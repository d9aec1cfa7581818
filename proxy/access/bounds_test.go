package access

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/bubble"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// most is the largest number of calls that were under way at a time.
type most struct{ now, max atomic.Int64 }

// count has a cluster count its verdicts.
func (m *most) count(c *cluster) {
	c.before = func(method string) {
		if method == "Range" {
			n := m.now.Add(1)
			for was := m.max.Load(); n > was && !m.max.CompareAndSwap(was, n); was = m.max.Load() {
			}
			time.Sleep(10 * time.Millisecond)
			m.now.Add(-1)
		}
	}
}

func TestQuestionsUpstreamAreBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		one, all := c.login("alice"), new(most)
		c.set(func() { all.count(c) })
		var group sync.WaitGroup
		ask := func(token string, i int) {
			group.Go(func() { g.MayRead(withTokenIn(t.Context(), token), keys(fmt.Sprint("a", i), "")...) })
		}
		for i := range 2 * maxOpenOfOne {
			ask(one, i)
		}
		group.Wait()
		if n := all.max.Load(); n > maxCallsOfOne {
			t.Errorf("%d questions of one client at a time", n)
		}
		if n := g.Status().Verdicts; n > maxOpenOfOne {
			t.Errorf("%d questions of one client wait", n)
		}
		for i := range 2 * maxOpen {
			ask(c.login("alice"), i)
		}
		group.Wait()
		if n := all.max.Load(); n > maxCalls {
			t.Errorf("%d questions at a time", n)
		}
		if !g.MayRead(withTokenIn(t.Context(), one), keys("a", "")...) {
			t.Error("whoever comes afterwards is not asked about")
		}
		g.verdicts.mu.Lock()
		defer g.verdicts.mu.Unlock()
		if g.verdicts.asking != 0 || len(g.verdicts.askers) != 0 {
			t.Errorf("%d questions and %d askers are left", g.verdicts.asking, len(g.verdicts.askers))
		}
	})
}

func TestWhoIsNotAskedAboutInTimeIsToComeAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "root", nil)
		alice := withTokenIn(t.Context(), c.login("alice"))
		for range maxCalls { // all that may be asked is being asked
			g.verdicts.slots <- struct{}{}
		}
		if _, err := g.PermitWatch(alice, []byte("a"), nil); status.Code(err) != codes.Unavailable {
			t.Errorf("error %v", err)
		}
		for range maxCalls {
			<-g.verdicts.slots
		}
	})
}

func TestOneClientsQuestionsDoNotHoldUpAnothers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		greedy, modest := c.login("alice"), c.login("bob")
		c.set(func() { new(most).count(c) })
		for i := range maxOpenOfOne {
			go g.MayRead(withTokenIn(t.Context(), greedy), keys(fmt.Sprint("a", i), "")...)
		}
		synctest.Wait()
		began := time.Now()
		if !g.MayRead(withTokenIn(t.Context(), modest), keys("b", "")...) {
			t.Error("who may read is not allowed to")
		}
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		time.Sleep(time.Minute)
	})
}

func TestARequestForVeryManyRangesIsForwardedAndNotAskedAbout(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		ctx := withTokenIn(t.Context(), c.login("alice"))
		var all []Range
		for i := range maxCallsOfOne + 1 {
			all = append(all, keys(fmt.Sprint("a", i), "")...)
		}
		if before := g.Status().Verdicts; g.MayRead(ctx, all...) || g.Status().Verdicts != before {
			t.Error("upstream was asked")
		}
		if !g.MayRead(ctx, all[1:]...) || !g.MayRead(ctx, all...) {
			t.Error("who is known to may read is not allowed to")
		}
	})
}
