package e2e

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"weir/loadtest/target/targettest"
)

// etcd's recipes, which most users of its client mean when they say etcd.
func concurrencyCases() []testCase {
	return []testCase{
		{"SessionEndsWithItsLease", sessionEndsWithItsLease},
		{"SessionOrphanLeavesKeys", sessionOrphanLeavesKeys},
		{"MutexIsHeldByOne", mutexIsHeldByOne},
		{"MutexTryLockSaysLocked", mutexTryLockSaysLocked},
		{"MutexOfADeadSessionIsFree", mutexOfADeadSessionIsFree},
		{"ElectionHasOneLeader", electionHasOneLeader},
		{"ElectionObserveSeesEveryLeader", electionObserveSeesEveryLeader},
		{"STMIsSerializable", stmIsSerializable},
	}
}

// session is a session over a client of its own, as another process would have it.
func (f *fixture) session(ttl int) *concurrency.Session {
	f.Helper()
	s, err := concurrency.NewSession(targettest.Client(f, f.target.Endpoint), concurrency.WithTTL(ttl), concurrency.WithContext(f.ctx))
	f.must(err)
	return s
}

func sessionEndsWithItsLease(f *fixture) {
	s := f.session(60)
	f.put("a", "1", clientv3.WithLease(s.Lease()))
	f.must(s.Close())
	<-s.Done()
	f.wantPairs(f.get("a").Kvs, "")
	revoked := f.session(3)
	_, err := f.client.Revoke(f.ctx, revoked.Lease())
	f.must(err)
	// The session's next keepalive is answered with TTL 0, which ends it. KeepAlive pings every TTL/3.
	select {
	case <-revoked.Done():
	case <-f.ctx.Done():
		f.Error("session does not notice that its lease was revoked")
	}
}

func sessionOrphanLeavesKeys(f *fixture) {
	s := f.session(60)
	f.put("a", "1", clientv3.WithLease(s.Lease()))
	s.Orphan()
	f.wantPairs(f.get("a").Kvs, "a=1")
}

func mutexIsHeldByOne(f *fixture) {
	const clients, rounds = 4, 10
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex // guards holders and total
		holders int
		total   int
	)
	for range clients {
		m := concurrency.NewMutex(f.session(60), f.key("lock"))
		wg.Go(func() {
			for range rounds {
				if err := m.Lock(f.ctx); err != nil {
					f.Errorf("lock: %v", err)
					return
				}
				mu.Lock()
				holders++
				total++
				if holders != 1 {
					f.Errorf("%d hold the lock", holders)
				}
				mu.Unlock()
				r, err := f.client.Txn(f.ctx).If(m.IsOwner()).Commit()
				if err != nil || !r.Succeeded {
					f.Errorf("the holder is not the owner: %v", err)
				}
				mu.Lock()
				holders--
				mu.Unlock()
				if err := m.Unlock(f.ctx); err != nil {
					f.Errorf("unlock: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	want(f, "locks", total, clients*rounds)
}

func mutexTryLockSaysLocked(f *fixture) {
	a, b := concurrency.NewMutex(f.session(60), f.key("lock")), concurrency.NewMutex(f.session(60), f.key("lock"))
	f.must(a.TryLock(f.ctx))
	if err := b.TryLock(f.ctx); !errors.Is(err, concurrency.ErrLocked) {
		f.Errorf("second TryLock: %v", err)
	}
	f.must(a.Unlock(f.ctx))
	f.must(b.TryLock(f.ctx))
}

func mutexOfADeadSessionIsFree(f *fixture) {
	dead := f.session(2)
	f.must(concurrency.NewMutex(dead, f.key("lock")).Lock(f.ctx))
	dead.Orphan() // stops pinging, as a process that died
	waiting := concurrency.NewMutex(f.session(60), f.key("lock"))
	f.must(waiting.Lock(f.ctx))
	f.must(waiting.Unlock(f.ctx))
}

func electionHasOneLeader(f *fixture) {
	a, b := concurrency.NewElection(f.session(60), f.key("e")), concurrency.NewElection(f.session(60), f.key("e"))
	if _, err := a.Leader(f.ctx); !errors.Is(err, concurrency.ErrElectionNoLeader) {
		f.Errorf("leader before the election: %v", err)
	}
	f.must(a.Campaign(f.ctx, "a"))
	elected := make(chan error, 1)
	go func() { elected <- b.Campaign(f.ctx, "b") }()
	r, err := b.Leader(f.ctx)
	f.must(err)
	want(f, "leader", string(r.Kvs[0].Value), "a")
	f.must(a.Proclaim(f.ctx, "a2"))
	r, err = b.Leader(f.ctx)
	f.must(err)
	want(f, "leader", string(r.Kvs[0].Value), "a2")
	select {
	case err := <-elected:
		f.Errorf("second leader while the first leads: %v", err)
	default:
	}
	f.must(a.Resign(f.ctx))
	f.must(<-elected)
	r, err = a.Leader(f.ctx)
	f.must(err)
	want(f, "leader", string(r.Kvs[0].Value), "b")
}

func electionObserveSeesEveryLeader(f *fixture) {
	e := concurrency.NewElection(f.session(60), f.key("e"))
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	seen := e.Observe(ctx)
	for i := range 3 {
		f.must(e.Campaign(f.ctx, fmt.Sprint(i)))
		select {
		case r := <-seen:
			want(f, "observed leader", string(r.Kvs[0].Value), fmt.Sprint(i))
		case <-f.ctx.Done():
			f.Fatal("observer saw no leader")
		}
		f.must(e.Resign(f.ctx))
	}
}

func stmIsSerializable(f *fixture) {
	const clients, rounds = 4, 15
	f.put("from", "1000")
	f.put("to", "0")
	var wg sync.WaitGroup
	for range clients {
		c := targettest.Client(f, f.target.Endpoint)
		wg.Go(func() {
			for range rounds {
				_, err := concurrency.NewSTM(c, func(stm concurrency.STM) error {
					from, err := strconv.Atoi(stm.Get(f.key("from")))
					if err != nil {
						return err
					}
					to, err := strconv.Atoi(stm.Get(f.key("to")))
					if err != nil {
						return err
					}
					stm.Put(f.key("from"), strconv.Itoa(from-1))
					stm.Put(f.key("to"), strconv.Itoa(to+1))
					return nil
				}, concurrency.WithAbortContext(f.ctx), concurrency.WithIsolation(concurrency.Serializable))
				if err != nil {
					f.Errorf("transfer: %v", err)
				}
			}
		})
	}
	wg.Wait()
	f.wantPairs(f.get("", clientv3.WithPrefix()).Kvs, fmt.Sprintf("from=%d to=%d", 1000-clients*rounds, clients*rounds))
}
