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

// While authentication is off a token means nothing, as at etcd: whoever shows one, whatever it is, shares what all share.
func TestATokenMeansNothingWhileAuthenticationIsOff(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyProxyEtcd37} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, targettest.SiteOptions{})
			st := s.store()
			conn := s.dial()
			watches := s.open(s.Ctx, conn).create(prefix("/a/"), prefix("/a/"))
			withToken := metadata.AppendToOutgoingContext(s.Ctx, "token", "some token")
			for range 5 {
				watches = append(watches, s.open(withToken, conn).create(prefix("/a/"))...)
			}
			targettest.Want(s, "watchers upstream", s.upstreamWatchers(), 1)
			st.put("/a/1", "1")
			s.checkAll(watches)
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
	// What was forwarded until watches are shared again ends, and clients come again by themselves.
	for _, w := range rootWatches {
		wantEndAsOfABrokenConnection(w.stream)
	}
	for _, p := range s.Proxies {
		s.Must(p.WaitSharing(s.Ctx, true))
	}
	var again []*watch
	for _, one := range s.openMany(3, 3) {
		again = append(again, one.create(prefix("/a/"))...)
	}
	targettest.Want(s, "watchers upstream of those who share again", s.upstreamWatchers(), 1)
	st.put("/a/1", "for everybody again")
	for _, w := range again {
		w.awaitEvents(1)
	}
}
