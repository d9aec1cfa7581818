package access

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// stay opens a stream of who shows a certificate.
func (s *watchScene) stay(t *testing.T, name, method string, first wire.Raw) *Stay {
	t.Helper()
	client := withCertificateIn(t.Context(), name)
	judged, err := s.guard.Judge(client, method, first)
	if err != nil {
		t.Fatal(err)
	}
	stay, err := s.guard.Stay(client, judged, method)
	if err != nil {
		t.Fatal(err)
	}
	if err := stay.Ask(first); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stay.End)
	return stay
}

func TestAForwardedStreamEndsWithTheFirstMessageThatItsClientMayNotHaveAnyMore(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		c.roles["a"] = append(c.roles["a"], permission(authpb.READ, "e/", "e0"))
		s := newWatchScene(t, c, "root")
		all := map[string]*Stay{
			"watch":    s.stay(t, "alice", pb.Watch_Watch_FullMethodName, encode(t, watchOf("a", ""))),
			"election": s.stay(t, "alice", lockpb.Election_Observe_FullMethodName, encode(t, &lockpb.LeaderRequest{Name: []byte("e")})),
			"another":  s.stay(t, "bob", pb.Watch_Watch_FullMethodName, encode(t, watchOf("b", ""))),
			"first":    s.stay(t, "bob", pb.Watch_Watch_FullMethodName, encode(t, &pb.WatchRequest{})),
		}
		check := func(ended bool) {
			t.Helper()
			for name, stay := range all {
				switch err := stay.Check(); {
				case !ended || name == "another" || name == "first":
					if err != nil {
						t.Errorf("%s: %v", name, err)
					}
				case !says(err, rpctypes.ErrGRPCPermissionDenied):
					t.Errorf("%s: error %v", name, err)
				}
			}
		}
		for range 5 {
			check(false)
			pass()
		}
		s.change(func() { s.users["carol"] = &fakeUser{} })
		pass()
		check(false)
		s.change(func() { s.roles["a"] = nil })
		time.Sleep(time.Hour) // idle
		check(true)
	})
}

// A message of every millisecond: none of them later than a second.
func TestAForwardedStreamIsToldNothingThatHappensASecondAfterTheRightIsGone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newWatchScene(t, abCluster(), "root")
		stay := s.stay(t, "alice", pb.Watch_Watch_FullMethodName, encode(t, watchOf("a", "")))
		statuses := s.count("AuthStatus")
		for range 1000 {
			if err := stay.Check(); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.count("AuthStatus") - statuses; n > 1 {
			t.Errorf("upstream was asked %d times for as many messages", n)
		}
		s.change(func() { s.users["alice"].roles = nil })
		gone := time.Now()
		for {
			happened := time.Since(gone)
			if err := stay.Check(); err != nil {
				if !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
					t.Errorf("error %v", err)
				}
				return
			}
			if happened > time.Second {
				t.Fatalf("a message is sent %v after it", happened)
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func TestAForwardedStreamEndsWhenItCannotBeJudged(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newWatchScene(t, abCluster(), "root")
		stay := s.stay(t, "alice", pb.Watch_Watch_FullMethodName, encode(t, watchOf("a", "")))
		s.set(func() { s.failing = map[string]error{"AuthStatus": rpctypes.ErrGRPCTimeout} })
		pass()
		pass()
		if err := stay.Check(); status.Code(err) != codes.Unavailable {
			t.Errorf("error %v", err)
		}
		s.set(func() { s.failing = nil })
		if err := stay.Check(); err != nil {
			t.Error(err)
		}
		s.change(func() { s.users["root"].roles = []string{"everything"} })
		pass()
		if err := stay.Check(); err == nil {
			t.Error("a proxy that cannot see roles any more vouches for a certificate")
		}
	})
}

func TestWhatIsKeptOfAForwardedStreamIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newWatchScene(t, abCluster(), "root")
		long := strings.Repeat("x", 1<<10)
		stay := s.stay(t, "alice", pb.Watch_Watch_FullMethodName, encode(t, watchOf("a", "")))
		for i := range 3 * maxStayBytes >> 10 {
			if err := stay.Ask(encode(t, watchOf(fmt.Sprint("a", i, long), ""))); err != nil {
				t.Fatal(err)
			}
			if err := stay.Ask(encode(t, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{}})); err != nil {
				t.Fatal(err)
			}
			if stay.bytes > maxStayBytes {
				t.Fatalf("%d bytes", stay.bytes)
			}
		}
		pass()
		if err := stay.Check(); err != nil {
			t.Errorf("nothing has changed: %v", err)
		}
		s.change(func() {})
		pass()
		if err := stay.Check(); status.Code(err) != codes.Unavailable {
			t.Errorf("error %v", err)
		}
	})
}

func TestAStreamThatUpstreamJudgesIsNotJudgedHere(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		g := newGuard(t, c, "root", nil)
		token := withTokenIn(t.Context(), c.login("alice"))
		for name, client := range map[string]context.Context{"a token": token, "nobody": t.Context()} {
			judged, err := g.Judge(client, pb.Watch_Watch_FullMethodName, encode(t, watchOf("z", "")))
			if err != nil {
				t.Fatal(err)
			}
			for method, kept := range map[string]bool{
				pb.Watch_Watch_FullMethodName: true, pb.KV_RangeStream_FullMethodName: false, pb.Lease_LeaseKeepAlive_FullMethodName: false,
			} {
				stay, err := g.Stay(client, judged, method)
				if err := errors.Join(err, stay.Ask(encode(t, watchOf("z", ""))), stay.Check()); (stay != nil) != kept || err != nil {
					t.Errorf("%s, %s: it is looked at again: %v; error %v", name, method, stay != nil, err)
				}
				stay.End()
			}
		}
		if n := g.watching.Load(); n != 0 {
			t.Errorf("%d streams are watched", n)
		}
	})
}

func TestWatchesThatUpstreamHasJudgedComeAgainWhenUsersOrRolesHaveChanged(t *testing.T) {
	for own, comesAgain := range map[string]bool{"root": true, "reader": false} {
		bubble.Test(t, func(t *testing.T) {
			c := abCluster()
			g := newGuard(t, c, own, nil)
			client := withTokenIn(t.Context(), c.login("alice"))
			open := func() *Stay {
				stay, err := g.Stay(client, client, pb.Watch_Watch_FullMethodName)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(stay.End)
				return stay
			}
			early := open()
			for range 5 {
				pass()
				if err := early.Check(); err != nil {
					t.Errorf("own user %s: %v, and nothing has changed", own, err)
				}
			}
			c.change(func() { c.roles["a"] = nil })
			pass()
			pass()
			late := open()
			if err := early.Check(); (status.Code(err) == codes.Unavailable) != comesAgain || !comesAgain && err != nil {
				t.Errorf("own user %s: after a change %v", own, err)
			}
			if err := late.Check(); err != nil {
				t.Errorf("own user %s: one that came after it: %v", own, err)
			}
		})
	}
}

func TestWatchesOfATimeWithoutAuthenticationComeAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := abCluster()
		c.change(func() { c.enabled = false })
		g := newGuard(t, c, "root", nil)
		stay, err := g.Stay(t.Context(), t.Context(), pb.Watch_Watch_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		defer stay.End()
		if err := stay.Check(); err != nil {
			t.Error(err)
		}
		c.change(func() { c.enabled = true })
		for mustRegime(t, g, c) != Guarded {
			pass()
		}
		if err := stay.Check(); status.Code(err) != codes.Unavailable {
			t.Errorf("error %v", err)
		}
	})
}
