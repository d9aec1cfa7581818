package access

import (
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/bubble"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// While it has not the role, nothing is shared, and there is nothing to be known. Watches come when it has it again.
func TestAProxyThatIsGivenTheRoleRootAgainSeesWhatIsTakenAway(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		s := newWatchScene(t, c, "root")
		alice := authenticateThrough(t, s.guard, c, "alice")
		mustRegime(t, s.guard, c)
		c.change(func() { c.users["root"].roles = nil })
		time.Sleep(3 * time.Second)
		if r := mustRegime(t, s.guard, c); r != Closed {
			t.Fatalf("without its role the regime is %v", r)
		}
		c.change(func() { c.users["root"].roles = []string{rootRole} })
		if r := mustRegime(t, s.guard, c); r != Guarded {
			t.Fatalf("with its role the regime is %v", r)
		}
		user, err := s.guard.PermitWatch(withTokenIn(t.Context(), alice), []byte("a"), nil)
		if err != nil {
			t.Fatal(err)
		}
		w := &watcher{guard: s.guard, user: user, key: "a"}
		s.add(w)
		pass()
		c.change(func() { delete(c.users, "alice") })
		pass()
		pass()
		if !says(w.ended(), rpctypes.ErrGRPCPermissionDenied) {
			t.Errorf("the watch has ended: %v", w.ended())
		}
	})
}

// The policy that is there was made under the old regime, and the round that will replace it is under way.
func TestAWatchThatComesAsTheRegimeChangesIsOfThePolicyThatIsBeingAskedFor(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		s := newWatchScene(t, c, "root")
		alice := authenticateThrough(t, s.guard, c, "alice")
		c.change(func() { c.users["root"].roles = nil })
		pass()
		pass()
		mustRegime(t, s.guard, c)
		c.change(func() {
			c.users["root"].roles = []string{rootRole}
			c.delay = 100 * time.Millisecond
		})
		if r := mustRegime(t, s.guard, c); r != Guarded {
			t.Fatalf("with its role the regime is %v", r)
		}
		synctest.Wait()
		user, err := s.guard.PermitWatch(withTokenIn(t.Context(), alice), []byte("a"), nil)
		if err != nil {
			t.Fatal(err)
		}
		w := &watcher{guard: s.guard, user: user, key: "a"}
		s.add(w)
		for range 3 {
			pass()
			if w.recheck(); w.ended() != nil {
				t.Fatalf("%v, and nothing has changed", w.ended())
			}
		}
	})
}

// The last stream of watches ends while another one begins.
func TestAWatchThatIsPermittedWhileTheLastOtherOneEndsIsKeptUp(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newWatchScene(t, abCluster(), "root")
		user, err := s.guard.PermitWatch(withCertificateIn(t.Context(), "alice"), []byte("a"), nil)
		if err != nil {
			t.Fatal(err)
		}
		s.guard.roster.unwatchAt0(&s.guard.watching) // for a stream that was the last when it was counted
		w := &watcher{guard: s.guard, user: user, key: "a"}
		s.add(w)
		s.change(func() {})
		pass()
		pass()
		if w.ended() != nil {
			t.Errorf("%v, and nothing was taken away", w.ended())
		}
	})
}

// What a user may do is read because something has changed, and another one has just been permitted to watch by what was known
// before.
func TestAWatchThatIsPermittedWhileUsersAreReadGoesOn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newWatchScene(t, abCluster(), "root")
		alice := authenticateThrough(t, s.guard, s.cluster, "alice")
		pass()
		time.Sleep(roundInterval / 2)
		reading, permitted := make(chan struct{}), make(chan struct{})
		first := true
		s.set(func() {
			s.before = func(method string) {
				switch {
				case method == "Range":
					<-reading
				case method == "UserGet" && first:
					first = false
					close(reading)
					<-permitted
				}
			}
		})
		s.change(func() {})
		user, err := s.guard.PermitWatch(withTokenIn(t.Context(), alice), []byte("a"), nil)
		if err != nil {
			t.Fatal(err)
		}
		w := &watcher{guard: s.guard, user: user, key: "a"}
		s.add(w)
		close(permitted)
		for range 3 {
			pass()
			if w.recheck(); w.ended() != nil {
				t.Fatalf("%v, and nothing was taken away", w.ended())
			}
		}
		s.change(func() { s.roles["a"] = nil })
		pass()
		if !says(w.ended(), rpctypes.ErrGRPCPermissionDenied) {
			t.Errorf("the right to it was taken away: %v", w.ended())
		}
	})
}

// Whoever is to be told that something has changed does not know of the watch yet.
func TestAWatchThatIsAnnouncedAfterChangesGoesOn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newWatchScene(t, abCluster(), "root")
		user, err := s.guard.PermitWatch(withCertificateIn(t.Context(), "alice"), []byte("a"), nil)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			s.change(func() {})
			pass()
		}
		w := &watcher{guard: s.guard, user: user, key: "a"}
		s.add(w)
		for range 2 {
			if w.recheck(); w.ended() != nil {
				t.Fatalf("%v, and nothing was taken away", w.ended())
			}
			pass()
		}
	})
}

func TestUsersWhoseWatchesHaveEndedAreNotReadForEver(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newWatchScene(t, abCluster(), "root")
		if _, err := s.guard.PermitWatch(withCertificateIn(t.Context(), "alice"), []byte("a"), nil); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			s.change(func() {})
			pass()
		}
		before := s.count("UserGet")
		s.change(func() {})
		pass()
		if n := s.count("UserGet") - before; n != 1 {
			t.Errorf("%d users were read, and only the proxy's own is needed", n)
		}
	})
}
