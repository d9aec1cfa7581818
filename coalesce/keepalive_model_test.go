package coalesce

import (
	"errors"
	"flag"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"weir/internal/bubble"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	keepaliveRuns = flag.Int("keepalive-runs", 20, "runs of the model test of keepalives")
	keepaliveSeed = flag.Uint64("keepalive-seed", rand.Uint64(), "of the model test of keepalives")
)

// TestKeepalivesModel has clients ping through a cluster that falls silent, fails, cannot be reached, expires leases long before
// it revokes them, and takes rights away, and holds what the clients are told against what the cluster has seen.
func TestKeepalivesModel(t *testing.T) {
	seed := *keepaliveSeed
	t.Logf("seed %d", seed)
	for run := range uint64(*keepaliveRuns) {
		bubble.Test(t, func(t *testing.T) {
			m := newKeepaliveModel(t, rand.New(rand.NewPCG(seed, run)))
			m.run(time.Minute)
			m.check()
			if t.Failed() {
				t.Logf("run %d: %+v", run, m.keepalives.Stats())
			}
		})
		if t.Failed() {
			break
		}
	}
}

type keepaliveModel struct {
	t          *testing.T
	cluster    *fakeCluster
	keepalives *Keepalives
	over       chan struct{}
	tasks      sync.WaitGroup
	answered   int

	mu    sync.Mutex
	rnd   *rand.Rand
	pings []*modelPing
}

// modelPing is a client's ping.
type modelPing struct {
	model             *keepaliveModel
	id                int64
	arrived, answered time.Time
	pong              Pong
	done              chan struct{}
}

const (
	modelLeases = 30 // of living clients; as many more have none
	// answerSlack is how much longer than a second an answer may take that is on its way: longer than any call does here.
	answerSlack = 20 * time.Millisecond
)

func newKeepaliveModel(t *testing.T, rnd *rand.Rand) *keepaliveModel {
	m := &keepaliveModel{t: t, cluster: newFakeCluster(rnd.IntN(2) == 0), rnd: rnd, over: make(chan struct{})}
	m.cluster.latency = func() time.Duration { return time.Duration(m.random(3000)) * time.Microsecond }
	m.keepalives = NewKeepalives(KeepaliveConfig{Upstream: m.cluster, Budget: NewKeepaliveBudget(1<<18, 40)})
	return m
}

func (m *keepaliveModel) random(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rnd.IntN(n)
}

// sleep returns false when the run is over.
func (m *keepaliveModel) sleep(least, spread time.Duration) bool {
	select {
	case <-time.After(least + time.Duration(m.random(int(spread)))):
		return true
	case <-m.over:
		return false
	}
}

func (m *keepaliveModel) run(d time.Duration) {
	for id := range int64(2 * modelLeases) {
		ttl := 5 + int64(m.random(6))
		m.cluster.grant(id, ttl)
		if id < modelLeases {
			m.tasks.Go(func() { m.live(id, time.Duration(ttl)*time.Second) })
		}
	}
	m.tasks.Go(m.wander)
	m.tasks.Go(m.faults)
	m.tasks.Go(m.revoker)
	time.Sleep(d)
	close(m.over)
	m.tasks.Wait()
	m.keepalives.Close()
}

// live is a client that keeps a lease alive as etcd's does: it pings at a third of the TTL, and half a second after an error.
func (m *keepaliveModel) live(id int64, ttl time.Duration) {
	for m.sleep(0, ttl/3) {
		for p := m.ping(id); p.wait() && p.pong.Err != nil; p = m.ping(id) {
			if !m.sleep(500*time.Millisecond, time.Millisecond) {
				return
			}
		}
	}
}

// wander pings any lease, more than once at times, of dead clients too. Some of its messages have been read long before.
func (m *keepaliveModel) wander() {
	for m.sleep(0, 60*time.Millisecond) {
		id := int64(m.random(2*modelLeases + 3))
		for range 1 + m.random(3) {
			m.pingLate(id, max(0, time.Duration(m.random(2000)-1000))*time.Millisecond)
		}
	}
}

// revoker revokes twice a second, unless there is no leader to do it.
func (m *keepaliveModel) revoker() {
	for m.sleep(500*time.Millisecond, time.Millisecond) {
		m.cluster.mu.Lock()
		able := !m.cluster.silent && m.cluster.away == nil
		m.cluster.mu.Unlock()
		if !able {
			continue
		}
		for _, id := range m.cluster.revokeExpired(time.Duration(m.random(1500)) * time.Millisecond) {
			if id < modelLeases {
				m.t.Errorf("lease %d has ended, though its client pings it", id)
			}
		}
	}
}

