package access

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/bubble"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// newUntold makes a guard that has been told no regime.
func newUntold(t *testing.T, c *cluster, user string, change func(*Config)) *Guard {
	cfg := Config{Upstream: c, User: user, Password: "secret-of-" + user, Key: []byte{0}, End: []byte{0},
		Certificate: c.certificate != "", Name: c.certificate, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	g := New(cfg)
	t.Cleanup(g.Close)
	return g
}

func TestAllWhoNeedTheOwnTokenWaitForOneAuthenticate(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newGuardedCluster(nil)
		c.set(func() { c.delay = 100 * time.Millisecond })
		g := newUntold(t, c, "root", nil)
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				if own, err := g.Own(t.Context()); err != nil || tokenIn(own) == "" {
					t.Errorf("Own: token %q, error %v", tokenIn(own), err)
				}
			})
		}
		group.Wait()
		if n := c.count("Authenticate"); n != 1 {
			t.Errorf("%d times authenticated", n)
		}
	})
}

func TestAnOwnTokenThatIsRefusedIsReplacedOnceASecondAtMost(t *testing.T) {
	for _, refusal := range []error{rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision,
		errors.New(rpctypes.ErrGRPCInvalidAuthToken.Error()), errors.New(rpctypes.ErrGRPCAuthOldRevision.Error())} {
		bubble.Test(t, func(t *testing.T) {
			c := newGuardedCluster(nil)
			g := newUntold(t, c, "root", nil)
			began := time.Now()
			seen := map[string]bool{}
			for range 5 {
				own, err := g.Own(t.Context())
				if err != nil || seen[tokenIn(own)] {
					t.Fatalf("Own: token %q, error %v", tokenIn(own), err)
				}
				seen[tokenIn(own)] = true
				for range 2 { // who have called with it
					if !g.Renew(own, refusal) {
						t.Error("the call is not to be repeated")
					}
				}
			}
			if took := time.Since(began); took != 4*time.Second {
				t.Errorf("five tokens took %v", took)
			}
		})
	}
}

func TestAReplacedTokenIsNotForgottenForARefusalOfTheOldOne(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newGuardedCluster(nil)
		g := newUntold(t, c, "root", nil)
		first, _ := g.Own(t.Context())
		g.Renew(first, rpctypes.ErrGRPCInvalidAuthToken)
		second, _ := g.Own(t.Context())
		if !g.Renew(first, rpctypes.ErrGRPCInvalidAuthToken) {
			t.Error("who still has the old token is not to try again")
		}
		if third, _ := g.Own(t.Context()); tokenIn(third) != tokenIn(second) {
			t.Error("the new token has been forgotten")
		}
	})
}

func TestOtherErrorsAndClientsTokensRenewNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newGuardedCluster(nil)
		g := newUntold(t, c, "root", nil)
		own, _ := g.Own(t.Context())
		for _, err := range []error{nil, rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCNoLeader,
			status.Error(codes.Unavailable, "gone"), errors.New("gone")} {
			if g.Renew(own, err) {
				t.Errorf("%v: the call is to be repeated", err)
			}
		}
		client := metadata.NewOutgoingContext(t.Context(), metadata.Pairs("token", "a client's"))
		if g.Renew(client, rpctypes.ErrGRPCInvalidAuthToken) || g.Renew(t.Context(), rpctypes.ErrGRPCUserEmpty) {
			t.Error("a client's call is to be repeated")
		}
		if again, _ := g.Own(t.Context()); tokenIn(again) != tokenIn(own) {
			t.Error("the token has been forgotten")
		}
	})
}

func TestWhileAuthenticationIsOffThereIsNoOwnToken(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newGuardedCluster(nil)
		c.enabled = false
		g := newUntold(t, c, "root", nil)
		for range 10 {
			own, err := g.Own(t.Context())
			if err != nil || tokenIn(own) != "" {
				t.Fatalf("Own: token %q, error %v", tokenIn(own), err)
			}
		}
		if n := c.count("Authenticate"); n != 1 {
			t.Errorf("%d times authenticated", n)
		}
		c.change(func() { c.enabled = true })
		bare, _ := g.Own(t.Context())
		if !g.Renew(bare, rpctypes.ErrGRPCUserEmpty) {
			t.Error("a call without a token is not to be repeated")
		}
		if own, err := g.Own(t.Context()); err != nil || tokenIn(own) == "" {
			t.Errorf("Own: token %q, error %v", tokenIn(own), err)
		}
	})
}

func TestOwnReplacesWhateverTokenThereIs(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newGuardedCluster(nil)
		g := newUntold(t, c, "root", nil)
		ctx := metadata.NewOutgoingContext(t.Context(), metadata.Pairs("token", "x", "authorization", "y", "other", "z"))
		own, err := g.Own(ctx)
		md, _ := metadata.FromOutgoingContext(own)
		if err != nil || len(md["token"]) != 1 || md["token"][0] == "x" || len(md["authorization"]) != 0 || md["other"][0] != "z" {
			t.Errorf("metadata %v, error %v", md, err)
		}
	})
}

func TestARefusedAuthenticateFailsForAllAndIsRepeatedAfterASecond(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newGuardedCluster(nil)
		g := newUntold(t, c, "root", func(cfg *Config) { cfg.Password = "wrong-secret" })
		for range 20 {
			_, err := g.Own(t.Context())
			const text = "weir: authenticate the proxy upstream: etcdserver: authentication failed, invalid user ID or password"
			if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != text {
				t.Fatalf("error %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := c.count("Authenticate"); n != 2 {
			t.Errorf("%d times authenticated in 2 s", n)
		}
	})
}

func TestSecretsAreInNoLogAndNoError(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		var log bytes.Buffer
		change := func(cfg *Config) {
			cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
		var errs []error
		for _, user := range []string{"root", "reader", "alice", "nobody"} {
			g := newUntold(t, c, user, change)
			ctx := withTokenIn(t.Context(), c.login("alice"))
			for range 3 {
				_, err := g.Regime(t.Context(), c.Call)
				errs = append(errs, err)
				_, err = g.Own(t.Context())
				errs = append(errs, err)
				g.MayRead(ctx, keys("a", "")...)
				_, err = g.PermitWatch(ctx, []byte("b"), nil)
				errs = append(errs, err)
				_, err = g.Outgoing(withCertificateIn(t.Context(), "bob"), "/etcdserverpb.KV/Range", nil)
				errs = append(errs, err)
				c.change(func() { c.enabled = !c.enabled })
				time.Sleep(time.Second)
			}
			c.change(func() { c.enabled = true })
		}
		said := log.String()
		for _, err := range errs {
			if err != nil {
				said += "\n" + err.Error()
			}
		}
		for _, secret := range []string{"secret-of", "token-of"} {
			if strings.Contains(said, secret) {
				t.Errorf("%q is in:\n%s", secret, said)
			}
		}
	})
}
