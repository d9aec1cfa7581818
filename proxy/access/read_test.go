package access

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/bubble"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/grpc/metadata"
)

// abCluster has a user alice who may read [a, b).
func abCluster() *cluster {
	c := newGuardedCluster(map[string][]string{"alice": {"a"}, "bob": {"b"}})
	c.roles["a"] = []*authpb.Permission{permission(authpb.READ, "a", "b")}
	c.roles["b"] = []*authpb.Permission{permission(authpb.READ, "b", "c")}
	return c
}

func TestAReadIsAllowedForASecondFromWhenItsVerdictWasSent(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		c.set(func() { c.delay = 300 * time.Millisecond })
		g := newGuard(t, c, "reader", nil)
		ctx := withTokenIn(t.Context(), c.login("alice"))
		asked := g.Status().Verdicts
		sent := time.Now()
		if !g.MayRead(ctx, keys("a", "b")...) {
			t.Fatal("who may read is not allowed to")
		}
		c.change(func() { c.roles["a"] = nil })
		time.Sleep(time.Until(sent.Add(time.Second)))
		if !g.MayRead(ctx, keys("a", "b")...) || g.Status().Verdicts != asked+1 {
			t.Error("the verdict has not been kept for a second")
		}
		time.Sleep(time.Nanosecond)
		if g.MayRead(ctx, keys("a", "b")...) {
			t.Error("a right that has been taken away still allows to read after a second")
		}
	})
}

func TestAnAnswerThatTakesLongerThanItCountsDoesNotAllowToRead(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		c.set(func() { c.delay = time.Second + time.Millisecond })
		began := time.Now()
		if g.MayRead(withTokenIn(t.Context(), c.login("alice")), keys("a", "")...) {
			t.Error("an old answer counts")
		}
		if took := time.Since(began); took > c.delay {
			t.Errorf("the read has waited for %v", took)
		}
	})
}

func TestARefusalIsNotRemembered(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		ctx := withTokenIn(t.Context(), c.login("bob"))
		for range 3 {
			if g.MayRead(ctx, keys("a", "")...) {
				t.Fatal("who may not read is allowed to")
			}
		}
		c.change(func() { c.users["bob"].roles = []string{"a", "b"} })
		if !g.MayRead(ctx, keys("a", "")...) {
			t.Error("a right that was granted does not count at once")
		}
		if !g.MayRead(ctx, keys("a", "c")...) {
			t.Error("two permissions do not count together")
		}
	})
}

func TestAVerdictIsOfOneTokenAsItWasSent(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		token := c.login("alice")
		if !g.MayRead(withTokenIn(t.Context(), token), keys("a", "b")...) {
			t.Fatal("who may read is not allowed to")
		}
		for name, ctx := range map[string]context.Context{
			"of another user":   withTokenIn(t.Context(), c.login("bob")),
			"forged":            withTokenIn(t.Context(), "x."+token),
			"empty":             withTokenIn(t.Context(), ""),
			"spelled otherwise": withTokenIn(t.Context(), "Bearer Bearer "+token),
			"the second of two": metadata.NewIncomingContext(t.Context(), metadata.Pairs("token", "x", "token", token)),
			"in the other field": metadata.NewIncomingContext(t.Context(),
				metadata.Pairs("token", "x", "authorization", token)),
			"of nobody":        t.Context(),
			"of a certificate": withCertificateIn(t.Context(), "alice"),
		} {
			if g.MayRead(ctx, keys("a", "b")...) {
				t.Errorf("a token that is %s is allowed to read", name)
			}
		}
		verdicts := c.count("Range")
		if !g.MayRead(withTokenIn(t.Context(), "Bearer "+token), keys("a", "b")...) {
			t.Error("upstream is not asked with the token as it was sent")
		}
		if c.count("Range") != verdicts+1 {
			t.Error("another spelling has not been asked for")
		}
	})
}

