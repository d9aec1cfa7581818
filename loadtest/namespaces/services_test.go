package namespaces

import (
	"context"
	"fmt"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"

	"weir/loadtest/target/targettest"
)

// grant grants a lease and returns its id, also as it stands in the keys of locks.
func (s *site) grant(c *clientv3.Client) (id clientv3.LeaseID, inKeys string) {
	s.Helper()
	r, err := c.Grant(s.Ctx, 1000)
	s.Must(err)
	return r.ID, fmt.Sprintf("%x", int64(r.ID))
}

func TestLocksOfTheServiceAreInTheNamespace(t *testing.T) {
	at(t, everywhere, func(s *site) {
		inside, outside := v3lockpb.NewLockClient(s.inside.ActiveConnection()), v3lockpb.NewLockClient(s.store.ActiveConnection())
		for _, name := range []string{"l", "", "with/a/slash"} {
			id, key := s.grant(s.inside)
			if name != "" { // which outside is a lock around the namespace
				other, _ := s.grant(s.store)
				_, err := outside.Lock(s.Ctx, &v3lockpb.LockRequest{Name: []byte(name), Lease: int64(other)})
				s.Must(err)
			}
			held, err := inside.Lock(s.Ctx, &v3lockpb.LockRequest{Name: []byte(name), Lease: int64(id)})
			s.Must(err)
			targettest.Want(s, "key of the lock", string(held.Key), name+"/"+key)
			s.wantStored(s.prefix + name + "/" + key)

			waits, cancel := context.WithCancel(s.Ctx)
			next, nextKey := s.grant(s.inside)
			got := make(chan error, 1)
			go func() {
				_, err := inside.Lock(waits, &v3lockpb.LockRequest{Name: []byte(name), Lease: int64(next)})
				got <- err
			}()
			s.Eventually(testTimeout(), "the second claim", func() error { return s.stored(s.prefix + name + "/" + nextKey) })
			_, err = inside.Unlock(s.Ctx, &v3lockpb.UnlockRequest{Key: held.Key})
			s.Must(err)
			s.Must(<-got) // and so the one before it was unlocked
			cancel()
		}
		for _, key := range strings.Fields(s.keys(s.store)) {
			if strings.HasPrefix(key, namespace) != strings.HasPrefix(key, s.prefix) {
				s.Errorf("a claim is at %s", key)
			}
		}
	})
}

// stored is an error unless the store has a key.
func (s *site) stored(key string) error {
	r, err := s.store.Get(s.Ctx, key)
	if err == nil && len(r.Kvs) == 0 {
		err = fmt.Errorf("%s is not in the store", key)
	}
	return err
}

func (s *site) wantStored(key string) {
	s.Helper()
	s.Must(s.stored(key))
}

func TestElectionsOfTheServiceAreInTheNamespace(t *testing.T) {
	at(t, everywhere, func(s *site) {
		c, outside := v3electionpb.NewElectionClient(s.inside.ActiveConnection()), v3electionpb.NewElectionClient(s.store.ActiveConnection())
		for _, name := range []string{"e", ""} {
			other, _ := s.grant(s.store)
			_, err := outside.Campaign(s.Ctx, &v3electionpb.CampaignRequest{Name: []byte(name), Lease: int64(other), Value: []byte("outside")})
			s.Must(err)
			_, err = c.Leader(s.Ctx, &v3electionpb.LeaderRequest{Name: []byte(name)})
			targettest.Want(s, "an election without a leader", fmt.Sprint(err), "rpc error: code = Unknown desc = election: no leader")

			observed, stop := context.WithCancel(s.Ctx)
			observing, err := c.Observe(observed, &v3electionpb.LeaderRequest{Name: []byte(name)})
			s.Must(err)
			id, inKeys := s.grant(s.inside)
			key := name + "/" + inKeys
			won, err := c.Campaign(s.Ctx, &v3electionpb.CampaignRequest{Name: []byte(name), Lease: int64(id), Value: []byte("1")})
			s.Must(err)
			targettest.Want(s, "name", string(won.Leader.Name), name)
			targettest.Want(s, "key of the leader", string(won.Leader.Key), key)
			s.wantStored(s.prefix + key)
			s.wantObserved(observing, key, "1")

			_, err = c.Proclaim(s.Ctx, &v3electionpb.ProclaimRequest{Leader: won.Leader, Value: []byte("2")})
			s.Must(err)
			s.wantObserved(observing, key, "2")
			leader, err := c.Leader(s.Ctx, &v3electionpb.LeaderRequest{Name: []byte(name)})
			s.Must(err)
			targettest.Want(s, "leader", string(leader.Kv.Key)+"="+string(leader.Kv.Value), key+"=2")

			_, err = c.Resign(s.Ctx, &v3electionpb.ResignRequest{Leader: won.Leader})
			s.Must(err)
			if s.stored(s.prefix+key) == nil {
				s.Error("who has resigned is in the store")
			}
			stop()
		}
	})
}

