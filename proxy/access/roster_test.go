package access

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/bubble"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// get asks for the key a as who shows a certificate.
func get(t *testing.T, g *Guard, name string) error {
	t.Helper()
	_, err := g.Outgoing(withCertificateIn(t.Context(), name), pb.KV_Range_FullMethodName, encode(t, &pb.RangeRequest{Key: []byte("a")}))
	return err
}

// checkPace fails if AuthStatus was asked more than once a second, extra of them left out, and those that were spared while nobody
// needed any.
func checkPace(t *testing.T, c *cluster, extra int) {
	t.Helper()
	all := c.times("AuthStatus")
	for i := range all {
		for j := i; j < len(all); j++ {
			if n := float64(j + 1 - i - extra); n > maxSpared+all[j].Sub(all[i]).Seconds() {
				t.Fatalf("%v AuthStatus in %v", n, all[j].Sub(all[i]))
			}
		}
	}
}

func TestAuthStatusIsAskedOnceASecondAndOnlyWhileItIsNeeded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "root", nil)
		time.Sleep(time.Minute)
		if n := c.count("AuthStatus"); n != 0 {
			t.Fatalf("%d AuthStatus, and nobody has needed it", n)
		}
		for range 1000 { // 10 s
			if err := get(t, g, "alice"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := c.count("AuthStatus"); n > 13 {
			t.Errorf("%d AuthStatus in 10 s", n)
		}
		checkPace(t, c, 1) // behind what was read
		time.Sleep(3 * time.Second)
		idle := c.count("AuthStatus")
		time.Sleep(time.Minute)
		if n := c.count("AuthStatus"); n != idle {
			t.Errorf("%d AuthStatus more, and nobody has needed it", n-idle)
		}
		if users, roles := c.count("UserGet"), c.count("RoleGet"); users != 2 || roles != 1 {
			t.Errorf("%d UserGet and %d RoleGet for the own user, another one and a role", users, roles)
		}
	})
}

func TestManyNewUsersAreReadOnceEachInFewRounds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		for i := range 100 {
			c.users[fmt.Sprint("user", i)] = &fakeUser{roles: []string{"a", "b"}}
		}
		g := newGuard(t, c, "root", nil)
		var group sync.WaitGroup
		for i := range 1000 {
			group.Go(func() {
				if err := get(t, g, fmt.Sprint("user", i%100)); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if users, roles := c.count("UserGet"), c.count("RoleGet"); users != 101 || roles != 2 {
			t.Errorf("%d UserGet and %d RoleGet for 101 users and 2 roles", users, roles)
		}
		if n := c.count("AuthStatus"); n > 6 { // two each: at once, by what was spared, and a second later
			t.Errorf("%d AuthStatus", n)
		}
	})
}

func TestUsersAndRolesThatAreNotThereAreRememberedToo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		c.set(func() { c.users["alice"].roles = []string{"ghost"} })
		g := newGuard(t, c, "root", nil)
		for range 50 { // 5 s
			for _, name := range []string{"nobody", "alice"} {
				if err := get(t, g, name); !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
					t.Fatalf("%s: error %v", name, err)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if users, roles := c.count("UserGet"), c.count("RoleGet"); users != 3 || roles != 1 {
			t.Errorf("%d UserGet and %d RoleGet for the own user, another one, one that is not there, and such a role", users, roles)
		}
	})
}

// There are more roles than may be read in one round, and while they are something changes.
func TestARoundThatHasReadAllItMayGoesOnWhenSomethingChanges(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		var roles []string
		for i := range 2 * maxReads {
			roles = append(roles, fmt.Sprint("role", i))
		}
		c.set(func() { c.users["alice"].roles = roles })
		var once sync.Once
		c.before = func(method string) {
			if method == "RoleGet" {
				once.Do(func() { c.change(func() { c.users["alice"].roles = []string{"a"} }) })
			}
		}
		g := newGuard(t, c, "root", nil)
		for get(t, g, "alice") != nil {
			time.Sleep(time.Second)
		}
	})
}

func TestWhatIsReadInOneRoundIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "root", nil)
		ctx, cancel := context.WithTimeout(t.Context(), 900*time.Millisecond)
		defer cancel()
		var group sync.WaitGroup
		for i := range 5 * maxReads {
			group.Go(func() {
				_, _ = g.Outgoing(withCertificateIn(ctx, fmt.Sprint("user", i)), pb.KV_Range_FullMethodName, encode(t, &pb.RangeRequest{Key: []byte("a")}))
			})
		}
		group.Wait()
		if n := c.count("UserGet") + c.count("RoleGet"); n > maxReads {
			t.Errorf("%d reads in a second", n)
		}
	})
}

func TestAPolicyCountsForASecondFromWhenItWasAskedFor(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		c.set(func() { c.delay = 100 * time.Millisecond })
		g := newGuard(t, c, "root", nil)
		for range 30 {
			if err := get(t, g, "alice"); err != nil {
				t.Fatal(err)
			}
			c.change(func() { c.roles["a"] = nil })
			gone := time.Now()
			for get(t, g, "alice") == nil {
				if time.Since(gone) > time.Second {
					t.Fatal("a right that was taken away counts for more than a second")
				}
				time.Sleep(time.Millisecond)
			}
			c.change(func() { c.roles["a"] = []*authpb.Permission{permission(authpb.READ, "a", "b")} })
			if err := get(t, g, "alice"); err != nil {
				t.Fatalf("a right that was granted does not count for who asks afterwards: %v", err)
			}
			time.Sleep(time.Duration(len(c.all())%7) * 100 * time.Millisecond)
		}
	})
}

// Neither before nor after any of the changes may alice read a. What was read before them and after them, together, says that
// she may.
func TestUsersAndRolesOfDifferentTimesAreNotPutTogether(t *testing.T) {
	for _, order := range []string{"UserGet", "RoleGet"} {
		bubble.Test(t, func(t *testing.T) {
			c := abCluster()
			c.roles["x"] = nil
			c.users["alice"].roles = []string{"x"}
			changes := 0
			c.before = func(method string) {
				if method != order || changes == 2 {
					return
				}
				changes++
				if changes == 2 { // after alice was read with x
					c.change(func() { c.users["alice"].roles = nil })
					c.change(func() { c.roles["x"] = []*authpb.Permission{permission(authpb.READ, "a", "")} })
				}
			}
			g := newGuard(t, c, "root", nil)
			changes = map[string]int{"UserGet": 0, "RoleGet": 1}[order]
			if err := get(t, g, "alice"); status.Code(err) != codes.PermissionDenied {
				t.Errorf("error %v", err)
			}
			if changes != 2 {
				t.Error("nothing has changed meanwhile")
			}
		})
	}
}

func TestConstantChangesDoNotStopUsersWhoseRightsStay(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		c.set(func() { c.delay = time.Millisecond })
		g := newGuard(t, c, "root", nil)
		var over atomic.Bool
		defer func() {
			over.Store(true)
			time.Sleep(time.Second)
		}()
		go func() {
			for !over.Load() {
				c.change(func() {})
				time.Sleep(50 * time.Millisecond)
			}
		}()
		for range 30 {
			if err := get(t, g, "alice"); err != nil {
				t.Error(err)
			}
			time.Sleep(300 * time.Millisecond)
		}
		if n := c.count("AuthStatus"); n > 4*11 {
			t.Errorf("%d AuthStatus", n)
		}
	})
}

func TestAClusterThatWasRestoredIsReadAnew(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		c.set(func() { c.store = 100 })
		g := newGuard(t, c, "root", nil)
		if err := get(t, g, "alice"); err != nil {
			t.Fatal(err)
		}
		c.set(func() { c.store, c.users["alice"].roles = 50, nil }) // at the same auth revision
		time.Sleep(time.Second + time.Nanosecond)
		if err := get(t, g, "alice"); status.Code(err) != codes.PermissionDenied {
			t.Errorf("error %v", err)
		}
	})
}

