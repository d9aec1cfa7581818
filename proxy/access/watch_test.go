package access

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// watcher is an open watch, which ends when the guard says so.
type watcher struct {
	guard    *Guard
	user     string
	key, end string

	mu  sync.Mutex // guards what follows
	why error
}

func (w *watcher) recheck() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.guard.PermitUser(w.user, []byte(w.key), []byte(w.end)); w.why == nil {
		w.why = err
	}
}

// ended is why the watch has ended; nil if it has not.
func (w *watcher) ended() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.why
}

// reset has the watch begin anew.
func (w *watcher) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.why = nil
}

// watchScene is a guard with watches that are looked at when rights have changed.
type watchScene struct {
	*cluster
	guard   *Guard
	changed atomic.Int64

	openMu sync.Mutex // guards what follows
	open   []*watcher
	lag    time.Duration // until open watches have been looked at
}

func newWatchScene(t *testing.T, c *cluster, user string) *watchScene {
	s := &watchScene{cluster: c}
	s.guard = newGuard(t, c, user, func(cfg *Config) {
		cfg.Changed = func() {
			s.changed.Add(1)
			s.openMu.Lock()
			lag := s.lag
			s.openMu.Unlock()
			time.Sleep(lag)
			for _, w := range s.watches() {
				w.recheck()
			}
		}
	})
	s.guard.Watching(1)
	t.Cleanup(func() { s.guard.Watching(-1) })
	return s
}

func (s *watchScene) watches() []*watcher {
	s.openMu.Lock()
	defer s.openMu.Unlock()
	return slices.Clone(s.open)
}

// add opens a watch.
func (s *watchScene) add(w *watcher) {
	s.openMu.Lock()
	defer s.openMu.Unlock()
	s.open = append(s.open, w)
}

// forgetAll closes all watches.
func (s *watchScene) forgetAll() {
	s.openMu.Lock()
	defer s.openMu.Unlock()
	s.open = nil
}

// event is what upstream sends when a key has been written.
func event(t *testing.T) wire.Raw {
	return encode(t, &pb.WatchResponse{WatchId: 1, Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Key: []byte("a")}}}})
}

// progress is what upstream sends when it was asked for.
func progress() *pb.WatchResponse {
	return &pb.WatchResponse{WatchId: -1, Header: &pb.ResponseHeader{Revision: 7}}
}

// pass lets a second pass, and what is to be done by then.
func pass() {
	time.Sleep(time.Second)
	synctest.Wait()
}

func TestOpenWatchesEndASecondAfterTheRightIsTakenAway(t *testing.T) {
	for name, taken := range map[string]func(c *cluster){
		"permission": func(c *cluster) { c.roles["a"] = nil },
		"narrower":   func(c *cluster) { c.roles["a"] = []*authpb.Permission{permission(authpb.READ, "a", "ab")} },
		"only write": func(c *cluster) { c.roles["a"] = []*authpb.Permission{permission(authpb.WRITE, "a", "b")} },
		"role":       func(c *cluster) { delete(c.roles, "a") },
		"user":       func(c *cluster) { delete(c.users, "alice") },
		"grant":      func(c *cluster) { c.users["alice"].roles = []string{"b"} },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				s := newWatchScene(t, abCluster(), "root")
				token := authenticateThrough(t, s.guard, s.cluster, "alice")
				bob := authenticateThrough(t, s.guard, s.cluster, "bob")
				for _, w := range []struct {
					how, token, name string
					key, end         string
				}{
					{how: "token", token: token, key: "a", end: "b"},
					{how: "certificate", name: "alice", key: "a", end: "b"},
					{how: "token", token: bob, key: "b", end: "c"},
					{how: "certificate", name: "bob", key: "b", end: "c"},
				} {
					ctx := withCertificateIn(t.Context(), w.name)
					if w.how == "token" {
						ctx = withTokenIn(t.Context(), w.token)
					}
					user, err := s.guard.PermitWatch(ctx, []byte(w.key), []byte(w.end))
					if err != nil {
						t.Fatal(err)
					}
					s.add(&watcher{guard: s.guard, user: user, key: w.key, end: w.end})
				}
				for range 3 {
					pass()
					for _, w := range s.watches() {
						if w.recheck(); w.ended() != nil {
							t.Fatalf("%v, and nothing has changed", w.ended())
						}
					}
				}
				s.set(func() { delete(s.tokens, token) }) // that a token has expired ends no watch
				s.change(func() { s.users["carol"] = &fakeUser{} })
				pass()
				for _, w := range s.watches() {
					if w.ended() != nil {
						t.Fatalf("%v, and nothing has been taken away", w.ended())
					}
				}
				s.change(func() { taken(s.cluster) })
				pass()
				for i, w := range s.watches() {
					switch {
					case i < 2 && !errors.Is(w.ended(), rpctypes.ErrGRPCPermissionDenied):
						t.Errorf("watch %d: error %v", i, w.ended())
					case i >= 2 && w.ended() != nil:
						t.Errorf("the watch of another user has ended: %v", w.ended())
					}
				}
				if s.changed.Load() == 0 {
					t.Error("nobody was told")
				}
			})
		})
	}
}

