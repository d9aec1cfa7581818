package grpcapi

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"weir/coalesce"
	"weir/grpcapi/lockpb"
)

// lead campaigns in the election "e", and wins.
func (s *lockServer) lead(lease int64, value string) *lockpb.LeaderKey {
	s.t.Helper()
	resp, err := s.Campaign(s.t.Context(), &lockpb.CampaignRequest{Name: []byte("e"), Lease: lease, Value: []byte(value)})
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Leader
}

// won is a Campaign that has been asked for.
type won struct {
	leader *lockpb.LeaderKey
	err    error
}

// campaign asks to lead in the election "e", and waits until the candidate is in the queue.
func (s *lockServer) campaign(ctx context.Context, lease int64, value string) <-chan won {
	s.t.Helper()
	done := make(chan won, 1)
	go func() {
		resp, err := s.Campaign(ctx, &lockpb.CampaignRequest{Name: []byte("e"), Lease: lease, Value: []byte(value)})
		done <- won{resp.GetLeader(), err}
	}()
	s.await(fmt.Sprintf("e/%x", lease), false)
	return done
}

func (s *lockServer) proclaim(leader *lockpb.LeaderKey, value string) {
	s.t.Helper()
	if _, err := s.Proclaim(s.t.Context(), &lockpb.ProclaimRequest{Leader: leader, Value: []byte(value)}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *lockServer) resign(leader *lockpb.LeaderKey) {
	s.t.Helper()
	if _, err := s.Resign(s.t.Context(), &lockpb.ResignRequest{Leader: leader}); err != nil {
		s.t.Fatal(err)
	}
}

// observe follows the election "e".
func (s *lockServer) observe() grpc.ServerStreamingClient[lockpb.LeaderResponse] {
	s.t.Helper()
	o, err := s.Observe(s.t.Context(), &lockpb.LeaderRequest{Name: []byte("e")})
	if err != nil {
		s.t.Fatal(err)
	}
	return o
}

// wantObserved is for the next answer of an Observe; the revision of its header is not ahead of its key's.
func wantObserved(t *testing.T, o grpc.ServerStreamingClient[lockpb.LeaderResponse], key, value string) *lockpb.LeaderResponse {
	t.Helper()
	r, err := o.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if string(r.Kv.Key) != key || string(r.Kv.Value) != value || r.Header.Revision < r.Kv.ModRevision {
		t.Fatalf("observed %v, want %s = %s", r, key, value)
	}
	return r
}

func TestCandidatesLeadInTheOrderOfCampaigning(t *testing.T) {
	s := newLockServer(t)
	first := s.lead(1, "one")
	if first.Lease != 1 || string(first.Name) != "e" || string(first.Key) != "e/1" || first.Rev != 2 {
		t.Errorf("leader key %v", first)
	}
	second, third := s.campaign(t.Context(), 3, "three"), s.campaign(t.Context(), 2, "two")
	s.resign(first)
	w := <-second
	if w.err != nil || string(w.leader.Key) != "e/3" {
		t.Fatalf("the second got %v", w)
	}
	leader, err := s.Leader(t.Context(), &lockpb.LeaderRequest{Name: []byte("e")})
	if err != nil || string(leader.Kv.Value) != "three" || leader.Kv.CreateRevision != w.leader.Rev {
		t.Errorf("the leader is %v, error %v", leader, err)
	}
	s.resign(w.leader)
	if w := <-third; w.err != nil || string(w.leader.Key) != "e/2" {
		t.Errorf("the third got %v", w)
	}
}

func TestCampaignOfACandidateChangesItsValue(t *testing.T) {
	s := newLockServer(t)
	before := s.lead(1, "one")
	if again := s.lead(1, "other"); again.Rev != before.Rev {
		t.Errorf("it leads since revision %d, not %d", again.Rev, before.Rev)
	}
	wantObserved(t, s.observe(), "e/1", "other")

	one, other := s.campaign(t.Context(), 2, "two"), s.campaign(t.Context(), 2, "2")
	o := s.observe()
	wantObserved(t, o, "e/1", "other")
	s.resign(before)
	if w := <-one; w.err != nil {
		t.Error(w.err)
	}
	if w := <-other; w.err != nil {
		t.Error(w.err)
	}
	if r, err := o.Recv(); err != nil || string(r.Kv.Key) != "e/2" {
		t.Errorf("observed %v, error %v", r, err)
	}
}

func TestCandidateWhoseKeyIsDeletedDoesNotLead(t *testing.T) {
	s := newLockServer(t)
	first := s.lead(1, "one")
	waiting := s.campaign(t.Context(), 2, "two")
	s.unlock("e/2")
	wantStatus(t, (<-waiting).err, codes.Unknown, "election: not leader")
	s.resign(first)
	_, err := s.Leader(t.Context(), &lockpb.LeaderRequest{Name: []byte("e")})
	wantStatus(t, err, codes.Unknown, "election: no leader")
}

func TestCandidateThatIsCancelledLeavesTheQueue(t *testing.T) {
	s := newLockServer(t)
	s.lead(1, "one")
	ctx, cancel := context.WithCancel(t.Context())
	waiting := s.campaign(ctx, 2, "two")
	cancel()
	wantStatus(t, (<-waiting).err, codes.Canceled, "context canceled")
	s.await("e/2", true)
}

func TestElectionRefusesWhatEtcdRefuses(t *testing.T) {
	s := newLockServer(t)
	key := s.lead(1, "one")
	with := func(change func(*lockpb.LeaderKey)) *lockpb.LeaderKey {
		k := &lockpb.LeaderKey{Name: key.Name, Key: key.Key, Rev: key.Rev, Lease: key.Lease}
		change(k)
		return k
	}
	for _, c := range []struct {
		leader *lockpb.LeaderKey
		text   string
	}{
		{nil, `"leader" field must be provided`},
		{&lockpb.LeaderKey{}, "etcdserver: key is not provided"},
		{with(func(k *lockpb.LeaderKey) { k.Rev++ }), "election: not leader"},
		{with(func(k *lockpb.LeaderKey) { k.Lease = 98 }), "etcdserver: requested lease not found"},
		{with(func(k *lockpb.LeaderKey) { k.Key = nil }), "etcdserver: key is not provided"},
		{with(func(k *lockpb.LeaderKey) { k.Key = []byte("e/2") }), "election: not leader"},
	} {
		_, err := s.Proclaim(t.Context(), &lockpb.ProclaimRequest{Leader: c.leader, Value: []byte("v")})
		wantStatus(t, err, codes.Unknown, c.text)
	}
	_, err := s.Resign(t.Context(), &lockpb.ResignRequest{})
	wantStatus(t, err, codes.Unknown, `"leader" field must be provided`)
	_, err = s.Campaign(t.Context(), &lockpb.CampaignRequest{Name: []byte("e"), Lease: 99})
	wantStatus(t, err, codes.Unknown, "etcdserver: requested lease not found")
	_, err = s.Campaign(t.Context(), &lockpb.CampaignRequest{Name: []byte("e"), Lease: 1, Value: make([]byte, 1600<<10)})
	wantStatus(t, err, codes.Unknown, "etcdserver: request is too large")
	_, err = s.Leader(t.Context(), &lockpb.LeaderRequest{Name: []byte("other")})
	wantStatus(t, err, codes.Unknown, "election: no leader")

	s.resign(with(func(k *lockpb.LeaderKey) { k.Rev++ })) // of a leadership that is not there
	wantObserved(t, s.observe(), "e/1", "one")
}

func TestProclamationWithoutLeaseGetsANewOne(t *testing.T) {
	s := newLockServer(t)
	key := s.lead(1, "one")
	key.Lease = 0
	s.proclaim(key, "two")
	r := wantObserved(t, s.observe(), "e/1", "two")
	if ttl, err := s.store.ttl(r.Kv.Lease); r.Kv.Lease == 1 || ttl != 60 || err != nil {
		t.Errorf("lease %x with TTL %d, error %v", r.Kv.Lease, ttl, err)
	}
}

func TestObserverIsToldEveryLeaderAndProclamation(t *testing.T) {
	s := newLockServer(t)
	o := s.observe()
	first := s.lead(1, "one")
	if r := wantObserved(t, o, "e/1", "one"); r.Header.Revision != first.Rev {
		t.Errorf("the header is of revision %d, want %d", r.Header.Revision, first.Rev)
	}
	second := s.campaign(t.Context(), 2, "two")
	s.proclaim(first, "uno")
	wantObserved(t, o, "e/1", "uno")
	s.resign(first)
	wantObserved(t, o, "e/2", "two")
	s.resign((<-second).leader)
	s.lead(3, "three")
	wantObserved(t, o, "e/3", "three")
	wantObserved(t, s.observe(), "e/3", "three")
}

func TestObserverGoesOnWhenHistoryIsCompacted(t *testing.T) {
	s := newLockServer(t)
	var once sync.Once
	s.store.after = func(bool) {
		once.Do(func() { // the observer has seen that nobody leads, and does not watch yet
			for _, key := range []string{"e/1", "x"} {
				_, err := s.store.do(func(tx *memTxn) error {
					_, err := tx.put(&pb.PutRequest{Key: []byte(key), Value: []byte("one")})
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
			s.store.compact(s.store.revision())
		})
	}
	wantObserved(t, s.observe(), "e/1", "one")
}

func TestObserverIsToldWhyItEnds(t *testing.T) {
	s := newLockServer(t)
	o := s.observe()
	s.lead(1, "one")
	wantObserved(t, o, "e/1", "one")
	s.store.hub.Close()
	_, err := o.Recv()
	wantStatus(t, err, codes.Unknown, "etcdserver: server stopped")
}

// An observer that is not read from holds no more than the watcher's limit, and is told all once it is.
func TestWatcherThatNobodyReadsIsBounded(t *testing.T) {
	r := newRevisions(t, 1<<20)
	w := newWatcher(r.hub, noUsers{})
	defer w.close()
	if err := w.watch(t.Context(), coalesce.Watch{Key: []byte("a"), Start: 2}); err != nil {
		t.Fatal(err)
	}
	value, n := bytes.Repeat([]byte("v"), 1<<10), 1000
	for range n {
		r.commit(change{"a", value})
	}
	next := int64(2)
	for next < int64(n)+2 {
		events, err := w.next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, e := range events {
			if e.ModRev != next {
				t.Fatalf("revision %d, want %d", e.ModRev, next)
			}
			next, size = next+1, size+len(e.Data)
		}
		if limit := watcherLimit + 256<<10; size > limit {
			t.Errorf("%d bytes were kept, more than %d", size, limit)
		}
	}
}

func TestObserversOfOneElectionAreAllTold(t *testing.T) {
	s := newLockServer(t)
	var wg sync.WaitGroup
	for range 20 {
		o := s.observe()
		wg.Go(func() {
			for _, value := range []string{"one", "two"} {
				if r, err := o.Recv(); err != nil || string(r.Kv.Value) != value && string(r.Kv.Value) != "two" {
					t.Errorf("observed %v, error %v", r, err)
				} else if string(r.Kv.Value) == "two" {
					return
				}
			}
		})
	}
	key := s.lead(1, "one")
	s.proclaim(key, "two")
	wg.Wait()
}
