package grpcapi

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

// rights are who may read what. A token is the name of its user. All functions may be called concurrently.
type rights struct {
	asked func() // called when a watch has been permitted

	mu     sync.Mutex
	off    bool                // authentication
	tokens map[string]bool     // those that are valid
	reads  map[string][]string // what keys begin with that a user may read
}

func newRights() *rights {
	return &rights{
		tokens: map[string]bool{"alice": true, "bob": true},
		reads:  map[string][]string{"alice": {"a", "b", "e", "l"}, "bob": {"a", "e", "l"}},
	}
}

func (r *rights) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// set gives a user the right to keys that begin with prefixes, and to no others.
func (r *rights) set(user string, prefixes ...string) { r.change(func() { r.reads[user] = prefixes }) }

func (r *rights) PermitWatch(ctx context.Context, key, end []byte) (string, error) {
	c := wire.CredentialsOf(ctx)
	r.mu.Lock()
	off, valid := r.off, r.tokens[c.Token]
	r.mu.Unlock()
	switch {
	case off:
		return "", nil
	case c.HasToken && !valid:
		return "", rpctypes.ErrGRPCInvalidAuthToken
	}
	err := r.PermitUser(c.Token, key, end)
	if r.asked != nil {
		r.asked()
	}
	return c.Token, err
}

func (r *rights) PermitUser(user string, key, _ []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.off:
		return nil
	case user == "":
		return rpctypes.ErrGRPCUserEmpty
	case slices.ContainsFunc(r.reads[user], func(prefix string) bool { return strings.HasPrefix(string(key), prefix) }):
		return nil
	}
	return rpctypes.ErrGRPCPermissionDenied
}

// Reasons of cancellations, as describe shows them.
const (
	reasonDenied = `"rpc error: code = PermissionDenied desc = etcdserver: permission denied"`
	reasonNobody = `"rpc error: code = InvalidArgument desc = etcdserver: user name is empty"`
)

// guardedWatches is a watch server that permits what rights say.
type guardedWatches struct {
	*watchServer
	*rights
	conn *grpc.ClientConn
}

func newGuardedWatches(t testing.TB) *guardedWatches {
	s := &guardedWatches{newWatchServer(t, 1<<20), newRights(), nil}
	s.permits = s.rights
	return s
}

func startGuardedWatches(t testing.TB) *guardedWatches {
	s := newGuardedWatches(t)
	s.start()
	s.conn = s.dial()
	return s
}

// as opens a stream of a user; "" shows no token.
func (s *guardedWatches) as(user string) *watchClient {
	return openWatchIn(s.t, asUser(context.Background(), user), s.conn)
}

func asUser(ctx context.Context, user string) context.Context {
	if user == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, user)
}

func TestWatchEndsWhenItsUserLosesTheRight(t *testing.T) {
	s := startGuardedWatches(t)
	alice, bob := s.as("alice"), s.as("bob")
	alice.create(key("a"))
	alice.create(keys("b", "c"))
	alice.create(key("a1"))
	bob.create(key("a"))
	alice.expect("@1 id=0 created", "@1 id=1 created", "@1 id=2 created")
	bob.expect("@1 id=0 created")
	s.commit(put("a", "1"))
	alice.expect(`@2 id=0 PUT("a" 1)@2`)
	bob.expect(`@2 id=0 PUT("a" 1)@2`)

	s.set("alice", "b")
	s.hub.Recheck()
	s.commit(put("a", "2"), put("a1", "2"), put("b", "2"))
	expectSet(t, alice, "@2 id=0 canceled "+reasonDenied, "@2 id=2 canceled "+reasonDenied)
	alice.expect(`@3 id=1 PUT("b" 2)@3`)
	bob.expect(`@3 id=0 PUT("a" 2)@3`)

	alice.create(key("a"))
	alice.create(withID("b", 2)) // the id is free again
	alice.requestProgress()
	alice.expect("@3 id=-1 created canceled "+reasonDenied, "@3 id=2 created", "@3 id=-1")
	s.set("bob")
	s.hub.Recheck()
	bob.expect("@3 id=0 canceled " + reasonDenied)
}