func (m *keepaliveModel) faults() {
	errs := []error{rpctypes.ErrGRPCNoLeader, rpctypes.ErrGRPCNotLeader, rpctypes.ErrGRPCLeaderChanged, rpctypes.ErrGRPCStopped, rpctypes.ErrGRPCCanceled}
	for m.sleep(time.Second, 2*time.Second) {
		c := m.cluster
		end := func() {}
		switch m.random(5) {
		case 0:
			c.silence(true)
			end = func() { c.silence(false) }
		case 1:
			c.fail(errs[m.random(len(errs))])
			end = func() { c.fail(nil) }
		case 2:
			c.change(func() { c.closed, c.away = true, rpctypes.ErrGRPCStopped })
			m.sleep(0, time.Millisecond)
			c.fail(nil)
			end = func() { c.change(func() { c.closed = false }) }
		case 3:
			id := modelLeases + int64(m.random(modelLeases))
			c.change(func() { c.refuse[id] = rpctypes.ErrGRPCPermissionDenied })
		case 4: // nothing but a stumble
			c.fail(errs[m.random(len(errs))])
			c.fail(nil)
		}
		m.sleep(0, time.Second)
		end()
	}
}

func (m *keepaliveModel) ping(id int64) *modelPing { return m.pingLate(id, 0) }

// pingLate sends a ping that arrived so long ago.
func (m *keepaliveModel) pingLate(id int64, ago time.Duration) *modelPing {
	p := &modelPing{model: m, id: id, arrived: time.Now().Add(-ago), done: make(chan struct{})}
	m.mu.Lock()
	m.pings = append(m.pings, p)
	m.mu.Unlock()
	m.keepalives.Ping(id, p.arrived, p, 0)
	return p
}

// wait waits for the answer. It returns false when the run is over before.
func (p *modelPing) wait() bool {
	select {
	case <-p.done:
		return true
	case <-p.model.over:
		return false
	}
}

// Client is part of PingSink. Some have their pings in turn.
func (p *modelPing) Client() any {
	if p.id%2 == 0 {
		return nil
	}
	return p.id % 3
}

// Pong is part of PingSink.
func (p *modelPing) Pong(pong Pong) {
	p.model.mu.Lock()
	twice := !p.answered.IsZero()
	p.answered, p.pong = time.Now(), pong
	p.model.mu.Unlock()
	if twice {
		p.model.t.Errorf("the ping of lease %d at %v has been answered twice", p.id, p.arrived)
		return
	}
	if pong.Err == nil && pong.TTL == 0 {
		p.model.cluster.mu.Lock()
		if p.model.cluster.leases[p.id] != nil {
			p.model.t.Errorf("lease %d is said to be gone, and is not", p.id)
		}
		p.model.cluster.mu.Unlock()
	}
	close(p.done)
}

// check looks at all that has happened.
func (m *keepaliveModel) check() {
	t, c := m.t, m.cluster
	if c.streams != 0 || c.most > maxStreams {
		t.Errorf("%d streams are open, and %d were at a time", c.streams, c.most)
	}
	sent, lookups := byLease(c.sent), byLease(c.lookups)
	pings := map[int64][]*modelPing{}
	for _, p := range m.pings {
		pings[p.id] = append(pings[p.id], p)
		switch {
		case p.answered.IsZero():
			t.Errorf("the ping of lease %d at %v was not answered", p.id, p.arrived)
		case p.answered.Sub(p.arrived) > PingLife+answerSlack:
			t.Errorf("the ping of lease %d was answered after %v: %+v", p.id, p.answered.Sub(p.arrived), p.pong)
		case p.pong.ID != p.id:
			t.Errorf("lease %d was answered for %d", p.pong.ID, p.id)
		case p.pong.Err == nil:
			if !p.servedBy(sent) && (p.pong.TTL > 0 || !p.servedBy(lookups)) {
				t.Errorf("the ping of lease %d from %v to %v was answered by none that was sent meanwhile", p.id, p.arrived, p.answered)
			}
			m.answered++
		case errors.Is(p.pong.Err, rpctypes.ErrGRPCTimeout) && p.answered.Sub(p.arrived) < PingLife-lookupPause-deadlineGrain:
			t.Errorf("the ping of lease %d has timed out after %v", p.id, p.answered.Sub(p.arrived))
		case status.Code(p.pong.Err) == codes.PermissionDenied && c.refuse[p.id] == nil:
			t.Errorf("lease %d: %v", p.id, p.pong.Err)
		}
	}
	for _, s := range c.sent {
		wanted := false
		for _, p := range pings[s.id] {
			wanted = wanted || !s.when.Before(p.arrived) && !s.when.After(p.answered) && s.when.Sub(p.arrived) < PingLife
		}
		if !wanted {
			t.Errorf("lease %d was pinged at %v for nobody, or too late", s.id, s.when)
		}
	}
	if m.answered < 1000 || len(c.sent) < 1000 {
		t.Errorf("only %d pings were answered, and %d sent", m.answered, len(c.sent))
	}
}

// byLease returns when each lease was pinged.
func byLease(sent []sentPing) map[int64][]time.Time {
	m := map[int64][]time.Time{}
	for _, s := range sent {
		m[s.id] = append(m[s.id], s.when)
	}
	return m
}

// servedBy tells whether one of sent was sent while p waited.
func (p *modelPing) servedBy(sent map[int64][]time.Time) bool {
	return slices.ContainsFunc(sent[p.id], func(when time.Time) bool {
		return !when.Before(p.arrived) && !when.After(p.answered)
	})
}