func TestWatchesOfATokenOfAnUnknownUserHaveToComeAgainWhenSomethingChanges(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newWatchScene(t, abCluster(), "root")
		ctx := withTokenIn(t.Context(), s.login("alice"))
		user, err := s.guard.PermitWatch(ctx, []byte("a"), []byte("b"))
		if err != nil {
			t.Fatal(err)
		}
		w := &watcher{guard: s.guard, user: user, key: "a", end: "b"}
		s.add(w)
		for range 5 {
			pass()
			if w.recheck(); w.ended() != nil {
				t.Fatalf("%v, and nothing has changed", w.ended())
			}
		}
		s.change(func() {})
		pass()
		if status.Code(w.ended()) != codes.Unavailable {
			t.Fatalf("error %v", w.ended())
		}
		// Another watch of the same stream does not answer for the first one.
		if _, err := s.guard.PermitWatch(ctx, []byte("aa"), nil); err != nil {
			t.Fatal(err)
		}
		if err := s.guard.PermitUser(user, []byte("a"), []byte("b")); status.Code(err) != codes.Unavailable {
			t.Errorf("error %v", err)
		}
		if err := s.guard.PermitUser(user, []byte("aa"), nil); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatChangesWhileAWatchIsBeingPermittedIsNotMissed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newWatchScene(t, abCluster(), "root")
		s.set(func() { s.delay = 100 * time.Millisecond })
		for i := range 40 {
			token, known := s.login("alice"), i%2 == 0
			if known {
				token = authenticateThrough(t, s.guard, s.cluster, "alice")
			}
			time.AfterFunc(time.Duration(i)*10*time.Millisecond, func() { s.change(func() { s.roles["a"] = nil }) })
			user, err := s.guard.PermitWatch(withTokenIn(t.Context(), token), []byte("a"), []byte("b"))
			time.Sleep(2 * time.Second) // until it is announced
			synctest.Wait()
			if err == nil {
				err = s.guard.PermitUser(user, []byte("a"), []byte("b"))
			}
			if code := status.Code(err); code != codes.PermissionDenied && (known || code != codes.Unavailable) {
				t.Errorf("change after %d ms: error %v", 10*i, err)
			}
			s.change(func() { s.roles["a"] = []*authpb.Permission{permission(authpb.READ, "a", "b")} })
			pass()
		}
	})
}

func TestAProxyThatCannotSeeRolesLetsOpenWatchesGoOnAsUpstreamDoes(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newWatchScene(t, abCluster(), "reader")
		user, err := s.guard.PermitWatch(withTokenIn(t.Context(), authenticateThrough(t, s.guard, s.cluster, "alice")), []byte("a"), nil)
		if err != nil {
			t.Fatal(err)
		}
		w := &watcher{guard: s.guard, user: user, key: "a"}
		s.add(w)
		s.change(func() { s.roles["a"] = nil })
		for range 60 {
			pass()
		}
		if w.recheck(); w.ended() != nil {
			t.Error(w.ended())
		}
		if n := s.count("AuthStatus"); n > 10 {
			t.Errorf("%d AuthStatus in a minute", n)
		}
		if _, err := s.guard.PermitWatch(withCertificateIn(t.Context(), "alice"), []byte("a"), nil); !errors.Is(err, rpctypes.ErrGRPCUserEmpty) {
			t.Errorf("a certificate counts: %v", err)
		}
		s.change(func() { s.users["reader"].roles = []string{rootRole} })
		for range 11 {
			pass()
		}
		if !errors.Is(w.ended(), rpctypes.ErrGRPCPermissionDenied) {
			t.Errorf("with the role root it does not see that a right is gone: %v", w.ended())
		}
	})
}

