package drain

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"weir/loadtest/target/targettest"
)

// crowd is clients of etcd's that watch, and some of which read, write and keep leases, while servers come and go. None of them may
// see an error.
type crowd struct {
	*targettest.Site
	stop    context.CancelFunc
	load    context.Context
	loading sync.WaitGroup

	written  atomic.Int64 // the number of the last key that was written
	done     atomic.Int64 // requests that were answered
	watchers []*watcher
	watching sync.WaitGroup
}

const (
	// puts of the writer are below watched, one after another.
	watched = "watched/"
	// requestTimeout is long enough for a machine that is busy.
	requestTimeout = 30 * time.Second
	leaseTTL       = 60 // seconds
)

// newCrowd starts a writer at the store, and clients, each with all endpoints.
func newCrowd(s *targettest.Site, clients int, endpoints ...string) *crowd {
	s.Helper()
	c := &crowd{Site: s}
	c.load, c.stop = context.WithCancel(s.Ctx)
	store := newClient(s, s.Cluster.Endpoints()...)
	first := c.write(store, 1)
	c.loading.Go(func() {
		for n := int64(2); c.load.Err() == nil; n++ {
			c.write(store, n)
			pause(c.load, 2*time.Millisecond)
		}
	})
	for i := range clients {
		client := newClient(s, endpoints...)
		w := newWatcher(s, fmt.Sprintf("watcher %d", i))
		c.watchers = append(c.watchers, w)
		c.watching.Go(func() { w.watch(s, client, first) })
		if i%4 == 0 {
			c.loading.Go(func() { c.use(client, i) })
		}
	}
	s.Cleanup(c.leave) // before what the clients need ends
	c.advance("the crowd has begun")
	return c
}

func newClient(t testing.TB, endpoints ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("close client: %v", err)
		}
	})
	return c
}

// write writes the nth key and returns its revision.
func (c *crowd) write(client *clientv3.Client, n int64) int64 {
	r, err := client.Put(c.Ctx, watched+strconv.FormatInt(n, 10), "value")
	if err != nil {
		if c.Ctx.Err() == nil {
			c.Errorf("write at the store: %v", err)
		}
		return 0
	}
	c.written.Store(n)
	return r.Header.Revision
}

// use writes and reads own keys, and keeps a lease alive, until the load ends.
func (c *crowd) use(client *clientv3.Client, i int) {
	key := fmt.Sprintf("own/%d", i)
	grant, err := client.Grant(c.Ctx, leaseTTL)
	if err != nil {
		c.Errorf("client %d: grant a lease: %v", i, err)
		return
	}
	alive, err := client.KeepAlive(c.load, grant.ID)
	if err != nil {
		c.Errorf("client %d: keep a lease alive: %v", i, err)
		return
	}
	c.loading.Go(func() {
		for range alive { // until the load ends, or the lease is lost
		}
		if c.load.Err() == nil {
			c.Errorf("client %d has lost its lease", i)
		}
	})
	for n := 0; c.load.Err() == nil; n++ {
		if err := c.roundtrip(client, key, strconv.Itoa(n), grant.ID); err != nil {
			c.Errorf("client %d: %v", i, err)
			return
		}
		c.done.Add(1)
		pause(c.load, time.Millisecond)
	}
}

// roundtrip writes a value and reads it, and keys of others with it.
func (c *crowd) roundtrip(client *clientv3.Client, key, value string, lease clientv3.LeaseID) error {
	ctx, cancel := context.WithTimeout(c.Ctx, requestTimeout)
	defer cancel()
	if _, err := client.Put(ctx, key, value, clientv3.WithLease(lease)); err != nil {
		return fmt.Errorf("put %s: %w", value, err)
	}
	r, err := client.Get(ctx, key)
	if err != nil {
		return fmt.Errorf("get: %w", err)
	}
	if len(r.Kvs) != 1 || string(r.Kvs[0].Value) != value {
		return fmt.Errorf("got %v after put %s", r.Kvs, value)
	}
	if _, err := client.Get(ctx, "own/", clientv3.WithPrefix(), clientv3.WithSerializable()); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	return nil
}

// advance waits until every watcher has seen what was written before it was called and something more, and until requests have
// been answered.
func (c *crowd) advance(when string) {
	c.Helper()
	to, done := c.written.Load()+20, c.done.Load()+20
	c.Eventually(time.Minute, when, func() error {
		if c.Failed() {
			c.FailNow()
		}
		for _, w := range c.watchers {
			if at := w.last.Load(); at < to {
				return fmt.Errorf("%s is at %d of %d", w.name, at, to)
			}
		}
		if len(c.watchers) > 0 && c.done.Load() < done {
			return fmt.Errorf("%d of %d requests are answered", c.done.Load(), done)
		}
		return nil
	})
}

// end ends the load, and looks whether each watcher has seen everything.
func (c *crowd) end() {
	c.Helper()
	c.stop()
	c.loading.Wait()
	last := c.written.Load()
	for _, w := range c.watchers {
		c.Eventually(time.Minute, w.name+" sees everything", func() error {
			if c.Failed() {
				c.FailNow()
			}
			if at := w.last.Load(); at != last {
				return fmt.Errorf("it is at %d of %d", at, last)
			}
			return nil
		})
	}
	c.Logf("%d writes seen by %d watchers, %d rounds of requests", last, len(c.watchers), c.done.Load())
}

// leave ends everything.
func (c *crowd) leave() {
	c.stop()
	for _, w := range c.watchers {
		w.cancel()
	}
	c.loading.Wait()
	c.watching.Wait()
}

// watcher is a watch of everything that the writer writes, from the first on.
type watcher struct {
	name   string
	last   atomic.Int64 // the number of the key that was seen last
	ctx    context.Context
	cancel context.CancelFunc
}

func newWatcher(s *targettest.Site, name string) *watcher {
	w := &watcher{name: name}
	w.ctx, w.cancel = context.WithCancel(s.Ctx)
	return w
}

// watch ends with cancel.
func (w *watcher) watch(s *targettest.Site, client *clientv3.Client, from int64) {
	for r := range client.Watch(w.ctx, watched, clientv3.WithPrefix(), clientv3.WithRev(from)) {
		if err := r.Err(); err != nil && w.ctx.Err() == nil {
			s.Errorf("%s: %v", w.name, err)
			return
		}
		for _, e := range r.Events {
			next := w.last.Load() + 1
			if want := watched + strconv.FormatInt(next, 10); string(e.Kv.Key) != want {
				s.Errorf("%s got %s, want %s", w.name, e.Kv.Key, want)
				return
			}
			w.last.Store(next)
		}
	}
	if w.ctx.Err() == nil {
		s.Errorf("%s: the watch has ended", w.name)
	}
}

// pause is what a client does between two requests.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