func TestWhoWaitsForAPolicyIsToldWhyThereIsNone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "root", nil)
		for _, test := range []struct {
			down, want error
		}{
			{status.Error(codes.Unavailable, "gone"), status.Error(codes.Unavailable, "gone")},
			{rpctypes.ErrGRPCTimeout, rpctypes.ErrGRPCTimeout},
			{status.Error(codes.Internal, "broken"), status.Error(codes.Unavailable, "weir: learn what users may do: broken")},
		} {
			c.set(func() { c.down = test.down })
			if err := get(t, g, "alice"); status.Code(err) != status.Code(test.want) || textOf(err) != textOf(test.want) {
				t.Errorf("%v: error %v", test.down, err)
			}
			if err := get(t, g, "alice"); err == nil {
				t.Error("no error")
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := g.Outgoing(withCertificateIn(ctx, "alice"), pb.KV_Range_FullMethodName, nil)
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("error %v", err)
		}
		checkPace(t, c, 0)
	})
}

func TestWhoIsRefusedAfterAQuietSecondIsToldAtOnce(t *testing.T) {
	for name, change := range map[string]func(*cluster){"a user": func(*cluster) {}, "a certificate": func(c *cluster) { c.certificate = "root" }} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				c := abCluster()
				change(c)
				own := "root"
				if c.certificate != "" {
					own = ""
				}
				g := newGuard(t, c, own, nil)
				c.set(func() { c.delay = time.Millisecond }) // so that no two things are at the same time
				for range 20 {
					for range 9 { // probes, as the feeds send them
						mustRegime(t, g, c)
						time.Sleep(500 * time.Millisecond)
					}
					asked := time.Now()
					if err := get(t, g, "bob"); status.Code(err) != codes.PermissionDenied {
						t.Fatalf("error %v", err)
					}
					if took := time.Since(asked); took > 10*c.delay {
						t.Fatalf("told after %v", took)
					}
				}
				checkPace(t, c, 1)
			})
		})
	}
}

func TestUsersWhoAreAskedAboutAreBoundedWhileUpstreamDoesNotTell(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "root", nil)
		c.set(func() { c.failing = map[string]error{"AuthStatus": rpctypes.ErrGRPCTimeout} })
		long := strings.Repeat("x", 1<<10)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for i := range 2 * maxNames {
			_, _ = g.Outgoing(withCertificateIn(ctx, fmt.Sprint(long, i)), pb.KV_Range_FullMethodName, encode(t, &pb.RangeRequest{Key: []byte("a")}))
		}
		g.roster.mu.Lock()
		names, bytes := len(g.roster.wanted.names), g.roster.wanted.bytes
		g.roster.mu.Unlock()
		if names > maxNames || bytes > maxNameBytes {
			t.Errorf("%d names of %d bytes", names, bytes)
		}
		if err := get(t, g, "alice"); status.Code(err) != codes.Unavailable {
			t.Errorf("one too many: error %v", err)
		}
		c.set(func() { c.failing = nil })
		for get(t, g, "alice") != nil { // a round after the other takes them
			time.Sleep(time.Second)
		}
	})
}

func TestAPolicyIsBounded(t *testing.T) {
	r := &roster{roles: map[string]*role{"r": {}}}
	users := map[string]*user{}
	for i := 0; i < 2*maxUsers; i += 2000 {
		more := map[string][]string{}
		for n := range 2000 {
			more[fmt.Sprint(i+n)] = []string{"r"}
		}
		users = r.with(users, more)
		for name := range more {
			if users[name] == nil {
				t.Fatal("a user that was just read is not there")
			}
		}
	}
	if len(users) > maxUsers {
		t.Errorf("%d users", len(users))
	}
}