func TestAWatchIsRefusedWithUpstreamsError(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, own := range []string{"root", "reader"} {
			c := abCluster()
			g := newGuard(t, c, own, nil)
			old := jwtOf("alice")
			c.sign(old, "alice")
			c.change(func() {})
			alice := withTokenIn(t.Context(), c.login("alice"))
			for name, test := range map[string]struct {
				err error
				run func() (string, error)
			}{
				"range":     {rpctypes.ErrGRPCPermissionDenied, func() (string, error) { return g.PermitWatch(alice, []byte("a"), []byte("c")) }},
				"smallest":  {rpctypes.ErrGRPCPermissionDenied, func() (string, error) { return g.PermitWatch(alice, nil, []byte("\x00")) }},
				"token":     {rpctypes.ErrGRPCInvalidAuthToken, func() (string, error) { return g.PermitWatch(withTokenIn(t.Context(), "x.1"), []byte("a"), nil) }},
				"old token": {rpctypes.ErrGRPCAuthOldRevision, func() (string, error) { return g.PermitWatch(withTokenIn(t.Context(), old), []byte("a"), nil) }},
				"nobody":    {rpctypes.ErrGRPCUserEmpty, func() (string, error) { return g.PermitWatch(t.Context(), []byte("a"), nil) }},
			} {
				if user, err := test.run(); !errors.Is(err, test.err) || user != "" {
					t.Errorf("%s, own user %s: user %q, error %v", name, own, user, err)
				}
			}
			if _, err := g.PermitWatch(alice, []byte("a"), []byte("b")); err != nil {
				t.Error(err)
			}
			if _, err := g.PermitWatch(withTokenIn(t.Context(), c.login("root")), nil, []byte("\x00")); err != nil {
				t.Error(err)
			}
			c.set(func() { c.down = status.Error(codes.ResourceExhausted, "too much") })
			if _, err := g.PermitWatch(alice, []byte("aa"), nil); status.Code(err) != codes.Unavailable {
				t.Errorf("upstream does not tell: error %v", err)
			}
		}
	})
}

// While authentication is off for a moment upstream takes any token. What is said in it must not count afterwards.
func TestATokenThatWasTakenWhileAuthenticationWasOffProvesNothing(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newWatchScene(t, abCluster(), "root")
		forged := withTokenIn(t.Context(), jwtOf("alice"))
		valid := jwtOf("bob")
		s.sign(valid, "bob")
		pass()
		s.change(func() { s.enabled = false })
		user, err := s.guard.PermitWatch(forged, []byte("a"), []byte("b"))
		if err != nil {
			t.Fatal(err)
		}
		w := &watcher{guard: s.guard, user: user, key: "a", end: "b"}
		s.add(w)
		s.set(func() { s.enabled = true }) // which does not count as a change
		pass()
		pass()
		if status.Code(w.ended()) != codes.Unavailable {
			t.Errorf("the watch of a forged token: error %v", w.ended())
		}
		if name, ok := s.guard.UserOf(forged); ok || s.guard.IsValid(forged) {
			t.Errorf("a forged token is taken for %s's", name)
		}
		if s.guard.MayRead(forged, keys("a", "")...) {
			t.Error("a forged token allows to read")
		}
		if _, err := s.guard.PermitWatch(forged, []byte("a"), nil); !errors.Is(err, rpctypes.ErrGRPCInvalidAuthToken) {
			t.Errorf("error %v", err)
		}
	})
}

func TestTheUserOfAJWTIsKnownOnceUpstreamHasTakenIt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newWatchScene(t, abCluster(), "root")
		token := jwtOf("alice")
		s.sign(token, "alice")
		pass()
		user, err := s.guard.PermitWatch(withTokenIn(t.Context(), token), []byte("a"), []byte("b"))
		if err != nil {
			t.Fatal(err)
		}
		w := &watcher{guard: s.guard, user: user, key: "a", end: "b"}
		s.add(w)
		pass()
		pass()
		s.change(func() {}) // after which the JWT is too old, and its user is not
		pass()
		if w.ended() != nil {
			t.Errorf("error %v", w.ended())
		}
		s.change(func() { s.roles["a"] = nil })
		pass()
		if !errors.Is(w.ended(), rpctypes.ErrGRPCPermissionDenied) {
			t.Errorf("error %v", w.ended())
		}
	})
}

