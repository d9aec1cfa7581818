package identities

import (
	"errors"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"weir/loadtest/target/targettest"
)

// scene is a place where alice may read and write what root writes.
type scene struct {
	*site
	place place
	root  *root
}

const (
	alice         = "alice"
	alicePassword = "alice's password"
	aliceRole     = "r1"
)

var aliceMay = permission{"/a/", "/a0", authpb.READWRITE}

// newScene is one where authentication is on.
func newScene(t *testing.T, p place, memberArgs ...string) *scene {
	t.Helper()
	s := newOpenScene(t, p, memberArgs...)
	s.root.enable() // before, because it ends streams of watches
	s.StartProxies(s.Cluster.Endpoints())
	return s
}

// newOpenScene is one where authentication is off, without proxies as yet.
func newOpenScene(t *testing.T, p place, memberArgs ...string) *scene {
	t.Helper()
	s := &scene{site: p.startWith(t, memberArgs...), place: p}
	s.root = newRoot(s.site, targettest.Dial(s, s.Cluster.Members[0].Addr), p.signed)
	c := &changes{root: s.root, proxyRole: string(p.own)}
	c.addProxyUser()
	s.root.addUser(alice, alicePassword)
	s.root.addRole(aliceRole)
	s.root.grant(aliceRole, aliceMay)
	s.root.grantRole(alice, aliceRole)
	_, err := s.root.put("/a/1", "the first", 0)
	s.Must(err)
	return s
}

// watch opens a stream of watches with a token that is shown to nobody else, and was asked for at a server.
func (s *scene) watch(login string) *open {
	s.Helper()
	asked := s.now()
	r, err := pb.NewAuthClient(targettest.Dial(s, login)).Authenticate(s.Ctx, &pb.AuthenticateRequest{Name: alice, Password: alicePassword})
	s.Must(err)
	c := &client{root: s.root, name: "watcher", user: alice, conn: targettest.Dial(s, s.Endpoint())}
	c.who = &identity{user: alice, token: r.Token, asked: asked, given: s.now()}
	l, err := (&watcher{client: c}).open(&watchStream{client: c.name, who: c.who})
	s.Must(err)
	s.Cleanup(l.close)
	for _, in := range []watch{
		{in: permission{key: "/a/", end: "/a0"}}, {in: permission{key: "/a/1"}, prevKV: true},
		{in: permission{key: "/a/", end: "/a/5"}, start: 1}, {in: permission{key: "/a/2", end: "/a/8"}, prevKV: true},
	} {
		if !l.createOf(&in) || in.refused != "" {
			s.Fatalf("%v on %v (%s)", &in, l.watchStream, l.hung)
		}
	}
	return l
}

// client is one of etcd's library, which logs in again by itself.
func (s *scene) client() *clientv3.Client {
	s.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{s.Endpoint()}, Username: alice, Password: alicePassword, DialTimeout: hangBound, Logger: zap.NewNop(),
	})
	s.Must(err)
	s.Cleanup(func() { _ = c.Close() })
	return c
}

// burst reads for a while, and writes a little.
func (s *scene) burst(c *clientv3.Client, writes bool) error {
	for i := range 60 {
		opts := []clientv3.OpOption{clientv3.WithPrefix()}
		if i%2 == 0 {
			opts = append(opts, clientv3.WithSerializable())
		}
		if r, err := c.Get(s.Ctx, "/a/", opts...); err != nil || r.Count == 0 {
			return fmt.Errorf("read %d of a burst: %v, %w", i, r, err)
		}
		if writes && i%10 == 0 {
			sent := s.now()
			r, err := c.Put(s.Ctx, "/a/9", fmt.Sprint(i))
			if err != nil {
				return fmt.Errorf("write %d of a burst: %w", i, err)
			}
			s.root.wrote(r.Header.Revision, sent)
		}
	}
	return nil
}

// goOn writes what each watch that was created has to be given, and tells whether all were. Else one of them was cancelled, or
// the stream has ended.
func (s *scene) goOn(l *open) bool {
	s.Helper()
	for _, w := range l.watches {
		if w.refused != "" {
			continue
		}
		rev, err := s.root.put(w.in.key, "the last", 0)
		s.Must(err)
		if !l.await(fmt.Sprintf("revision %d for %v", rev, w), func() bool { return w.last() >= rev || w.canceled != "" }) || w.canceled != "" {
			return false
		}
	}
	return true
}

// wantRight fails the test if a watch was given something else than what the store has.
func (s *scene) wantRight(l *open) {
	s.Helper()
	last, err := s.root.put("/end", "", 0)
	s.Must(err)
	c := &checker{ledger: s.root.ledger, promises: promised(s.place.kind, s.place.own), own: s.place.own}
	c.history = s.root.history(last)
	c.begin(s.root.writes)
	c.settle(l.who)
	for _, w := range l.watches {
		if w.refused == "" {
			c.createdWatch(l.watchStream, w)
			c.eventsOf(l.watchStream, w)
		}
	}
	for _, what := range c.wrong {
		s.Error(what)
	}
	s.Log(c.summary())
}

// wantFromMemory fails the test if a proxy that may read for its clients has asked upstream for all.
func (s *scene) wantFromMemory() {
	s.Helper()
	if s.place.own == asNobody {
		return
	}
	hits := s.hits()
	s.Logf("%d reads were answered from memory", hits)
	targettest.Want(s, "anything was read from memory", hits > 0, true)
}

// wantServes waits until a client is served, and from memory where that may be.
func (s *scene) wantServes(c *clientv3.Client) {
	s.Helper()
	s.Eventually(hangBound, "reads and writes are served", func() error {
		if s.place.own == asNobody {
			return s.burst(c, true)
		}
		before := s.hits()
		if err := s.burst(c, true); err != nil || s.hits() > before {
			return err
		}
		return errors.New("nothing was answered from memory")
	})
}