func TestAVerdictIsOfExactlyItsRange(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		ctx := withTokenIn(t.Context(), c.login("alice"))
		if !g.MayRead(ctx, keys("a", "", "a", "b")...) {
			t.Fatal("who may read is not allowed to")
		}
		for _, r := range [][]Range{
			keys("a", "\x00"), keys("a", "c"), keys("", "a"), keys("", ""), keys("", "\x00"), keys("a", "", "b", ""),
		} {
			if g.MayRead(ctx, r...) {
				t.Errorf("%q is allowed", r)
			}
		}
	})
}

func TestManyWhoAskTheSameAskUpstreamOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		c.set(func() { c.delay = 10 * time.Millisecond })
		ctx := withTokenIn(t.Context(), c.login("alice"))
		asked := c.count("Range")
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				if !g.MayRead(ctx, keys("a", "b")...) {
					t.Error("who may read is not allowed to")
				}
			})
		}
		group.Wait()
		if n := c.count("Range") - asked; n != 1 {
			t.Errorf("upstream was asked %d times", n)
		}
		if hits := g.Status().VerdictHits; hits != 0 {
			t.Errorf("%d hits, although there was no answer yet", hits)
		}
	})
}

func TestTheRangesOfOneRequestAreAskedForTogether(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		c.set(func() { c.delay = 10 * time.Millisecond })
		var all []Range
		for i := range 50 {
			all = append(all, keys(fmt.Sprintf("a%d", i), "")...)
		}
		began := time.Now()
		if !g.MayRead(withTokenIn(t.Context(), c.login("alice")), all...) {
			t.Error("who may read is not allowed to")
		}
		if took := time.Since(began); took != c.delay {
			t.Errorf("it took %v", took)
		}
	})
}

func TestWhoLeavesDoesNotTakeTheAnswerFromOthers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		c.set(func() { c.delay = 10 * time.Millisecond })
		ctx := withTokenIn(t.Context(), c.login("alice"))
		first, leave := context.WithCancel(ctx)
		go g.MayRead(first, keys("a", "")...)
		synctest.Wait()
		var may bool
		go func() { may = g.MayRead(ctx, keys("a", "")...) }()
		synctest.Wait()
		leave()
		time.Sleep(c.delay)
		synctest.Wait()
		if !may {
			t.Error("who has stayed is not answered")
		}
	})
}

func TestWhatWasAskedUnderAnotherRegimeIsNotRemembered(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		ctx := withTokenIn(t.Context(), c.login("alice"))
		c.set(func() { c.delay = 10 * time.Millisecond })
		go g.MayRead(ctx, keys("a", "")...)
		synctest.Wait() // it has been sent
		g.remember(Closed)
		g.remember(Guarded)
		time.Sleep(time.Second / 2)
		asked := c.count("Range")
		if !g.MayRead(ctx, keys("a", "")...) || c.count("Range") != asked+1 {
			t.Error("the verdict of another time counts")
		}
	})
}

func TestNothingIsAllowedBeforeTheRegimeIsKnownAndWhileItIsClosed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		ctx := withTokenIn(t.Context(), c.login("alice"))
		g := New(Config{Upstream: c})
		defer g.Close()
		if g.MayRead(ctx, keys("a", "")...) {
			t.Error("a read is allowed under an unknown regime")
		}
		if r := mustRegime(t, g, c); r != Closed {
			t.Fatalf("the regime is %v", r)
		}
		if g.MayRead(ctx, keys("a", "")...) {
			t.Error("a read is allowed under a closed regime")
		}
	})
}

func TestWhatIsRememberedOfVerdictsIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		ctx := withTokenIn(t.Context(), c.login("alice"))
		long := strings.Repeat("x", 1<<20)
		for i := range 2 * maxVerdictBytes >> 20 {
			if !g.MayRead(ctx, keys(fmt.Sprintf("a%d%s", i, long), "")...) {
				t.Fatal("who may read is not allowed to")
			}
			if v := &g.verdicts; v.bytes > maxVerdictBytes/2 {
				t.Fatalf("%d bytes are kept in a half", v.bytes)
			}
		}
		time.Sleep(1500 * time.Millisecond)
		for _, i := range []int{0, 1} {
			g.MayRead(ctx, keys(fmt.Sprintf("a%d", i), "")...)
			time.Sleep(1500 * time.Millisecond)
		}
		if n := len(g.verdicts.fresh) + len(g.verdicts.old); n > 6 {
			t.Errorf("%d verdicts are kept that count no longer", n)
		}
	})
}

