package coalesce

import (
	"context"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

const (
	rootPassword = "root's password"
	// revokedWithin is how long after authentication was switched on what was shared may go on: the second that is
	// promised, and half of one that a busy machine adds.
	revokedWithin = 1500 * time.Millisecond
)

// addRoot makes a user root, without whom authentication cannot be switched on.
func (s *site) addRoot(auth pb.AuthClient) {
	s.Helper()
	_, err := auth.UserAdd(s.Ctx, &pb.AuthUserAddRequest{Name: "root", Password: rootPassword})
	s.Must(err)
	_, err = auth.RoleAdd(s.Ctx, &pb.AuthRoleAddRequest{Name: "root"})
	s.Must(err)
	_, err = auth.UserGrantRole(s.Ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	s.Must(err)
}

// asRoot is a context with a token for root. Authentication must be on.
func (s *site) asRoot(auth pb.AuthClient) context.Context {
	s.Helper()
	r, err := auth.Authenticate(s.Ctx, &pb.AuthenticateRequest{Name: "root", Password: rootPassword})
	s.Must(err)
	return metadata.AppendToOutgoingContext(s.Ctx, "token", r.Token)
}

// While authentication is off, a client with a token, whatever it is, has upstream watches of its own.
func TestClientWithATokenSharesNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyProxyEtcd37} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, targettest.SiteOptions{})
			st := s.store()
			conn := s.dial()
			anonymous := s.open(s.Ctx, conn).create(prefix("/a/"), prefix("/a/"))
			targettest.Want(s, "watchers upstream of those without a token", s.upstreamWatchers(), 1)
			withToken := metadata.AppendToOutgoingContext(s.Ctx, "token", "some token")
			var own []*watch
			for i := range 5 {
				own = append(own, s.open(withToken, conn).create(prefix("/a/"))...)
				targettest.Want(s, "watchers upstream", s.upstreamWatchers(), 2+i)
			}
			st.put("/a/1", "1")
			s.checkAll(append(anonymous, own...))
			closeStreams(own)
			s.awaitUpstream(1, "after those with a token are gone")
		})
	}
}

// Authentication is switched on while watches are shared: they end, and whoever has no identity is given nothing more.
// It is switched off again, and watches are shared again.
func TestAuthenticationSwitchedOnEndsSharing(t *testing.T) {
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyEtcd36, target.ProxyEtcd35, target.ProxyProxyEtcd37} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			switchAuthentication(newSite(t, kind, targettest.SiteOptions{}))
		})
	}
}

func switchAuthentication(s *site) {
	st := s.store()
	auth := pb.NewAuthClient(s.dialTo(s.Cluster.Members[0].Addr))
	s.addRoot(auth)
	var anonymous []*watch
	for _, on := range s.openMany(5, 6) {
		anonymous = append(anonymous, on.create(prefix("/a/"), everything)...)
	}
	st.put("/a/1", "for everybody")
	for _, w := range anonymous {
		w.awaitEvents(1)
	}
	_, err := auth.AuthEnable(s.Ctx, &pb.AuthEnableRequest{})
	s.Must(err)
	switched := time.Now()
	root := s.asRoot(auth)

	// Secrets are written all the time; those written late enough must not be seen.
	var secret int64 // the first that nobody may see
	for ended := false; !ended || secret == 0; {
		late := time.Since(switched) > revokedWithin
		r, err := st.kv.Put(root, &pb.PutRequest{Key: []byte("/a/secret"), Value: []byte("1")})
		s.Must(err)
		if late && secret == 0 {
			secret = r.Header.Revision
		}
		ended = true
		for _, w := range anonymous {
			w.stream.mu.Lock()
			ended = ended && w.stream.err != nil
			w.stream.mu.Unlock()
		}
		if time.Since(switched) > waitBound {
			s.Fatal("watches without an identity go on while authentication is on")
		}
	}
	if took := time.Since(switched); took > 2*revokedWithin {
		s.Errorf("watches without an identity ended %v after authentication was switched on", took)
	}
	for _, w := range anonymous {
		wantEndAsOfABrokenConnection(w.stream)
		w.stream.mu.Lock()
		for _, e := range w.events {
			if e.kv.mod >= secret {
				s.Errorf("%v was given revision %d, written %v after authentication was switched on", w.spec, e.kv.mod, revokedWithin)
				break
			}
		}
		w.stream.mu.Unlock()
	}
	s.awaitUpstream(0, "while nobody with an identity watches")

	// Both are answered as the member answers them.
	conn := s.dial()
	refused := s.open(s.Ctx, conn).create(prefix("/a/"))[0]
	direct := s.open(s.Ctx, s.dialTo(s.Cluster.Members[0].Addr)).create(prefix("/a/"))[0]
	targettest.Want(s, "refusal", fmt.Sprint(refused.canceled.GetCancelReason()), direct.canceled.GetCancelReason())
	targettest.Want(s, "refusal is a cancel", refused.canceled != nil, true)
	var rootWatches []*watch
	for range 3 {
		rootWatches = append(rootWatches, s.open(root, conn).create(prefix("/a/"))...)
	}
	targettest.Want(s, "watchers upstream, one for each stream with an identity", s.upstreamWatchers(), 3)
	_, err = st.kv.Put(root, &pb.PutRequest{Key: []byte("/a/secret"), Value: []byte("2")})
	s.Must(err)
	for _, w := range rootWatches {
		w.awaitEvents(1)
	}

	_, err = auth.AuthDisable(root, &pb.AuthDisableRequest{})
	s.Must(err)
	s.Eventually(settleWithin, "sharing again", func() error {
		on := s.openMany(3, 3)
		var again []*watch
		for _, one := range on {
			again = append(again, one.create(prefix("/a/"))...)
		}
		defer closeStreams(again)
		if n := s.upstreamWatchers() - len(rootWatches); n != 1 {
			return fmt.Errorf("%d watchers upstream for %d", n, len(again))
		}
		st.put("/a/1", "for everybody again")
		for _, w := range again {
			w.awaitEvents(1)
		}
		return nil
	})
}
