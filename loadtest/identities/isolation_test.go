package identities

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// places are where isolation is tested; the first proves the test.
var places = []place{
	{kind: target.Etcd37},
	{kind: target.Etcd37, signed: true},
	{kind: target.Core},
	{kind: target.ProxyEtcd37},
	{kind: target.ProxyEtcd37, own: asReader},
	{kind: target.ProxyEtcd37, own: asRoot},
	{kind: target.ProxyEtcd37, own: asRoot, signed: true},
	{kind: target.ProxyCore},
	{kind: target.ProxyCore, own: asReader},
	{kind: target.ProxyCore, own: asRoot},
	{kind: target.ProxyProxyEtcd37, own: asReader},
	{kind: target.ProxyProxyCore, own: asRoot},
}

// Several users, nobody and a liar send random requests through one proxy, while their rights change. Each is given
// what etcd would give, and nothing else.
func TestIsolationOfIdentities(t *testing.T) {
	for _, p := range places {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			rng := targettest.Random(t, *seed)
			s := p.start(t)
			l := s.newLoad(p, rng)
			if rng.IntN(2) == 0 {
				l.root.enable()
				s.StartProxies(s.Cluster.Endpoints())
			} else {
				s.StartProxies(s.Cluster.Endpoints())
				l.root.enable()
			}
			c := l.run(s.Endpoint(), *rounds)
			for i, what := range c.wrong {
				if i == 10 {
					s.Errorf("and %d more", len(c.wrong)-i)
					break
				}
				s.Error(what)
			}
			if s.Failed() {
				s.Logf("changes of rights:\n%v", l.root.ledger)
			}
			s.Logf("%d changes of rights; %s", l.changes.made, c.summary())
			l.wantEnough(c)
			if p.own != asNobody {
				hits := s.hits()
				s.Logf("%d reads were answered from memory", hits)
				targettest.Want(s, "anything was read from memory", hits > 0, true)
			}
		})
	}
}

// load is the clients of a place, and what becomes of their rights.
type load struct {
	*site
	place   place
	rng     *rand.Rand
	root    *root
	changes *changes
	apart   time.Duration // one request of a client is after the one before, in the mean

	onlyReads bool // with gRPC

	clients  []*client
	watchers []*watcher
}

func (s *site) newLoad(p place, rng *rand.Rand) *load {
	r := newRoot(s, targettest.Dial(s, s.Cluster.Members[0].Addr), p.signed)
	l := &load{site: s, place: p, rng: rng, root: r, apart: 25 * time.Millisecond}
	l.changes = &changes{root: r, rng: random(rng), proxyRole: string(p.own)}
	l.changes.prepare()
	for i, keys := range leased {
		_, err := r.lease.LeaseGrant(s.Ctx, &pb.LeaseGrantRequest{ID: int64(i + 1), TTL: 1e6})
		s.Must(err)
		for _, key := range keys {
			_, err := r.put(key, "of "+key, int64(i+1))
			s.Must(err)
		}
	}
	return l
}

// random is one more source, for another goroutine.
func random(rng *rand.Rand) *rand.Rand { return rand.New(rand.NewPCG(rng.Uint64(), 0)) }

// client is one more, of a user or nobody, at an address. Some share one connection.
func (l *load) client(name, user, addr string, i int) *client {
	c := &client{
		root: l.root, name: name, user: user, rng: random(l.rng), onlyReads: l.onlyReads,
		addr: addr, http: &http.Client{Transport: &http.Transport{}},
	}
	l.Cleanup(c.http.CloseIdleConnections)
	if i%2 == 0 && len(l.clients) > 0 {
		c.conn = l.clients[0].conn
	} else {
		c.conn = targettest.Dial(l, addr)
	}
	return c
}

// dialAll makes two clients and two watchers of each user, and as many of nobody.
func (l *load) dialAll(addr string) {
	l.Helper()
	for _, user := range append([]string{""}, userNames...) {
		for i := range 2 {
			l.clients = append(l.clients, l.client(fmt.Sprintf("client %d of %q", i, user), user, addr, i))
			if !l.onlyReads {
				l.watchers = append(l.watchers, &watcher{client: l.client(fmt.Sprintf("watcher %d of %q", i, user), user, addr, i)})
			}
		}
	}
}

// run lets the clients live at an address for some rounds of changes, and checks what they were given.
func (l *load) run(addr string, rounds int) *checker {
	l.Helper()
	if len(l.clients) == 0 {
		l.dialAll(addr)
	}
	ctx, stop := context.WithCancel(l.Ctx)
	defer stop()
	var living sync.WaitGroup
	for _, c := range l.clients {
		living.Go(func() { c.live(ctx, l.apart) })
	}
	for _, w := range l.watchers {
		living.Go(func() { w.live(ctx) })
	}
	written := errors.New("nothing was written")
	living.Go(func() { written = l.write(ctx) })
	for range rounds {
		l.changes.round(ctx)
	}
	stop()
	living.Wait()
	l.Must(written)
	return l.check()
}

// write writes as root, so that there is something to be given.
func (l *load) write(ctx context.Context) error {
	c := &client{root: l.root, name: "root", rng: random(l.rng)}
	for pause(ctx, time.Duration(c.rng.IntN(20))*time.Millisecond) {
		key := c.randomKey()
		if _, err := l.root.put(key, c.value(key), 0); err != nil {
			return err
		}
	}
	return nil
}

// check checks all that there was.
func (l *load) check() *checker {
	l.Helper()
	last, err := l.root.put("/end", "of /end", 0)
	l.Must(err)
	c := &checker{ledger: l.root.ledger, promises: promised(l.place.kind, l.place.own), own: l.place.own, leases: map[int64][]string{}}
	for i, keys := range leased {
		c.leases[int64(i+1)] = keys
	}
	c.history = l.root.history(last)
	var ops []*op
	for _, one := range l.clients {
		ops = append(ops, one.ops...)
	}
	var streams []*watchStream
	for _, w := range l.watchers {
		ops, streams = append(ops, w.ops...), append(streams, w.streams...)
	}
	c.all(l.root.writes, ops, streams)
	return c
}

// wantEnough fails the test if it has not seen what it is about.
func (l *load) wantEnough(c *checker) {
	l.Helper()
	for _, what := range []string{"answers", "refusals", "watches", "watches refused", "events"} {
		if c.counts[what] == 0 {
			l.Errorf("there were no %s", what)
		}
	}
}