func TestAKnownUserWithAValidTokenNeedsNoVerdictForEachKey(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "root", nil)
		token := authenticateThrough(t, g, c, "alice")
		ctx := withTokenIn(t.Context(), token)
		end := time.Now().Add(3 * time.Second)
		for i := 0; time.Now().Before(end); i++ {
			if !g.MayRead(ctx, keys(fmt.Sprintf("a%d", i), "")...) {
				t.Fatal("who may read is not allowed to")
			}
			if g.MayRead(ctx, keys(fmt.Sprintf("b%d", i), "")...) {
				t.Fatal("who may not read is allowed to")
			}
			time.Sleep(10 * time.Millisecond)
		}
		if s := g.Status(); s.PolicyHits < 150 {
			t.Errorf("%+v", s)
		}
		c.set(func() { delete(c.tokens, token) }) // it expires
		time.Sleep(time.Second + time.Nanosecond)
		if g.MayRead(ctx, keys("a", "")...) {
			t.Error("a token that has expired allows to read after a second")
		}
	})
}

// authenticateThrough has a client authenticate through the proxy.
func authenticateThrough(t *testing.T, g *Guard, c *cluster, user string) string {
	t.Helper()
	req := encode(t, authenticateRequest(user))
	resp, err := c.Call(t.Context(), "/etcdserverpb.Auth/Authenticate", req)
	if err != nil {
		t.Fatal(err)
	}
	g.Authenticated(req, resp)
	return tokenOf(resp)
}

func TestAHitAllocatesNothingButWhatIsReadOfTheMetadata(t *testing.T) {
	c := abCluster()
	g := newGuard(t, c, "reader", nil)
	token := c.login("alice")
	ctx := withTokenIn(t.Context(), token)
	r := keys("a", "b")
	if !g.MayRead(ctx, r...) {
		t.Fatal("who may read is not allowed to")
	}
	now := g.clock.now()
	if n := testing.AllocsPerRun(100, func() { g.verdicts.allows(token, r[0].Key, r[0].End, false, now) }); n != 0 {
		t.Errorf("a look at the verdicts takes %v allocations", n)
	}
}

func BenchmarkMayRead(b *testing.B) {
	c := abCluster()
	g := New(Config{Upstream: c, User: "reader", Password: "secret-of-reader", Key: []byte{0}, End: []byte{0}})
	defer g.Close()
	if _, err := g.Regime(b.Context(), c.Call); err != nil {
		b.Fatal(err)
	}
	ctx := withTokenIn(b.Context(), c.login("alice"))
	r := keys("a", "b")
	b.ReportAllocs()
	for b.Loop() {
		if !g.MayRead(ctx, r...) {
			b.Fatal("not allowed")
		}
	}
}

func TestATokenHasNotTheRightsOfAnEarlierUserOfThatName(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "root", nil)
		login := func() context.Context { return withTokenIn(t.Context(), authenticateThrough(t, g, c, "alice")) }
		first := login()
		for i := 0; g.Status().PolicyHits == 0; i++ { // until it is known what alice may
			if !g.MayRead(first, keys(fmt.Sprintf("a%d", i), "")...) {
				t.Fatal("who may read is not allowed to")
			}
			time.Sleep(100 * time.Millisecond)
		}
		c.change(func() { delete(c.users, "alice") })
		c.change(func() { c.users["alice"] = &fakeUser{"secret-of-alice", []string{"b"}} })
		second := login()
		for range 2 { // the first finds that the token is somebody's
			if g.MayRead(second, keys("a", "")...) {
				t.Fatal("the new user may what the deleted one could")
			}
		}
		time.Sleep(2 * time.Second)
		if g.MayRead(second, keys("a", "")...) || !g.MayRead(second, keys("b", "")...) {
			t.Error("the new user may not exactly what it may")
		}
	})
}
