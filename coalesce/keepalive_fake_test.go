package coalesce

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// fakeCluster has leases, and streams of pings as a member of etcd's serves them, or one of weir's. It is used inside a synctest
// bubble, so that its clock is the test's.
type fakeCluster struct {
	ordered bool
	latency func() time.Duration // of a ping or a look-up; nil is none

	mu      sync.Mutex
	changed chan struct{} // closed and made anew when something below has changed
	leases  map[int64]*fakeLease
	silent  bool            // nothing is answered
	away    error           // what everybody is told
	refuse  map[int64]error // why leases may not be pinged
	hidden  map[int64]bool  // leases that may not be looked up
	closed  bool            // no stream is opened
	sticky  chan struct{}   // not nil: a stream that is cancelled ends only when this is closed
	streams int
	most    int // streams at a time
	sent    []sentPing
	lookups []sentPing
}

type fakeLease struct {
	ttl     int64
	expires time.Time
}

// sentPing is a ping, or a look-up, when it was sent.
type sentPing struct {
	id   int64
	when time.Time
}

func newFakeCluster(ordered bool) *fakeCluster {
	return &fakeCluster{
		ordered: ordered,
		changed: make(chan struct{}),
		leases:  map[int64]*fakeLease{},
		refuse:  map[int64]error{},
		hidden:  map[int64]bool{},
	}
}

// change changes c by f.
func (c *fakeCluster) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *fakeCluster) grant(id, ttl int64) {
	c.change(func() { c.leases[id] = &fakeLease{ttl, time.Now().Add(time.Duration(ttl) * time.Second)} })
}

// expireTwo has lease 2 expire, and does not revoke it.
func (c *fakeCluster) expireTwo() { c.change(func() { c.leases[2].expires = time.Now() }) }

func (c *fakeCluster) revoke(id int64) { c.change(func() { delete(c.leases, id) }) }

// revokeExpired revokes what has expired for long enough, and returns it.
func (c *fakeCluster) revokeExpired(after time.Duration) (revoked []int64) {
	c.change(func() {
		for id, l := range c.leases {
			if time.Since(l.expires) >= after {
				revoked = append(revoked, id)
				delete(c.leases, id)
			}
		}
	})
	return revoked
}

// fail ends all streams with err, and refuses everything with it until err is nil.
func (c *fakeCluster) fail(err error) { c.change(func() { c.away = err }) }

// seen returns how many streams there are, how many there were at a time, and what was sent on them.
func (c *fakeCluster) seen() (streams, most int, sent []sentPing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams, c.most, slices.Clone(c.sent)
}

func (c *fakeCluster) silence(on bool) { c.change(func() { c.silent = on }) }

