package access

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"weir/internal/bubble"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// watch opens a watch of the key a for who shows a certificate.
func (s *watchScene) watch(t *testing.T, name string) *watcher {
	t.Helper()
	user, err := s.guard.PermitWatch(withCertificateIn(t.Context(), name), []byte("a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{guard: s.guard, user: user, key: "a"}
	s.add(w)
	return w
}

// happen has something happen upstream, which is told to those whose watches have not ended: when it reaches them.
func (s *watchScene) happen(t *testing.T) (held time.Duration) {
	happened := time.Now()
	s.guard.Hold(t.Context(), event(t))
	return time.Since(happened)
}

// newCrowd is of 2,000 users who may all read a, of whom 500 watch it. Upstream takes 10 ms to answer, and the
// watches 50 ms to be looked at.
func newCrowd(t *testing.T) (s *watchScene, watches map[string]*watcher) {
	c := abCluster()
	for i := range 2000 {
		c.users[fmt.Sprint("user", i)] = &fakeUser{roles: []string{"a"}}
	}
	s = newWatchScene(t, c, "root")
	watches = map[string]*watcher{}
	for i := range 500 {
		name := fmt.Sprint("user", i)
		watches[name] = nil
		s.guard.roster.want(name)
	}
	for range 4 {
		pass()
	}
	for name := range watches {
		watches[name] = s.watch(t, name)
	}
	s.set(func() { s.delay = 10 * time.Millisecond })
	s.openMu.Lock()
	s.lag = 50 * time.Millisecond
	s.openMu.Unlock()
	pass()
	return s, watches
}

func TestWhatHappensASecondAfterARightWasTakenAwayIsToldToNobodyWhoHasLostIt(t *testing.T) {
	for name, revoke := range map[string]func(*cluster){
		"from a user":   func(c *cluster) { c.users["user7"].roles = nil },
		"with the user": func(c *cluster) { delete(c.users, "user7") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				s, watches := newCrowd(t)
				loser := watches["user7"]
				delete(watches, "user7")
				for n := s.count("AuthStatus"); s.count("AuthStatus") == n; {
					time.Sleep(time.Millisecond)
				}
				time.Sleep(s.delay) // it was answered: the next one will tell
				s.change(func() { revoke(s.cluster) })
				gone := time.Now()
				var group sync.WaitGroup
				for loser.ended() == nil {
					happened := time.Since(gone)
					group.Go(func() {
						s.happen(t)
						if loser.ended() == nil && happened > time.Second+s.delay {
							t.Errorf("what happened %v after it is told", happened)
						}
					})
					time.Sleep(time.Millisecond)
				}
				group.Wait()
				if !errors.Is(loser.ended(), rpctypes.ErrGRPCPermissionDenied) {
					t.Errorf("error %v", loser.ended())
				}
				pass()
				for name, w := range watches {
					if w.ended() != nil {
						t.Fatalf("the watch of %s has ended: %v", name, w.ended())
					}
				}
			})
		})
	}
}

// That the permissions of one role have changed is seen without a look at its users.
func TestARoleThatHasChangedIsReadWithoutItsUsers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s, watches := newCrowd(t)
		before := s.count("UserGet")
		s.change(func() { s.roles["b"] = append(s.roles["b"], permission(authpb.READ, "z", "")) })
		pass()
		for name, w := range watches {
			if w.ended() != nil {
				t.Fatalf("the watch of %s has ended: %v", name, w.ended())
			}
		}
		if n := s.count("UserGet") - before; n != 500+1 {
			t.Errorf("%d UserGet after a role has changed that no watcher has: it may have been one of their own", n)
		}
		before = s.count("UserGet")
		s.change(func() { s.roles["a"] = nil })
		pass()
		for name, w := range watches {
			if !errors.Is(w.ended(), rpctypes.ErrGRPCPermissionDenied) {
				t.Fatalf("the watch of %s: error %v", name, w.ended())
			}
		}
		if n := s.count("UserGet") - before; n != 0 {
			t.Errorf("%d UserGet", n)
		}
	})
}

func TestWhatHappensWaitsUntilTheRightsAreKnownAndNobodysWatchEnds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newWatchScene(t, abCluster(), "root")
		w := s.watch(t, "alice")
		for _, away := range []time.Duration{100 * time.Millisecond, 2 * time.Second, time.Minute} {
			s.set(func() { s.down = status.Error(codes.Unavailable, "no leader") })
			time.Sleep(away)
			if s.guard.Hold(t.Context(), encode(t, progress())); w.ended() != nil {
				t.Fatalf("without anything that happens a watch has ended: %v", w.ended())
			}
			s.set(func() { s.down = nil })
			if held := s.happen(t); held > time.Second {
				t.Errorf("after %v what happens is held for %v", away, held)
			}
			if w.ended() != nil {
				t.Fatalf("the watch has ended after %v: %v", away, w.ended())
			}
			if held := s.happen(t); held != 0 {
				t.Errorf("while all is known what happens is held for %v", held)
			}
		}
	})
}

func TestWatchesEndBeforeTheyAreToldWhatNobodyKnowsTheyMayBeTold(t *testing.T) {
	for _, method := range []string{"AuthStatus", "UserGet"} {
		t.Run(method, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				s := newWatchScene(t, abCluster(), "root")
				w := s.watch(t, "alice")
				s.change(func() { s.failing = map[string]error{method: rpctypes.ErrGRPCTimeout} })
				failing := time.Now()
				for w.ended() == nil {
					happened := time.Since(failing)
					s.happen(t)
					if w.ended() == nil && happened > eventAge {
						t.Fatalf("what happened %v after it is told", happened)
					}
					time.Sleep(10 * time.Millisecond)
				}
				if status.Code(w.ended()) != codes.Unavailable {
					t.Errorf("error %v", w.ended())
				}
				if held := s.happen(t); held != 0 {
					t.Errorf("what nobody is told is held for %v", held)
				}
				s.set(func() { s.failing = nil })
				w.reset()
				for range 2 {
					pass()
				}
				if again := s.watch(t, "alice"); s.happen(t) != 0 || again.ended() != nil {
					t.Errorf("who has come again: %v", again.ended())
				}
			})
		})
	}
}

func TestNothingIsHeldWithoutWatchesThatAreJudged(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "root", nil)
		if err := get(t, g, "alice"); err != nil {
			t.Fatal(err)
		}
		reader := newWatchScene(t, abCluster(), "reader")
		if _, err := reader.guard.PermitWatch(withTokenIn(t.Context(), reader.login("alice")), []byte("a"), nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		began := time.Now()
		g.Hold(t.Context(), event(t))
		reader.happen(t)
		if took := time.Since(began); took != 0 {
			t.Errorf("held for %v", took)
		}
	})
}
