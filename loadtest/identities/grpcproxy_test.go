package identities

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// property is one that a proxy must have before clients of several identities, and etcd's grpc-proxy has not. How long it
// takes to answer a keepalive is no property but a measure.
type property struct {
	name   string
	inAuth bool // it is about users
	args   []string
	holds  func(*behind) error
}

var properties = []property{
	{name: "a keepalive whose client has half-closed is answered", holds: (*behind).halfClosed},
	{name: "locks stay in the namespace", args: []string{"--namespace=/app/"}, holds: (*behind).lockInNamespace},
	{name: "elections stay in the namespace", args: []string{"--namespace=/app/"}, holds: (*behind).electionInNamespace},
	{name: "nobody is given what another has read", inAuth: true, holds: (*behind).readsAreOnesOwn},
	{name: "reads end with the right to them", inAuth: true, holds: (*behind).readsEnd},
	{name: "watches have their own client's rights", inAuth: true, holds: (*behind).watchesAreOnesOwn},
}

func TestProxyHasWhatEtcdsProxyHasNot(t *testing.T) {
	for _, p := range []place{{kind: target.ProxyEtcd37}, {kind: target.ProxyEtcd37, own: asRoot}, {kind: target.ProxyCore, own: asReader}} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			s := p.start(t)
			s.eachProperty(p, func(args ...string) string { return s.startProxy(args).Addr }, func(property property, err error) {
				if err != nil {
					s.Errorf("%s: %v", property.name, err)
				}
			})
		})
	}
}

// What is tested is what etcd's own proxy does wrong, so the tests must find it there.
func TestPropertiesAreMissingAtEtcdsProxy(t *testing.T) {
	t.Parallel()
	p := place{kind: target.Etcd37}
	s := p.start(t)
	s.eachProperty(p, s.startGRPCProxy, func(property property, err error) {
		s.Logf("%s: %v", property.name, err)
		if err == nil {
			s.Errorf("%s: etcd's proxy too has it now", property.name)
		}
	})
}

func (s *site) startProxy(args []string) *target.Server {
	s.Helper()
	s.ProxyArgs = append(s.ProxyArgs, args...)
	defer func() { s.ProxyArgs = s.ProxyArgs[:len(s.ProxyArgs)-len(args)] }()
	return s.StartProxy(s.Cluster.Endpoints())
}

// startGRPCProxy starts etcd's proxy before the first member, and returns where it listens.
func (s *site) startGRPCProxy(args ...string) string {
	s.Helper()
	path, err := bin.Build(s.Ctx, proc.Etcd37)
	s.Must(err)
	addr, err := proc.FreeAddr()
	s.Must(err)
	args = append([]string{"grpc-proxy", "start", "--listen-addr=" + addr, "--endpoints=" + s.Cluster.Members[0].Addr}, args...)
	p, err := proc.Start("grpc-proxy", path, args, nil)
	s.Must(err)
	s.Cleanup(func() {
		if err := p.Stop(); err != nil {
			s.Error(err)
		}
	})
	s.Must(p.WaitReady(s.Ctx, target.Serves(addr)))
	return addr
}

// eachProperty starts a proxy for each property and tells whether it holds there: those first that are about no users.
func (s *site) eachProperty(p place, start func(args ...string) (addr string), tell func(property, error)) {
	s.Helper()
	r := newRoot(s, targettest.Dial(s, s.Cluster.Members[0].Addr), p.signed)
	c := &changes{root: r, proxyRole: string(p.own)}
	c.addProxyUser()
	for i, name := range []string{"alice", "bob"} {
		role := roleNames[i]
		prefix := fmt.Sprintf("/%c/", "ab"[i])
		r.addUser(name, alicePassword)
		r.addRole(role)
		r.grant(role, permission{prefix, targetEnd(prefix), authpb.READWRITE})
		r.grantRole(name, role)
	}
	_, err := r.put("/a/1", "alice's", 0)
	s.Must(err)
	for _, property := range properties {
		if property.inAuth && !r.ledger.now().enabled {
			r.enable()
		}
		b := &behind{root: r, addr: start(property.args...)}
		b.conn = targettest.Dial(s, b.addr)
		b.kv = pb.NewKVClient(b.conn)
		tell(property, property.holds(b))
	}
}

// targetEnd is the end of the keys below a prefix that ends in a slash.
func targetEnd(prefix string) string { return strings.TrimSuffix(prefix, "/") + "0" }

// behind is a proxy, and root at the member behind it.
type behind struct {
	*root
	addr string
	conn *grpc.ClientConn
	kv   pb.KVClient
}