// await waits until f, which is called with c.mu held, returns true.
func (c *fakeCluster) await(ctx context.Context, f func() bool) error {
	for {
		c.mu.Lock()
		ok, changed := f(), c.changed
		c.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
}

func (c *fakeCluster) pause(ctx context.Context) {
	if c.latency == nil {
		return
	}
	select {
	case <-time.After(c.latency()):
	case <-ctx.Done():
	}
}

// renew is one ping, which waits for an expired lease to be revoked.
func (c *fakeCluster) renew(ctx context.Context, id int64) (p Pong, err error) {
	c.pause(ctx)
	err = c.await(ctx, func() bool {
		l := c.leases[id]
		p = Pong{ID: id, Header: wire.Header{ClusterID: 1, MemberID: 2, Revision: int64(len(c.sent)), RaftTerm: 3}}
		switch {
		case c.silent:
			return false
		case c.away != nil:
			p.Err = c.away
		case c.refuse[id] != nil:
			p.Err = c.refuse[id]
		case l == nil:
		case !l.expires.After(time.Now()):
			return false
		default:
			l.expires = time.Now().Add(time.Duration(l.ttl) * time.Second)
			p.TTL = l.ttl
		}
		return true
	})
	return p, err
}

// Remaining is part of PingUpstream.
func (c *fakeCluster) Remaining(ctx context.Context, id int64) (ttl int64, h wire.Header, err error) {
	c.mu.Lock()
	c.lookups = append(c.lookups, sentPing{id, time.Now()})
	c.mu.Unlock()
	c.pause(ctx)
	if waited := c.await(ctx, func() bool {
		l := c.leases[id]
		switch {
		case c.silent:
			return false
		case c.away != nil:
			err = c.away
		case c.hidden[id]:
			err = rpctypes.ErrGRPCPermissionDenied
		case l == nil:
			ttl = -1
		default:
			ttl = int64(max(time.Until(l.expires), 0) / time.Second)
		}
		return true
	}); waited != nil {
		return 0, h, waited
	}
	return ttl, h, err
}

// Open is part of PingUpstream.
func (c *fakeCluster) Open(ctx context.Context) (PingStream, error) {
	if err := c.await(ctx, func() bool { return !c.closed }); err != nil {
		return nil, err
	}
	s := &fakePings{cluster: c, pings: make(chan int64, 1<<12), pongs: make(chan Pong, 1<<12)}
	s.ctx, s.cancel = context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away != nil {
		return nil, c.away
	}
	c.streams++
	c.most = max(c.most, c.streams)
	return s, nil
}

// fakePings is one stream.
type fakePings struct {
	cluster *fakeCluster
	ctx     context.Context
	cancel  context.CancelFunc
	pings   chan int64
	pongs   chan Pong
	waiting sync.WaitGroup // pings of an unordered stream
}

// Ordered is part of PingStream.
func (s *fakePings) Ordered() bool { return s.cluster.ordered }

// Send is part of PingStream.
func (s *fakePings) Send(ids []int64) error {
	s.cluster.mu.Lock()
	for _, id := range ids {
		s.cluster.sent = append(s.cluster.sent, sentPing{id, time.Now()})
	}
	s.cluster.mu.Unlock()
	for _, id := range ids {
		s.pings <- id
	}
	return s.ctx.Err()
}

// Recv is part of PingStream. It is the server, too.
func (s *fakePings) Recv() (pongs []Pong, err error) {
	p, err := s.next()
	if err != nil {
		if s.ctx.Err() != nil && s.cluster.sticky != nil {
			<-s.cluster.sticky
		}
		s.cancel()
		s.waiting.Wait()
		s.cluster.mu.Lock()
		s.cluster.streams--
		s.cluster.mu.Unlock()
		return nil, err
	}
	return []Pong{p}, nil
}

func (s *fakePings) next() (Pong, error) {
	for {
		c := s.cluster
		c.mu.Lock()
		away, changed := c.away, c.changed
		if c.silent {
			away = nil
		}
		c.mu.Unlock()
		if away != nil {
			return Pong{}, away
		}
		select {
		case id := <-s.pings:
			if c.ordered {
				p, err := c.renew(s.ctx, id)
				if err == nil {
					err = p.Err
				}
				return p, err
			}
			s.waiting.Go(func() {
				if p, err := c.renew(s.ctx, id); err == nil {
					s.pongs <- p
				}
			})
		case p := <-s.pongs:
			return p, nil
		case <-changed:
		case <-s.ctx.Done():
			return Pong{}, status.FromContextError(s.ctx.Err()).Err()
		}
	}
}

// fakeClient keeps what became of its pings.
type fakeClient struct {
	of any // Client

	mu      sync.Mutex
	answers []fakeAnswer
}

type fakeAnswer struct {
	Pong
	when time.Time
}

// Client is part of PingSink.
func (c *fakeClient) Client() any { return c.of }

// Pong is part of PingSink.
func (c *fakeClient) Pong(p Pong) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answers = append(c.answers, fakeAnswer{p, time.Now()})
}

// take returns the answers so far as text, by lease, and forgets them.
func (c *fakeClient) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	slices.SortStableFunc(c.answers, func(a, b fakeAnswer) int { return int(a.ID - b.ID) })
	var all []string
	for _, a := range c.answers {
		if a.Err != nil {
			all = append(all, fmt.Sprintf("%d: %s", a.ID, message(a.Err)))
		} else {
			all = append(all, fmt.Sprintf("%d: %d", a.ID, a.TTL))
		}
	}
	c.answers = nil
	return all
}

// slowest is how long after an instant the last answer came, and how many there were.
func (c *fakeClient) slowest(since time.Time) (n int, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.answers {
		d = max(d, a.when.Sub(since))
	}
	return len(c.answers), d
}