func TestWatchOutlivesItsToken(t *testing.T) {
	s := startGuardedWatches(t)
	alice := s.as("alice")
	alice.create(key("a"))
	alice.expect("@1 id=0 created")
	s.change(func() { delete(s.tokens, "alice") })
	s.hub.Recheck()
	s.commit(put("a", "1"))
	alice.expect(`@2 id=0 PUT("a" 1)@2`)
	alice.create(key("a"))
	alice.expect(`@2 id=-1 created canceled "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"`)
}

func TestWatchOfNobodyEndsWhenAuthenticationIsTurnedOn(t *testing.T) {
	s := startGuardedWatches(t)
	s.change(func() { s.off = true })
	nobody, alice := s.as(""), s.as("alice") // whose token means nothing yet
	for _, c := range []*watchClient{nobody, alice} {
		c.create(key("a"))
		c.expect("@1 id=0 created")
	}
	s.hub.Recheck()
	s.commit(put("a", "1"))
	nobody.expect(`@2 id=0 PUT("a" 1)@2`)
	alice.expect(`@2 id=0 PUT("a" 1)@2`)

	s.change(func() { s.off = false })
	s.hub.Recheck()
	s.commit(put("a", "2"))
	nobody.expect("@2 id=0 canceled " + reasonNobody)
	alice.expect("@2 id=0 canceled " + reasonNobody)
	alice.create(key("a"))
	alice.expect("@3 id=1 created")
}

func TestWatchWhoseRightIsLostBeforeItIsAnnouncedIsCreatedAndCanceled(t *testing.T) {
	s := startGuardedWatches(t)
	s.asked = func() {
		s.set("alice")
		s.hub.Recheck()
		s.commit(put("a", "1"))
	}
	alice := s.as("alice")
	alice.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 1})
	alice.expect("@2 id=0 created", "@2 id=0 canceled "+reasonDenied)
	alice.create(key("a"))
	alice.expect("@3 id=-1 created canceled " + reasonDenied)
	if n := s.feed.Stats().Watchers; n != 0 {
		t.Errorf("%d watchers are left", n)
	}
}

func TestWatchThatWasCompactedAwayIsNotCanceledAgain(t *testing.T) {
	s := startGuardedWatches(t)
	for range 4 {
		s.commit(put("a", "1"))
	}
	s.compact(3)
	alice := s.as("alice")
	alice.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 1})
	alice.create(key("a"))
	alice.expect("@5 id=0 created", "@0 id=0 canceled compact=3", "@5 id=1 created")
	s.set("alice")
	s.hub.Recheck()
	alice.expect("@5 id=1 canceled " + reasonDenied)
	alice.cancelWatch(0)
	alice.expect("@5 id=0 canceled")
}