func (b *behind) halfClosed() error {
	lease, err := b.lease.LeaseGrant(b.Ctx, &pb.LeaseGrantRequest{TTL: 1000})
	b.Must(err)
	stream, err := pb.NewLeaseClient(b.conn).LeaseKeepAlive(b.Ctx)
	b.Must(err)
	b.Must(stream.Send(&pb.LeaseKeepAliveRequest{ID: lease.ID}))
	b.Must(stream.CloseSend())
	if _, err := stream.Recv(); err != nil {
		return fmt.Errorf("there is no answer: %w", err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after the answer: %w", err)
	}
	return nil
}

func (b *behind) lockInNamespace() error {
	r, err := v3lockpb.NewLockClient(b.conn).Lock(b.Ctx, &v3lockpb.LockRequest{Name: []byte("lock"), Lease: b.newLease()})
	b.Must(err)
	return b.wantKeyInNamespace(r.Key)
}

func (b *behind) electionInNamespace() error {
	r, err := v3electionpb.NewElectionClient(b.conn).Campaign(b.Ctx, &v3electionpb.CampaignRequest{Name: []byte("election"), Lease: b.newLease()})
	b.Must(err)
	return b.wantKeyInNamespace(r.Leader.Key)
}

func (b *behind) newLease() int64 {
	r, err := b.lease.LeaseGrant(b.Ctx, &pb.LeaseGrantRequest{TTL: 1000})
	b.Must(err)
	return r.ID
}

// wantKeyInNamespace looks for a key, as the proxy's client knows it, in the store.
func (b *behind) wantKeyInNamespace(key []byte) error {
	r, err := b.root.kv.Range(b.Ctx, &pb.RangeRequest{Key: append([]byte("/app/"), key...)})
	b.Must(err)
	if len(r.Kvs) == 0 {
		return fmt.Errorf("there is no %q below /app/", key)
	}
	return nil
}

// asUser is a context with a new token.
func (b *behind) asUser(name string) context.Context {
	token, err := b.login(name, alicePassword)
	b.Must(err)
	return withToken(b.Ctx, token)
}

func (b *behind) readsAreOnesOwn() error {
	alice, bob := b.asUser("alice"), b.asUser("bob")
	read := &pb.RangeRequest{Key: []byte("/a/1"), Serializable: true}
	for range 3 {
		_, err := b.kv.Range(alice, read)
		b.Must(err)
	}
	if r, err := b.kv.Range(bob, read); !isAnyOf(err, rpctypes.ErrGRPCPermissionDenied) {
		return fmt.Errorf("bob is given what alice has read: %v (%v)", r, err)
	}
	return nil
}

func (b *behind) readsEnd() error {
	alice, p := b.asUser("alice"), permission{"/a/", "/a0", authpb.READWRITE}
	read := &pb.RangeRequest{Key: []byte("/a/1"), Serializable: true}
	_, err := b.kv.Range(alice, read)
	b.Must(err)
	b.revoke(roleNames[0], p)
	defer b.grant(roleNames[0], p)
	revoked := b.now()
	for {
		sent := b.now()
		r, err := b.kv.Range(alice, read)
		switch {
		case isAnyOf(err, rpctypes.ErrGRPCPermissionDenied):
			return nil
		case err != nil || sent > revoked+longPast:
			return fmt.Errorf("%v after it was revoked: %v (%v)", sent-revoked, r, err)
		}
		pause(b.Ctx, 10*time.Millisecond)
	}
}

// Two users watch what each may. The first to come must not be the one whose rights decide about the other's.
func (b *behind) watchesAreOnesOwn() error {
	var opens []*open
	for i, name := range []string{"alice", "bob"} {
		c := &client{root: b.root, name: name, user: name, conn: b.conn, http: http.DefaultClient}
		token, err := b.login(name, alicePassword)
		b.Must(err)
		c.who = &identity{user: name, token: token}
		o, err := (&watcher{client: c}).open(&watchStream{client: name, who: c.who})
		b.Must(err)
		defer o.close()
		o.patience = 5 * time.Second // with etcd's proxy, whose client would wait for ever
		prefix := fmt.Sprintf("/%c/", "ab"[i])
		w := &watch{in: permission{key: prefix, end: targetEnd(prefix)}}
		if !o.createOf(w) || w.refused != "" {
			return fmt.Errorf("%s cannot watch %s: %v, %s, %s", name, prefix, w, o.hung, w.refused)
		}
		opens = append(opens, o)
		// The first one's is a watch upstream before the second comes.
		if err := o.wantNext(); err != nil {
			return err
		}
	}
	return opens[0].wantNext()
}

// wantNext writes what the only watch of a stream is to be given.
func (o *open) wantNext() error {
	w := o.watches[0]
	rev, err := o.of.put(w.in.key, "next", 0)
	if err != nil {
		return err
	}
	if !o.await("the next event", func() bool { return w.last() >= rev || w.canceled != "" }) || w.canceled != "" {
		return fmt.Errorf("%s is not given revision %d, but %q, %v, %q", o.who.user, rev, w.canceled, o.err, o.hung)
	}
	return nil
}

// Of etcd's proxy the isolation test must say that it gives what it must not.
func TestIsolationIsFoundMissingAtEtcdsProxy(t *testing.T) {
	t.Parallel()
	p := place{kind: target.Etcd37}
	s := p.start(t)
	l := s.newLoad(p, targettest.Random(t, *seed))
	l.onlyReads = true
	l.root.enable()
	addr := s.startGRPCProxy()
	for {
		c := l.run(addr, 1)
		leaks := 0
		for _, what := range c.wrong {
			if strings.HasPrefix(what, "given without a right") {
				leaks++
			}
		}
		if leaks > 0 {
			s.Logf("%d answers to who had no right to them, of %d", leaks, c.counts["answers"])
			return
		}
		s.Must(s.Ctx.Err())
	}
}
