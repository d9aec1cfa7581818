package access

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"weir/internal/bubble"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestAnIdentityThatIsOfNoUseIsInStatusAndOnceAMinuteInTheLog(t *testing.T) {
	for name, test := range map[string]struct {
		user, password string
		want, hint     string
		mend           func(*cluster)
	}{
		"wrong password": {"reader", "wrong-secret", "authentication failed, invalid user ID or password", "--password",
			func(c *cluster) { c.users["reader"].password = "wrong-secret" }},
		"no such user": {"unknown", "secret", "authentication failed, invalid user ID or password", "--user",
			func(c *cluster) { c.users["unknown"] = &fakeUser{"secret", []string{rootRole}} }},
		"too few rights": {"alice", "secret-of-alice", "permission denied", "may read every key",
			func(c *cluster) { c.users["alice"].roles = []string{rootRole} }},
		"authentication turned off": {"alice", "wrong-secret", "authentication failed, invalid user ID or password", "--password",
			func(c *cluster) { c.enabled = false }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				c := abCluster()
				var log bytes.Buffer
				g := newUntold(t, c, test.user, func(cfg *Config) {
					cfg.Password, cfg.Logger = test.password, slog.New(slog.NewTextHandler(&log, nil))
				})
				for range 4*60 + 1 { // two minutes
					if r := mustRegime(t, g, c); r != Closed {
						t.Fatalf("the regime is %v", r)
					}
					time.Sleep(500 * time.Millisecond)
				}
				if got := g.Status().Error; !strings.HasSuffix(got, test.want) {
					t.Errorf("the status has the error %q", got)
				}
				said := log.String()
				if n := strings.Count(said, "level=WARN"); n < 2 || n > 3 || strings.Count(said, test.hint) != n || strings.Count(said, test.want) != n {
					t.Errorf("in two minutes was said:\n%s", said)
				}
				c.change(func() { test.mend(c) })
				for range 4 {
					mustRegime(t, g, c)
					time.Sleep(500 * time.Millisecond)
				}
				if got := g.Status(); got.Error != "" || got.Regime == Closed.String() {
					t.Errorf("it was mended, and the status is %+v", got)
				}
				if now := strings.TrimPrefix(log.String(), said); strings.Count(now, "again") != 1 {
					t.Errorf("it was mended, and said was %q", now)
				}
			})
		})
	}
}

func TestWithoutAnIdentityThereIsNothingToComplainOf(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newUntold(t, c, "", nil)
		if r := mustRegime(t, g, c); r != Closed || g.Status().Error != "" {
			t.Errorf("the regime is %v, the error %q", r, g.Status().Error)
		}
	})
}

func TestWhoNeedsTheOwnTokenDoesNotWaitForeverForAHangingMember(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newGuardedCluster(nil)
		c.set(func() { c.delay = time.Hour })
		g := newUntold(t, c, "root", nil)
		began := time.Now()
		_, err := g.Own(t.Context())
		if took := time.Since(began); status.Code(err) != codes.Unavailable || took > callTimeout {
			t.Errorf("error %v after %v", err, took)
		}
		c.set(func() { c.delay = 0 })
		if own, err := g.Own(t.Context()); err != nil || tokenIn(own) == "" {
			t.Errorf("when it answers again: token %q, error %v", tokenIn(own), err)
		}
	})
}

func TestAnOutageIsNotBlamedOnThePassword(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newGuardedCluster(nil)
		c.set(func() { c.down = status.Error(codes.Unavailable, "gone") })
		var log bytes.Buffer
		g := newUntold(t, c, "root", func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		if _, err := g.Own(t.Context()); !errors.Is(err, c.down) {
			t.Errorf("error %v", err)
		}
		if said := log.String(); strings.Contains(said, "password") || strings.Count(said, "\n") != 1 {
			t.Errorf("said was %q", said)
		}
	})
}
