package grpcapi

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/coalesce"
	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

// lockServer is a server over a memStore with the leases 1 to 9, and clients of it.
type lockServer struct {
	t       testing.TB
	address string
	store   *memStore
	lockpb.LockClient
	lockpb.ElectionClient
}

func newLockServer(t testing.TB) *lockServer {
	store := newMemStore(t)
	for id := int64(1); id < 10; id++ {
		store.leases[id] = 100
	}
	address := start(t, NewBackendServer(Config{Logger: quiet()}, store))
	conn := dial(t, address)
	return &lockServer{t: t, address: address, store: store, LockClient: lockpb.NewLockClient(conn), ElectionClient: lockpb.NewElectionClient(conn)}
}

// await waits until an event of the key has been in the store: a put, or a deletion.
func (s *lockServer) await(key string, deleted bool) {
	s.t.Helper()
	w := newWatcher(s.store.hub, s.store)
	defer w.close()
	o := coalesce.Watch{Key: []byte(key), Start: 1, NoPut: deleted, NoDelete: !deleted}
	if err := w.watch(s.t.Context(), o); err != nil {
		s.t.Fatal(err)
	}
	if _, err := w.next(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// held is a Lock that has been asked for.
type held struct {
	key []byte
	rev int64
	err error
}

// lock asks for the lock and waits until the key is in the queue.
func (s *lockServer) lock(ctx context.Context, name string, lease int64) <-chan held {
	s.t.Helper()
	done := make(chan held, 1)
	go func() {
		resp, err := s.Lock(ctx, &lockpb.LockRequest{Name: []byte(name), Lease: lease})
		done <- held{resp.GetKey(), resp.GetHeader().GetRevision(), err}
	}()
	s.await(fmt.Sprintf("%s/%x", name, lease), false)
	return done
}

func (s *lockServer) unlock(key string) int64 {
	s.t.Helper()
	resp, err := s.Unlock(s.t.Context(), &lockpb.UnlockRequest{Key: []byte(key)})
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Header.Revision
}

func (s *lockServer) keys() (keys []string) {
	s.store.write.Lock()
	defer s.store.write.Unlock()
	for k := range s.store.keys {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// wantHeld waits for a lock.
func wantHeld(t testing.TB, done <-chan held, key string) held {
	t.Helper()
	h := <-done
	if h.err != nil || string(h.key) != key {
		t.Fatalf("got key %q, error %v; want key %q", h.key, h.err, key)
	}
	return h
}

func wantStatus(t testing.TB, err error, code codes.Code, text string) {
	t.Helper()
	if s, _ := status.FromError(err); s.Code() != code || s.Message() != text {
		t.Errorf("got %v, want %v %q", err, code, text)
	}
}

func TestLockIsGivenInTheOrderOfAsking(t *testing.T) {
	s := newLockServer(t)
	wantHeld(t, s.lock(t.Context(), "a", 1), "a/1")
	second := s.lock(t.Context(), "a", 3)
	third := s.lock(t.Context(), "a", 2)

	released := s.unlock("a/1")
	if h := wantHeld(t, second, "a/3"); h.rev < released {
		t.Errorf("the lock came with revision %d, before its release at %d", h.rev, released)
	}
	select {
	case h := <-third:
		t.Errorf("a lock that is held was given: %+v", h)
	default:
	}
	s.unlock("a/3")
	wantHeld(t, third, "a/2")
}

func TestLocksOfDifferentNamesDoNotWaitForEachOther(t *testing.T) {
	s := newLockServer(t)
	for _, name := range []string{"a", "a/b", "", "a0", "\x00", "a/1"} {
		wantHeld(t, s.lock(t.Context(), name, 1), name+"/1")
	}
}

func TestOneLeaseHasOnePlace(t *testing.T) {
	s := newLockServer(t)
	first := wantHeld(t, s.lock(t.Context(), "a", 1), "a/1")
	if again := wantHeld(t, s.lock(t.Context(), "a", 1), "a/1"); again.rev != first.rev {
		t.Errorf("the second time made revision %d, after %d", again.rev, first.rev)
	}
	one, other := s.lock(t.Context(), "a", 2), s.lock(t.Context(), "a", 2)
	s.unlock("a/1")
	wantHeld(t, one, "a/2")
	wantHeld(t, other, "a/2")
}

func TestLockWithoutLeaseEndsWithANewOne(t *testing.T) {
	s := newLockServer(t)
	resp, err := s.Lock(t.Context(), &lockpb.LockRequest{Name: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	var id int64
	if _, err := fmt.Sscanf(string(resp.Key), "a/%x", &id); err != nil {
		t.Fatalf("key %q: %v", resp.Key, err)
	}
	if ttl, err := s.store.ttl(id); ttl != 60 || err != nil {
		t.Errorf("lease %x has TTL %d (%v), want 60", id, ttl, err)
	}
	if _, err := s.store.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
	if keys := s.keys(); len(keys) > 0 {
		t.Errorf("%q outlived the lease", keys)
	}
}

func TestWaiterThatIsCancelledLeavesTheQueue(t *testing.T) {
	s := newLockServer(t)
	wantHeld(t, s.lock(t.Context(), "a", 1), "a/1")
	ctx, cancel := context.WithCancel(t.Context())
	waiter := s.lock(ctx, "a", 2)
	last := s.lock(t.Context(), "a", 3)
	cancel()
	wantStatus(t, (<-waiter).err, codes.Canceled, "context canceled")
	s.await("a/2", true)
	s.unlock("a/1")
	wantHeld(t, last, "a/3")
}

func TestWaiterWhoseKeyIsDeletedIsToldAtOnce(t *testing.T) {
	s := newLockServer(t)
	wantHeld(t, s.lock(t.Context(), "a", 1), "a/1")
	for lease, remove := range map[int64]func(){
		2: func() { s.unlock("a/2") },
		3: func() {
			if _, err := s.store.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 3}); err != nil {
				t.Error(err)
			}
		},
	} {
		waiter := s.lock(t.Context(), "a", lease)
		remove()
		wantStatus(t, (<-waiter).err, codes.Unknown, "mutex: session is expired")
	}
	if keys := s.keys(); !slices.Equal(keys, []string{"a/1"}) {
		t.Errorf("keys %q", keys)
	}
}

func TestWaiterDoesNotGetALaterPlaceOfItsLease(t *testing.T) {
	s := newLockServer(t)
	wantHeld(t, s.lock(t.Context(), "a", 1), "a/1")
	waiter := s.lock(t.Context(), "a", 2)
	between := s.lock(t.Context(), "a", 3)
	_, err := s.store.do(func(tx *memTxn) error {
		// In one revision, so that nobody sees the queue without the key.
		if _, err := tx.delete([]byte("a/2"), nil); err != nil {
			return err
		}
		_, err := tx.put(&pb.PutRequest{Key: []byte("a/2"), Lease: 2})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	wantStatus(t, (<-waiter).err, codes.Unknown, "mutex: session is expired")
	if keys := s.keys(); !slices.Contains(keys, "a/2") {
		t.Error("the key of the later place is gone")
	}
	s.unlock("a/1")
	wantHeld(t, between, "a/3")
}

// A key that was put although nobody waits for the lock any more would keep it from everybody until its lease ends.
func TestKeyOfAClientThatLeftWhileJoiningIsDeleted(t *testing.T) {
	s := newLockServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.store.after = func(bool) { cancel() }
	q := &lockQueues{kv: kv{b: s.store, maxRequestBytes: 1 << 20, maxTxnOps: 128}}
	if c, err := q.join(ctx, []byte("a"), 1, nil); err == nil {
		t.Errorf("joined with %+v", c)
	}
	if keys := s.keys(); len(keys) > 0 {
		t.Errorf("keys %q are left", keys)
	}

	s.store.after = nil
	wantHeld(t, s.lock(t.Context(), "a", 1), "a/1")
	if _, err := q.join(ctx, []byte("a"), 1, nil); err == nil {
		t.Error("joined")
	}
	if keys := s.keys(); !slices.Equal(keys, []string{"a/1"}) {
		t.Errorf("keys %q: the lock that was there before was given up", keys)
	}
}

func TestWaitGoesOnWhenHistoryIsCompacted(t *testing.T) {
	s := newLockServer(t)
	wantHeld(t, s.lock(t.Context(), "a", 1), "a/1")
	var once sync.Once
	s.store.after = func(wrote bool) {
		if !wrote {
			once.Do(func() { // the waiter has seen a/1, and does not watch it yet
				if _, err := s.store.DeleteRange(t.Context(), &wire.DeleteRangeRequest{Key: []byte("a/1")}); err != nil {
					t.Error(err)
				}
				s.store.commit(put("x", "1"))
				s.store.commit(put("x", "2"))
				s.store.compact(s.store.revision())
			})
		}
	}
	resp, err := s.Lock(t.Context(), &lockpb.LockRequest{Name: []byte("a"), Lease: 2})
	if err != nil || string(resp.Key) != "a/2" {
		t.Fatalf("got %v, error %v", resp, err)
	}
}

func TestLockRefusesWhatEtcdRefuses(t *testing.T) {
	s := newLockServer(t)
	for _, c := range []struct {
		name  string
		lease int64
		text  string
	}{
		{"a", 99, "etcdserver: requested lease not found"},
		{"a", -1, "etcdserver: requested lease not found"},
		{string(make([]byte, 1600<<10)), 1, "etcdserver: request is too large"},
	} {
		_, err := s.Lock(t.Context(), &lockpb.LockRequest{Name: []byte(c.name), Lease: c.lease})
		wantStatus(t, err, codes.Unknown, c.text)
	}
	_, err := s.Unlock(t.Context(), &lockpb.UnlockRequest{})
	wantStatus(t, err, codes.Unknown, "etcdserver: key is not provided")
	if keys := s.keys(); len(keys) > 0 {
		t.Errorf("keys %q", keys)
	}
}

func TestUnlockOfNothingSucceeds(t *testing.T) {
	if rev := newLockServer(t).unlock("a/1"); rev != 1 {
		t.Errorf("it made revision %d", rev)
	}
}

func TestMoreWaitersThanThereIsRoomForAreRefused(t *testing.T) {
	q := &lockQueues{}
	var releases []func()
	for {
		release, err := q.reserve(25 << 20)
		if err != nil {
			wantStatus(t, err, codes.ResourceExhausted, "etcdserver: too many requests")
			break
		}
		releases = append(releases, release)
	}
	if len(releases) != 3 {
		t.Errorf("%d requests of 25 MiB had room, counted three times", len(releases))
	}
	for _, release := range releases {
		release()
	}
	if n := q.waiting.Load(); n != 0 {
		t.Errorf("%d bytes are taken by nobody", n)
	}
}

// TestOneHolderAtATime has clients that come and go at random times.
func TestOneHolderAtATime(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := newLockServer(t)
	var holders atomic.Int32
	var wg sync.WaitGroup
	for worker := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, worker))
		wg.Go(func() {
			for range 30 {
				s.lockOnce(rnd, &holders)
			}
		})
	}
	wg.Wait()
	if keys := s.keys(); len(keys) > 0 {
		t.Errorf("keys %q are left", keys)
	}
}

// lockOnce asks for a lock under a lease of its own, and may leave at any time.
func (s *lockServer) lockOnce(rnd *rand.Rand, holders *atomic.Int32) {
	lease, err := s.store.LeaseGrant(s.t.Context(), &pb.LeaseGrantRequest{ID: rnd.Int64()})
	if err != nil {
		s.t.Error(err)
		return
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	if rnd.IntN(3) == 0 {
		after := rnd.IntN(2000)
		go func() {
			for range after {
				s.store.revision() // some microseconds
			}
			cancel()
		}()
	}
	if _, err := s.Lock(ctx, &lockpb.LockRequest{Name: []byte("a"), Lease: lease.ID}); err == nil {
		if n := holders.Add(1); n != 1 {
			s.t.Errorf("%d hold the lock", n)
		}
		s.unlock("x") // which takes as long as others take to come in
		holders.Add(-1)
	}
	// Also if it failed: the server may have given the lock to a client that had just left.
	if _, err := s.store.LeaseRevoke(s.t.Context(), &pb.LeaseRevokeRequest{ID: lease.ID}); err != nil {
		s.t.Error(err)
	}
}
