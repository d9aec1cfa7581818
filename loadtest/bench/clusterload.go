package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"weir/loadtest/client"
	"weir/loadtest/load"
	"weir/loadtest/target"
)

// clusterLoad is all clients of one target in one turn.
//
// Clients who ask the members in turn share connections, as many to each member as there are. Rejected: clients that stay
// with one member, which costs the load less, but etcd's client moves on, and one client alone would never meet the others.
type clusterLoad struct {
	*clients
	links   []*link // to the members in turn
	callers []*caller

	measuring atomic.Bool // answers that come now count
	stopping  atomic.Bool // nobody asks again
	finished  counter     // clients that ask no more
}

// link is a connection, with who waits for what comes on it.
type link struct {
	load *clusterLoad
	conn *client.Conn

	mu      sync.Mutex // guards callers, and is held while one of them asks: the answer may come at once
	callers map[uint32]*caller
}

// caller is a client. What it is belongs to who holds the lock of the link on which it waits.
type caller struct {
	requests *clusterRequests
	links    []*link // to one member each, which it asks in turn
	turn     int     // of the one that it asks next
	sent     time.Time
	answered bool
	latency  *hdrhistogram.Histogram // in microseconds
}

// loadCluster is one turn.
func loadCluster(ctx context.Context, tg *target.Target, s ClusterScenario, o ClusterOptions) (t *clusterTurn, err error) {
	servers := entries(tg)
	if s.LeaderOnly && tg.Kind.Proxies() == 0 {
		leader, err := leaderOf(ctx, tg)
		if err != nil {
			return nil, err
		}
		servers = []*target.Server{leader}
	}
	l, err := newClusterLoad(ctx, tg, servers, s, o)
	if err != nil {
		return nil, err
	}
	t = &clusterTurn{}
	return t, errors.Join(t.measure(l, o), l.Close())
}

// measure measures once the warm-up is over.
func (t *clusterTurn) measure(l *clusterLoad, o ClusterOptions) error {
	done, err := l.start()
	if err != nil {
		return err
	}
	if err := wait(l.Failed(), o.WarmUp); err != nil {
		return err
	}
	start := time.Now()
	cpu, err := cpuOf(l.target.Processes(), func() error {
		l.measuring.Store(true)
		defer l.measuring.Store(false)
		return wait(l.Failed(), o.Turn)
	})
	t.took, t.cpu = time.Since(start), sum(cpu)
	if err != nil {
		return err
	}
	l.stopping.Store(true)
	if err := l.await(done, &l.finished, "answers"); err != nil {
		return err
	}
	t.latency = load.NewHistogram()
	for _, c := range l.callers {
		t.latency.Merge(c.latency)
	}
	if t.latency.TotalCount() == 0 {
		return fmt.Errorf("no answer in %v", o.Turn)
	}
	return nil
}

// newClusterLoad connects the clients.
func newClusterLoad(ctx context.Context, tg *target.Target, servers []*target.Server, s ClusterScenario, o ClusterOptions) (*clusterLoad, error) {
	l := &clusterLoad{clients: newClients(ctx, tg)}
	each := min(o.Connections, s.Clients)
	for range each * len(servers) {
		l.links = append(l.links, &link{load: l, callers: map[uint32]*caller{}})
	}
	addr := func(i int) string { return servers[i%len(servers)].Addr }
	conns, err := l.connect(addr, len(l.links), func(i int) client.Handler { return l.links[i] })
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	for i, k := range l.links {
		k.conn = conns[i]
	}
	value := slices.Repeat([]byte("w"), o.ValueSize)
	for i := range s.Clients {
		first := i % each * len(servers)
		l.callers = append(l.callers, &caller{
			requests: &clusterRequests{workload: s.Workload, own: fmt.Appendf(nil, "own/%08d", i), keys: o.Keys, value: value},
			links:    l.links[first : first+len(servers)],
			turn:     rand.IntN(len(servers)),
			latency:  load.NewHistogram(),
		})
	}
	return l, nil
}

// start sends the first request of each client. The channel is closed when all have stopped.
func (l *clusterLoad) start() (<-chan struct{}, error) {
	done := l.finished.expect(int64(len(l.callers)))
	for _, c := range l.callers {
		if err := c.ask(); err != nil {
			return nil, err
		}
	}
	return done, nil
}

// ask sends the next request.
func (c *caller) ask() error {
	k := c.links[c.turn]
	c.turn = (c.turn + 1) % len(c.links)
	request, err := c.requests.next()
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	c.sent, c.answered = time.Now(), false
	rpc, err := k.conn.Call(c.requests.workload.method(), request)
	if err != nil {
		return err
	}
	k.callers[rpc] = c
	return k.conn.Flush()
}

// Message is given an answer.
func (k *link) Message(rpc uint32, m []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.callers[rpc]
	if c == nil || c.answered {
		return errors.New("an answer to nothing that was asked")
	}
	c.answered = true
	return c.requests.check(m)
}

// End takes the latency of a request, and has its client send the next.
func (k *link) End(rpc uint32, err error) error {
	if err != nil {
		return err
	}
	c, err := k.take(rpc)
	if err != nil {
		return err
	}
	if k.load.stopping.Load() {
		return k.load.finished.add(1)
	}
	return c.ask()
}

func (k *link) take(rpc uint32) (*caller, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.callers[rpc]
	if c == nil || !c.answered {
		return nil, errors.New("the server ended an RPC without an answer")
	}
	delete(k.callers, rpc)
	if k.load.measuring.Load() {
		load.Record(c.latency, time.Since(c.sent))
	}
	return c, nil
}
