package access

import (
	"fmt"
	"testing"
	"time"

	"weir/internal/bubble"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestRegimeIsWhatUpstreamMakesPossible(t *testing.T) {
	for _, test := range []struct {
		enabled           bool
		user, certificate string
		want              Regime
	}{
		{enabled: false, want: Open},
		{enabled: false, user: "root", want: Open},
		{enabled: false, certificate: "root", want: Open},
		{enabled: true, want: Closed},
		{enabled: true, user: "root", want: Guarded},
		{enabled: true, user: "reader", want: Guarded},
		{enabled: true, user: "alice", want: Closed},
		{enabled: true, user: "unknown", want: Closed},
		{enabled: true, certificate: "root", want: Guarded},
		{enabled: true, certificate: "reader", want: Guarded},
		{enabled: true, certificate: "alice", want: Closed},
		{enabled: true, certificate: "unknown", want: Closed},
		{enabled: true, user: "reader", certificate: "alice", want: Guarded},
		{enabled: true, user: "alice", certificate: "root", want: Closed}, // the token counts
	} {
		t.Run(fmt.Sprintf("%+v", test), func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				c := abCluster()
				c.enabled, c.certificate = test.enabled, test.certificate
				g := newUntold(t, c, test.user, nil)
				for range 4 {
					if r := mustRegime(t, g, c); r != test.want {
						t.Errorf("the regime is %v", r)
					}
					time.Sleep(500 * time.Millisecond)
				}
				if got := g.Status().Regime; got != test.want.String() {
					t.Errorf("%s is remembered", got)
				}
			})
		})
	}
}

func TestWhetherAuthenticationIsOffIsAskedOfTheMemberWithoutAWrite(t *testing.T) {
	for _, certificate := range []string{"", "root"} {
		bubble.Test(t, func(t *testing.T) {
			c := abCluster()
			c.enabled, c.certificate = false, certificate
			g := newUntold(t, c, "", nil)
			for range 20 {
				mustRegime(t, g, c)
				time.Sleep(500 * time.Millisecond)
			}
			if all := c.all(); len(all) != c.count("Range") {
				t.Errorf("asked %v", all)
			}
			c.change(func() { c.enabled = true })
			if r := mustRegime(t, g, c); r == Open {
				t.Error("it is not known at once that it has been turned on")
			}
		})
	}
}

func TestAProxyWithACertificateDoesNotAskWithAWrongTokenWhileAuthenticationIsOn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		c.certificate = "root"
		g := newUntold(t, c, "", nil)
		for range 20 {
			mustRegime(t, g, c)
			time.Sleep(500 * time.Millisecond)
		}
		wrong := 0
		for _, a := range c.all() {
			if a.token == nobodysToken {
				wrong++
			}
		}
		if wrong != 1 {
			t.Errorf("asked %d times with a token that is not valid", wrong)
		}
		if n := c.count("AuthStatus"); n > 11 {
			t.Errorf("AuthStatus was asked %d times in 10 s", n)
		}
		c.change(func() { c.enabled = false })
		time.Sleep(2 * time.Second)
		if r := mustRegime(t, g, c); r != Open {
			t.Errorf("after it was turned off the regime is %v", r)
		}
	})
}

func TestGuardedBecomesOpenOnlyWhenTheCallerHasBeenToldBefore(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		bob := withTokenIn(t.Context(), c.login("bob"))
		c.change(func() { c.enabled = false })
		if r := mustRegime(t, g, c); r != Open {
			t.Fatalf("the regime is %v", r)
		}
		if g.MayRead(t.Context(), keys("a", "")...) {
			t.Error("nobody may read what was shared under the old regime")
		}
		if _, err := g.PermitWatch(t.Context(), []byte("a"), nil); err == nil {
			t.Error("nobody may watch what was shared under the old regime")
		}
		if !g.MayRead(bob, keys("a", "")...) { // as upstream says by now
			t.Error("whom upstream allows to read is not allowed to")
		}
		mustRegime(t, g, c)
		if !g.MayRead(t.Context(), keys("a", "")...) {
			t.Error("nobody may not read, although authentication is off")
		}
		if user, err := g.PermitWatch(bob, []byte("a"), nil); err != nil || user != "" {
			t.Errorf("PermitWatch: %q, %v", user, err)
		}
		c.change(func() { c.enabled = true })
		mustRegime(t, g, c)
		if g.MayRead(t.Context(), keys("a", "")...) || g.MayRead(bob, keys("a", "")...) {
			t.Error("authentication is on, and reads are allowed")
		}
	})
}

func TestARegimeThatCannotBeLearnedIsNotRemembered(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		ctx := withTokenIn(t.Context(), c.login("alice"))
		c.set(func() { c.down = status.Error(codes.Unavailable, "gone") })
		if _, err := g.Regime(t.Context(), c.Call); err == nil {
			t.Error("there is a regime without upstream")
		}
		if g.MayRead(ctx, keys("a", "")...) {
			t.Error("a read is allowed without upstream")
		}
		c.set(func() { c.down = nil })
		if !g.MayRead(ctx, keys("a", "")...) {
			t.Error("the regime was forgotten")
		}
	})
}

func TestAnOwnTokenThatHasExpiredDoesNotCloseTheRegime(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		for range 5 {
			clear(c.tokens)
			if r := mustRegime(t, g, c); r != Guarded {
				t.Fatalf("the regime is %v", r)
			}
		}
	})
}

func TestARegimeClosesWhenTheOwnRightsAreTakenAway(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "reader", nil)
		c.change(func() { c.users["reader"].roles = nil })
		if r := mustRegime(t, g, c); r != Closed {
			t.Errorf("the regime is %v", r)
		}
		if g.MayRead(withTokenIn(t.Context(), c.login("root")), keys("a", "")...) {
			t.Error("something is shared under a closed regime")
		}
	})
}