func TestAFeedThatResumesAfterAnOutageFindsTheChangesMade(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newWatchScene(t, abCluster(), "root")
		user, err := s.guard.PermitWatch(withCertificateIn(t.Context(), "alice"), []byte("a"), nil)
		if err != nil {
			t.Fatal(err)
		}
		w := &watcher{guard: s.guard, user: user, key: "a"}
		s.add(w)
		s.set(func() { s.down = status.Error(codes.Unavailable, "gone") })
		for range 10 {
			pass()
		}
		time.Sleep(400 * time.Millisecond) // since it was last tried
		s.change(func() { s.roles["a"], s.down = nil, nil })
		s.guard.Hold(t.Context(), event(t))
		if !errors.Is(w.ended(), rpctypes.ErrGRPCPermissionDenied) {
			t.Errorf("error %v", w.ended())
		}
	})
}

func TestWhatIsRememberedOfWatchesIsBounded(t *testing.T) {
	var a grants
	in := &generation{}
	long := strings.Repeat("x", 1<<20)
	for i := range 100 {
		r := keys(fmt.Sprintf("%d%s", i, long), "")[0]
		a.add(1, r, in)
		if !a.has(1, r, in) {
			t.Fatal("what was just permitted is not known")
		}
		if len(a.fresh)+len(a.old) > maxGrantBytes>>20 {
			t.Fatalf("%d grants of a MiB", len(a.fresh)+len(a.old))
		}
	}
	later := &generation{number: 1}
	a.add(2, keys("b", "")[0], later)
	a.add(1, keys("c", "")[0], in)
	if a.has(1, keys("c", "")[0], in) || a.has(2, keys("b", "")[0], in) || !a.has(2, keys("b", "")[0], later) {
		t.Error("what was permitted in an earlier generation counts")
	}
}

func TestTokensAreBounded(t *testing.T) {
	k := newTokens(clock{time.Now()})
	mine := k.get("mine")
	mine.give("me")
	for i := range maxTokens + maxTokens/8 {
		k.get(fmt.Sprint(i))
		if i%1000 == 0 {
			mine.use()
		}
	}
	if len(k.byText) > maxTokens || len(k.byID) != len(k.byText) {
		t.Errorf("%d tokens, %d ids", len(k.byText), len(k.byID))
	}
	long := strings.Repeat("x", 1<<20)
	for i := range 100 {
		k.get(fmt.Sprint(i, long))
	}
	if k.bytes > maxTokenBytes {
		t.Errorf("%d bytes", k.bytes)
	}
}

func TestUserOf(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "", nil)
		given := authenticateThrough(t, g, c, "alice")
		signed := jwtOf("bob")
		c.sign(signed, "bob")
		check := func(what, want string, ok bool, got string, verified bool) {
			t.Helper()
			if got != want || verified != ok {
				t.Errorf("%s: %q, %v", what, got, verified)
			}
		}
		ask := func(token string) (string, bool) {
			ctx := withTokenIn(t.Context(), token)
			name, ok := g.UserOf(ctx)
			if !ok && name != "" {
				ok = g.IsValid(ctx)
			}
			return name, ok
		}
		name, ok := ask(given)
		check("a token given through the proxy", "alice", true, name, ok)
		name, ok = ask("Bearer " + given)
		check("with its scheme", "alice", true, name, ok)
		name, ok = ask(c.login("alice"))
		check("a token given elsewhere", "", false, name, ok)
		name, ok = g.UserOf(withTokenIn(t.Context(), signed))
		check("a JWT that nobody has asked about", "bob", false, name, ok)
		name, ok = ask(signed)
		check("a JWT", "bob", true, name, ok)
		name, ok = g.UserOf(withTokenIn(t.Context(), signed))
		check("a JWT that has just been asked about", "bob", true, name, ok)
		for range 5 {
			name, ok = ask(jwtOf("carol"))
			check("a forged JWT", "carol", false, name, ok)
		}
		name, ok = g.UserOf(withCertificateIn(t.Context(), "dave"))
		check("a certificate", "dave", true, name, ok)
		name, ok = g.UserOf(withCertificateIn(t.Context(), ""))
		check("a certificate without a name", "", false, name, ok)
		name, ok = g.UserOf(t.Context())
		check("nobody", "", false, name, ok)
		name, ok = g.UserOf(withTokenIn(withCertificateIn(t.Context(), "dave"), "x.1"))
		check("a certificate and a token of nobody", "", false, name, ok)
		c.change(func() { c.enabled = false })
		mustRegime(t, g, c)
		name, ok = ask(given)
		check("a token while authentication is off", "", false, name, ok)
	})
}