// wantObserved receives until the leader has a value.
func (s *site) wantObserved(stream v3electionpb.Election_ObserveClient, key, value string) {
	s.Helper()
	for {
		r, err := stream.Recv()
		s.Must(err)
		targettest.Want(s, "key of the leader", string(r.Kv.Key), key)
		if string(r.Kv.Value) == value {
			return
		}
	}
}

// Recipes of etcd's client are made of transactions, watches and leases.
func TestRecipesOfEtcdsClientWork(t *testing.T) {
	at(t, everywhere, func(s *site) {
		session := func() *concurrency.Session {
			one, err := concurrency.NewSession(targettest.Client(s, s.Endpoint()), concurrency.WithContext(s.Ctx))
			s.Must(err)
			return one
		}
		first, second := session(), session()
		held, waiting := concurrency.NewMutex(first, "m"), concurrency.NewMutex(second, "m")
		s.Must(held.Lock(s.Ctx))
		s.wantStored(s.prefix + held.Key())
		if err := waiting.TryLock(s.Ctx); err == nil {
			s.Error("two hold the lock")
		}
		got := make(chan error, 1)
		go func() { got <- waiting.Lock(s.Ctx) }()
		s.Must(held.Unlock(s.Ctx))
		s.Must(<-got)

		e := concurrency.NewElection(first, "e")
		s.Must(e.Campaign(s.Ctx, "me"))
		s.wantStored(s.prefix + e.Key())
		leader, err := concurrency.NewElection(second, "e").Leader(s.Ctx)
		s.Must(err)
		targettest.Want(s, "leader", string(leader.Kvs[0].Value), "me")

		sum := concurrency.NewSTM
		_, err = sum(s.inside, func(stm concurrency.STM) error {
			stm.Put("stm", stm.Get("stm")+"1")
			return nil
		})
		s.Must(err)
		s.wantStored(s.prefix + "stm")
		s.Must(first.Close())
		s.Must(second.Close())
		for _, key := range strings.Fields(s.keys(s.store)) {
			if !strings.HasPrefix(key, s.prefix) {
				s.Errorf("%s is in the store", key)
			}
		}
	})
}

func TestKeysOfALeaseAreThoseInTheNamespace(t *testing.T) {
	at(t, everywhere, func(s *site) {
		id, _ := s.grant(s.inside)
		_, err := s.inside.Put(s.Ctx, "a", "", clientv3.WithLease(id))
		s.Must(err)
		_, err = s.store.Put(s.Ctx, "a", "", clientv3.WithLease(id))
		s.Must(err)
		r, err := s.inside.TimeToLive(s.Ctx, id, clientv3.WithAttachedKeys())
		s.Must(err)
		targettest.Want(s, "keys of the lease", fmt.Sprintf("%q", r.Keys), `["a"]`)
		all, err := s.store.TimeToLive(s.Ctx, id, clientv3.WithAttachedKeys())
		s.Must(err)
		targettest.Want(s, "how many keys of the lease in the store", len(all.Keys), 2)
		_, err = s.inside.Revoke(s.Ctx, id) // which anybody may who knows its id
		s.Must(err)
		targettest.Want(s, "keys in the store", s.keys(s.store), "")
	})
}
