package reads

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/cache"
)

func TestReadsAreForwardedWhenMemoryMayNotAnswer(t *testing.T) {
	for name, change := range map[string]func(s *scene, h *hot){
		"authentication is on":          func(s *scene, _ *hot) { s.standing.Shared = false },
		"upstream is another than then": func(s *scene, _ *hot) { s.standing.Era++ },
		"the range was dropped":         func(s *scene, h *hot) { s.keeper.drop(h, errUnused) },
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(t *testing.T, s *scene) {
				h := s.keep(ofPrefix("a/"), plenty)
				s.mustGet(false, nil, "")
				s.mustGet(true, nil, "")
				change(s, h)
				checks := s.checks
				s.mustForward("a/1", false, nil)
				s.mustForward("a/1", true, nil)
				if s.checks != checks {
					t.Error("upstream was asked in vain")
				}
			})
		})
	}
	inScene(t, func(_ *testing.T, s *scene) {
		s.keep(ofPrefix("a/"), plenty)
		s.mustForward("b/1", false, nil)
		s.mustForward("b/1", true, nil)
	})
}

func TestLinearizableReadSeesWhatUpstreamHadWhenItCame(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.keep(ofPrefix("a/"), 0)
		s.silent = true
		s.put("a/1", "one")
		s.put("b/1", "elsewhere")
		start := time.Now()
		value, rev, _, err := s.get(t.Context(), "a/1", false, nil)
		if err != nil || value != "one" || rev != s.revision() {
			t.Fatalf("get = %q at revision %d, error %v; want the newest", value, rev, err)
		}
		if s.checks != 1 || time.Since(start) != 0 {
			t.Errorf("it took %d checks and %v; want one, and no time", s.checks, time.Since(start))
		}
	})
}

func TestLinearizableReadWaitsForTheFeedButNotForLong(t *testing.T) {
	for _, c := range []struct{ check, patience time.Duration }{
		{0, 100 * time.Millisecond},
		{30 * time.Millisecond, 100 * time.Millisecond},
		{60 * time.Millisecond, 180 * time.Millisecond},
	} {
		inScene(t, func(t *testing.T, s *scene) {
			s.keep(ofPrefix("a/"), plenty)
			s.check = func(context.Context) (int64, error) { time.Sleep(c.check); return s.revision(), nil }
			for range 100 { // until it is known how long a check takes
				s.mustGet(false, nil, "")
			}
			s.deaf = true
			s.put("a/1", "one")
			start := time.Now()
			s.mustForward("a/1", false, nil)
			if got := time.Since(start) - c.check; got.Round(10*time.Millisecond) != c.patience {
				t.Errorf("with checks of %v it waited %v for the feed; want %v", c.check, got, c.patience)
			}
		})
	}
}

func TestLinearizableReadIsForwardedWhenUpstreamCannotBeChecked(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.keep(ofPrefix("a/"), plenty)
		s.check = func(context.Context) (int64, error) { return 0, status.Error(codes.Unavailable, "no session") }
		start := time.Now()
		s.mustForward("a/1", false, nil)
		if d := time.Since(start); d != 0 {
			t.Errorf("a check that failed was waited for %v", d)
		}
		s.check = hang
		s.mustForward("a/1", false, nil)
		if d := time.Since(start); d != time.Second {
			t.Errorf("a check that hung was waited for %v; want 1s", d)
		}
	})
}

// hang is a check without an answer, which Upstream gives up after a while.
func hang(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	<-ctx.Done()
	return 0, status.FromContextError(ctx.Err()).Err()
}

func TestReadOfAClientThatLeavesEndsWithItsContext(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.keep(ofPrefix("a/"), plenty)
		var session cache.Session
		for name, stuck := range map[string]func(){
			"in the check": func() { s.check, s.standing.Confirmed = hang, false },
			"behind the feed": func() {
				s.deaf, s.check, s.standing.Confirmed = true, nil, true
				s.put("a/1", "one")
				session.Told(7, s.revision())
			},
		} {
			stuck()
			for _, serializable := range []bool{false, true} {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
				_, _, _, err := s.get(ctx, "a/1", serializable, &session)
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s, serializable %v: error %v; want the context's", name, serializable, err)
				}
				cancel()
			}
		}
	})
}

func TestReadThatWaitsIsForwardedWhenItsRangeIsDropped(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		h := s.keep(ofPrefix("a/"), plenty)
		s.deaf = true
		s.put("a/1", "one")
		start := time.Now()
		go func() {
			time.Sleep(time.Millisecond)
			s.keeper.drop(h, errUnused)
		}()
		s.mustForward("a/1", false, nil)
		if d := time.Since(start); d != time.Millisecond {
			t.Errorf("it was waited for %v; want until the drop", d)
		}
	})
}

func TestSerializableReadIsAnsweredAtOnceWhileProvenFresh(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.keep(ofPrefix("a/"), plenty)
		s.put("a/1", "one")
		synctest.Wait()
		s.mustGet(true, nil, "one") // nothing is proven yet
		if s.checks != 1 {
			t.Fatalf("%d checks; want one", s.checks)
		}
		s.silent = true
		s.put("a/1", "two")
		time.Sleep(s.keeper.cfg.MaxStaleness)
		s.mustGet(true, nil, "one")
		if s.checks != 1 {
			t.Errorf("a state not older than --max-staleness was checked")
		}
		time.Sleep(time.Nanosecond)
		s.mustGet(true, nil, "two")
		if s.checks != 2 {
			t.Errorf("%d checks; want one for what was too old", s.checks-1)
		}
	})
}

