package lease

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// model is what a Lessor should be, kept in the plainest way.
type model struct {
	primary bool
	now     time.Duration
	leases  map[int64]*modelLease
	keys    map[string]int64
}

type modelLease struct {
	ttl    int64
	expiry time.Duration
	named  time.Duration // when sweep last returned it; -1 is never
}

func (m *model) renew(le *modelLease) {
	le.expiry, le.named = m.now+time.Duration(le.ttl)*time.Second, -1
}

// due lists the leases that sweep must return now.
func (m *model) due() []int64 {
	var ids []int64
	for id, le := range m.leases {
		if m.primary && le.expiry <= m.now && (le.named < 0 || m.now-le.named >= retryInterval) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// set is the leases and keys as they would be read from a store.
func (m *model) set(t *testing.T) *Set {
	t.Helper()
	s := NewSet()
	for id, le := range m.leases {
		if err := s.Add(Record{ID: id, TTL: le.ttl}); err != nil {
			t.Fatal(err)
		}
	}
	for key, id := range m.keys {
		if err := s.Attach(id, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (m *model) keysOf(id int64) []string {
	var keys []string
	for key, on := range m.keys {
		if on == id {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// TestRandomOperationsMatchTheModel holds every answer against the model, and the whole state after each operation.
func TestRandomOperationsMatchTheModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for round := range uint64(10) {
		runModel(t, rand.New(rand.NewPCG(seed, round)), 1000)
	}
}

func runModel(t *testing.T, rnd *rand.Rand, steps int) {
	clock := newFakeClock()
	l := New(clock, 2)
	m := &model{leases: map[int64]*modelLease{}, keys: map[string]int64{}}
	for step := range steps {
		id := 1 + rnd.Int64N(20)
		key := string(rune('a' + rnd.IntN(26)))
		ml := m.leases[id]
		var name string
		var got, want any
		switch op := rnd.IntN(100); {
		case op < 20:
			ttl := rnd.Int64N(12) - 1
			granted, err := l.Grant(id, ttl, 1)
			name, got = fmt.Sprintf("Grant(%d, %d)", id, ttl), fmt.Sprint(granted.TTL, err)
			if ml != nil {
				want = fmt.Sprint(0, ErrExists)
				break
			}
			ml = &modelLease{ttl: max(2, ttl)}
			m.renew(ml)
			m.leases[id] = ml
			want = fmt.Sprint(ml.ttl, nil)
		case op < 30:
			name, got = fmt.Sprintf("Revoke(%d)", id), l.Revoke(id)
			if ml == nil {
				want = ErrNotFound
				break
			}
			delete(m.leases, id)
			maps.DeleteFunc(m.keys, func(_ string, on int64) bool { return on == id })
		case op < 50:
			if op%2 == 0 {
				ttls, renewed := []int64{-1, -1}, []int64{0, 0}
				l.RenewNow([]int64{id, 99}, ttls)
				if m.primary && ml != nil && ml.expiry > m.now {
					m.renew(ml)
					renewed[0] = ml.ttl
				}
				name, got, want = fmt.Sprintf("RenewNow(%d, 99)", id), fmt.Sprint(ttls), fmt.Sprint(renewed)
				break
			}
			ttl, ended, err := l.tryRenew(id)
			name, got = fmt.Sprintf("Renew(%d)", id), fmt.Sprint(ttl, ended != nil, err)
			switch {
			case !m.primary:
				want = fmt.Sprint(0, false, ErrNotPrimary)
			case ml == nil:
				want = fmt.Sprint(0, false, ErrNotFound)
			case ml.expiry <= m.now:
				want = fmt.Sprint(0, true, nil)
			default:
				m.renew(ml)
				want = fmt.Sprint(ml.ttl, false, nil)
			}
		case op < 65:
			name, got = fmt.Sprintf("Attach(%d, %s)", id, key), l.Attach(id, []byte(key))
			if ml == nil {
				want = ErrNotFound
				break
			}
			m.keys[key] = id
		case op < 72:
			name = fmt.Sprintf("Detach(%s)", key)
			l.Detach([]byte(key))
			delete(m.keys, key)
		case op < 92:
			d := time.Duration(rnd.IntN(1500)) * time.Millisecond
			name = fmt.Sprintf("advance %v and sweep", d)
			clock.advance(d)
			m.now += d
			ids := expired(l, 100)
			slices.Sort(ids)
			got, want = fmt.Sprint(ids), fmt.Sprint(m.due())
			for _, id := range ids {
				m.leases[id].named = m.now
			}
		case op < 94:
			name = "Reset to what there is"
			l.Reset(m.set(t))
			for _, le := range m.leases {
				m.renew(le)
			}
		case op < 98:
			name = "Promote"
			l.Promote(0)
			m.primary = true
			for _, le := range m.leases {
				m.renew(le)
			}
		default:
			name = "Demote"
			l.Demote()
			m.primary = false
		}
		if got != want {
			t.Fatalf("step %d: %s = %v, want %v", step, name, got, want)
		}
		checkState(t, l, m)
	}
}

func checkState(t *testing.T, l *Lessor, m *model) {
	t.Helper()
	ids := l.Leases()
	slices.Sort(ids)
	if want := slices.Sorted(maps.Keys(m.leases)); !slices.Equal(ids, want) {
		t.Fatalf("Leases() = %v, want %v", ids, want)
	}
	for id, ml := range m.leases {
		if !m.primary {
			break
		}
		s, err := l.TimeToLive(id, true)
		left := max(0, int64((ml.expiry-m.now)/time.Second))
		if err != nil || s.TTL != ml.ttl || s.Remaining != left || fmt.Sprintf("%s", s.Keys) != fmt.Sprint(m.keysOf(id)) {
			t.Fatalf("TimeToLive(%d) = %d, %d, %s, %v; want %d, %d, %s",
				id, s.TTL, s.Remaining, s.Keys, err, ml.ttl, left, m.keysOf(id))
		}
	}
	for key := 'a'; key <= 'z'; key++ {
		if got, want := l.LeaseOf([]byte(string(key))), m.keys[string(key)]; got != want {
			t.Fatalf("LeaseOf(%c) = %d, want %d", key, got, want)
		}
	}
	queue := l.queues[expiries].entries
	if wantLen := len(m.leases); m.primary && len(queue) != wantLen || !m.primary && len(queue) != 0 {
		t.Fatalf("the queue has %d leases of %d; primary: %v", len(queue), wantLen, m.primary)
	}
	checkQueues(t, l)
}

// checkQueues checks that every queue is a heap, of leases that are there and know where they are.
func checkQueues(t *testing.T, l *Lessor) {
	t.Helper()
	for which := range l.queues {
		entries := l.queues[which].entries
		for i, e := range entries {
			switch {
			case e.lease.index[which] != int32(i):
				t.Fatalf("queue %d: the lease at %d is said to be at %d", which, i, e.lease.index[which])
			case l.leases[e.lease.id] != e.lease:
				t.Fatalf("queue %d: the lease at %d has ended", which, i)
			case i > 0 && entries[(i-1)/2].due > e.due:
				t.Fatalf("queue %d is out of order at %d", which, i)
			}
		}
		n := 0
		for _, le := range l.leases {
			if le.index[which] != absent {
				n++
			}
		}
		if n != len(entries) {
			t.Fatalf("queue %d has %d leases, and %d say that they are in it", which, len(entries), n)
		}
	}
}

// TestConcurrentCallers is for the race detector: every method at once, with the expiry loop that core runs.
func TestConcurrentCallers(t *testing.T) {
	l := New(SystemClock{}, 0) // with a TTL of 0, leases expire at once
	l.Promote(0)
	var expiring, callers sync.WaitGroup
	const each, workers = 200, 4
	expiring.Go(func() {
		for revoked := 0; revoked < each*workers; {
			ids, err := l.WaitExpired(t.Context(), 7)
			if err != nil {
				t.Errorf("WaitExpired: %v", err)
				return
			}
			for _, id := range ids {
				if err := l.Revoke(id); err != nil {
					t.Errorf("Revoke(%d): %v", id, err)
				}
				revoked++
			}
		}
	})
	for w := range int64(workers) {
		callers.Go(func() {
			for i := range int64(each) {
				id := 1 + w*each + i
				key := fmt.Appendf(nil, "key-%d", i)
				if _, err := l.Grant(id, 0, 1); err != nil {
					t.Errorf("Grant(%d): %v", id, err)
				}
				if err := l.Attach(id, key); err != nil && !errors.Is(err, ErrNotFound) {
					t.Errorf("Attach(%d): %v", id, err)
				}
				l.LeaseOf(key)
				_, _ = l.TimeToLive(id, true)
				l.RenewNow([]int64{id}, make([]int64, 1))
				l.Exists(id)
				l.Leases()
				l.Detach(key)
				if _, err := l.Renew(t.Context(), id); !errors.Is(err, ErrNotFound) {
					t.Errorf("Renew(%d) of a lease that has expired: %v", id, err)
				}
			}
		})
	}
	callers.Wait()
	expiring.Wait()
	if left := l.Leases(); len(left) > 0 {
		t.Errorf("%d leases are left", len(left))
	}
}