// The applier calls Recheck: it must not wait for a client, and nothing that is published after it may come.
func TestRecheckOfABusyStreamDoesNotWait(t *testing.T) {
	s := newGuardedWatches(t)
	x := newTransport(t)
	x.ctx = metadata.NewIncomingContext(t.Context(), metadata.Pairs(rpctypes.TokenFieldNameGRPC, "alice"))
	w := newWatchStream(s.service(), x, nil)
	defer w.close()
	w.create(decoded(t, key("a")), 0)
	w.create(decoded(t, key("b")), 0)
	<-x.sent
	<-x.sent
	x.entered, x.leave = make(chan struct{}), make(chan struct{})
	s.commit(put("a", "1"))
	<-x.entered // the broadcaster is sending, and stuck

	s.set("alice", "b")
	s.hub.Recheck()
	s.commit(put("a", "2"), put("b", "2"))
	go func() {
		for range 2 {
			x.leave <- struct{}{}
			<-x.entered
		}
		x.leave <- struct{}{}
	}()
	for range 3 {
		<-x.sent
	}
	var got []string
	x.mu.Lock()
	for _, r := range x.all {
		got = append(got, describe(r))
	}
	x.mu.Unlock()
	want := []string{"@1 id=0 created", "@1 id=1 created", `@2 id=0 PUT("a" 1)@2`, "@2 id=0 canceled " + reasonDenied, `@3 id=1 PUT("b" 2)@3`}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// Nothing that is published after a Recheck comes to who had lost the right before it, whatever else happens at that time.
func TestNothingIsSentAfterTheRightIsLost(t *testing.T) {
	const clients, watches, rounds = 4, 5, 30
	s := startGuardedWatches(t)
	for range rounds {
		s.set("alice", "a")
		var all []*watchClient
		for range clients {
			c := s.as("alice")
			for range watches {
				c.create(key("a"))
			}
			all = append(all, c)
		}
		s.commit(put("a", "1"))
		s.set("alice")
		s.hub.Recheck()
		last := s.revision()
		s.commit(put("a", "2"))
		for _, c := range all {
			for ended := 0; ended < watches; {
				r := c.recv()
				for _, e := range r.Events {
					if e.Kv.ModRevision > last {
						t.Fatalf("revision %d is sent, and the right was lost at %d", e.Kv.ModRevision, last)
					}
				}
				if r.Canceled {
					ended++
				}
			}
			c.cancel()
		}
	}
}

// guardedStore permits watches as rights say, and everything else.
type guardedStore struct {
	*memStore
	*rights
}

func newGuardedLocks(t *testing.T) (*lockServer, *rights) {
	store := guardedStore{newMemStore(t), newRights()}
	for id := int64(1); id < 10; id++ {
		store.leases[id] = 100
	}
	conn := dial(t, start(t, NewBackendServer(Config{Logger: quiet()}, store)))
	return &lockServer{t: t, store: store.memStore, LockClient: lockpb.NewLockClient(conn), ElectionClient: lockpb.NewElectionClient(conn)}, store.rights
}

func TestObserverIsEndedWhenItLosesTheRight(t *testing.T) {
	for _, waits := range []string{"for a leader", "for what he says"} {
		t.Run(waits, func(t *testing.T) {
			s, r := newGuardedLocks(t)
			asked := make(chan struct{}, 2)
			r.asked = func() { asked <- struct{}{} }
			observe := func(user string) grpc.ServerStreamingClient[lockpb.LeaderResponse] {
				o, err := s.Observe(asUser(t.Context(), user), &lockpb.LeaderRequest{Name: []byte("e")})
				if err != nil {
					t.Fatal(err)
				}
				return o
			}
			lead := func() {
				_, err := s.store.do(func(tx *memTxn) error {
					_, err := tx.put(&pb.PutRequest{Key: []byte("e/1")})
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if waits == "for what he says" {
				lead()
			}
			alice, bob := observe("alice"), observe("bob")
			if waits == "for what he says" {
				wantObserved(t, alice, "e/1", "")
				wantObserved(t, bob, "e/1", "")
			}
			<-asked
			<-asked
			r.set("alice", "a")
			s.store.hub.Recheck()
			lead()
			_, err := alice.Recv()
			wantStatus(t, err, codes.Unknown, "etcdserver: permission denied")
			wantObserved(t, bob, "e/1", "")
		})
	}
}

func TestWaiterForALockIsEndedWhenItLosesTheRight(t *testing.T) {
	s, r := newGuardedLocks(t)
	asked := make(chan struct{}, 4)
	r.asked = func() { asked <- struct{}{} }
	if _, err := s.Lock(asUser(t.Context(), "bob"), &lockpb.LockRequest{Name: []byte("l"), Lease: 1}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.Lock(asUser(t.Context(), "alice"), &lockpb.LockRequest{Name: []byte("l"), Lease: 2})
		done <- err
	}()
	<-asked // its own key
	<-asked // and the one before
	r.set("alice", "a")
	s.store.hub.Recheck()
	wantStatus(t, <-done, codes.Unknown, "etcdserver: permission denied")
}

// BenchmarkRecheck reports what it takes to look at a watch that goes on, besides finding out whether it may.
func BenchmarkRecheck(b *testing.B) {
	const watches = 10000
	s := newGuardedWatches(b)
	x := &sinkhole{
		ctx:  metadata.NewIncomingContext(b.Context(), metadata.Pairs(rpctypes.TokenFieldNameGRPC, "alice")),
		want: watches, done: make(chan struct{}, 1),
	}
	w := newWatchStream(s.service(), x, nil)
	defer w.close()
	for range watches {
		w.create(decoded(b, key("a")), 0)
	}
	<-x.done
	for b.Loop() {
		s.hub.Recheck()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/watches, "ns/watch")
}