func TestSerializableReadIsCheckedWhenItIsNotSureThatAuthenticationIsOff(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.keep(ofPrefix("a/"), plenty)
		s.mustGet(true, nil, "")
		s.standing.Confirmed = false
		s.mustGet(true, nil, "")
		if s.checks != 2 {
			t.Errorf("%d checks; want one for each read", s.checks)
		}
	})
}

func TestSerializableReadIsForwardedWhenTheFeedLagsBehindACheck(t *testing.T) {
	inScene(t, func(_ *testing.T, s *scene) {
		s.keep(ofPrefix("a/"), plenty)
		s.deaf = true
		s.put("a/1", "one")
		s.mustForward("a/1", true, nil)
	})
}

func TestSerializableReadIsNotBehindItsSession(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.keep(ofPrefix("a/"), plenty)
		s.mustGet(true, nil, "")
		var session, other cache.Session
		s.silent = true
		s.put("a/1", "mine")
		session.Told(7, s.revision())
		s.mustGet(true, &other, "")
		s.mustGet(true, &session, "mine")

		s.deaf = true
		s.put("a/1", "again")
		session.Told(7, s.revision())
		s.mustGet(true, &other, "mine")
		s.mustForward("a/1", true, &session)

		s.standing.Connected = false
		s.mustForward("a/1", true, &session) // upstream may be back before the feeds are
		s.mustGet(true, &other, "mine")
	})
}

func TestAnswerIsToldToTheSession(t *testing.T) {
	inScene(t, func(t *testing.T, s *scene) {
		s.keep(ofPrefix("a/"), plenty)
		s.put("a/1", "one")
		s.put("a/1", "two")
		synctest.Wait()
		var session cache.Session
		_, rev, _, err := s.get(t.Context(), "a/1", true, &session)
		if err != nil || session.Floor(7) != rev || rev != s.revision() {
			t.Errorf("told %d, header %d, store %d, error %v; want them equal", session.Floor(7), rev, s.revision(), err)
		}
	})
}

func TestSerializableReadsGoOnWhileUpstreamIsAway(t *testing.T) {
	for name, c := range map[string]struct {
		check func(context.Context) (int64, error)
		wait  time.Duration
	}{
		"no session":      {func(context.Context) (int64, error) { return 0, status.Error(codes.Unavailable, "no session") }, 0},
		"no quorum":       {func(context.Context) (int64, error) { return 0, rpctypes.ErrGRPCTimeout }, 0},
		"no answer":       {hang, time.Second},
		"connection lost": {func(context.Context) (int64, error) { return 0, status.Error(codes.Unavailable, "reset") }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(t *testing.T, s *scene) {
				s.keep(ofPrefix("a/"), plenty)
				s.mustGet(true, nil, "")
				proven := time.Now()
				s.check = c.check
				time.Sleep(time.Minute)
				start := time.Now()
				_, rev, stale, err := s.get(t.Context(), "a/1", true, nil)
				if err != nil || rev != s.revision() || stale != time.Since(proven) {
					t.Errorf("get at revision %d, stale %v, error %v; want it to be %v old", rev, stale, err, time.Since(proven))
				}
				if d := time.Since(start); d != c.wait {
					t.Errorf("it took %v; want %v", d, c.wait)
				}
			})
		})
	}
}

func TestSerializableReadIsForwardedWhenUpstreamRefusesOrIsAnother(t *testing.T) {
	away := func(context.Context) (int64, error) { return 0, status.Error(codes.Unavailable, "no session") }
	for name, change := range map[string]func(s *scene){
		"refused":      func(s *scene) { s.check = func(context.Context) (int64, error) { return 0, rpctypes.ErrGRPCUserEmpty } },
		"never proven": func(s *scene) { s.check, s.proofs = away, nil },
		"another": func(s *scene) {
			s.check = func(ctx context.Context) (int64, error) { s.set(func() { s.standing.Era++ }); return away(ctx) }
		},
		"authentication": func(s *scene) {
			s.check = func(ctx context.Context) (int64, error) {
				s.set(func() { s.standing.Shared = false })
				return away(ctx)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inScene(t, func(_ *testing.T, s *scene) {
				s.keep(ofPrefix("a/"), plenty)
				s.mustGet(true, nil, "")
				time.Sleep(time.Minute)
				change(s)
				s.mustForward("a/1", true, nil)
			})
		})
	}
}

func TestNoAnswerIsGivenOfAnEraThatEndedMeanwhile(t *testing.T) {
	for _, serializable := range []bool{false, true} {
		inScene(t, func(t *testing.T, s *scene) {
			s.keep(ofPrefix("a/"), plenty)
			s.mustGet(serializable, nil, "")
			s.header = func() { s.set(func() { s.standing.Era++ }) } // the answer is being built
			var session cache.Session
			s.mustForward("a/1", serializable, &session)
			if rev := session.Floor(7); rev != 0 {
				t.Errorf("the session was told revision %d, of an answer that it was not given", rev)
			}
		})
	}
}
