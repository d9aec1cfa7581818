package feed

import (
	"context"
	"errors"
	"sync"

	"weir/coalesce"
)

// modelClient is one client's stream, as grpcapi serves it. As a coalesce.Sink it checks all that it is given.
type modelClient struct {
	m      *model
	name   int
	stream *coalesce.Stream
	ctx    context.Context
	cancel context.CancelFunc

	// What it asks is done in order by one goroutine.
	requests chan func()
	done     chan struct{}

	mu        sync.Mutex // guards the fields below, and watches' fields; taken before cluster.mu
	watches   []*modelWatch
	announced int
	room      int // messages that it takes before it refuses
	refused   bool
	asked     []int64 // what was known of the store at the time of each unanswered request for progress
	dropped   []int64 // those that need not be answered
	ended     error
	closed    bool
	apart     context.Context // of a stream that is forwarded
}

// client returns one that is not closed, or nil.
func (m *model) client() *modelClient {
	if len(m.clients) == 0 {
		return nil
	}
	return m.clients[m.rnd.IntN(len(m.clients))]
}

// newClient returns nil if the client's stream would be forwarded.
func (m *model) newClient() *modelClient {
	c := &modelClient{
		m: m, name: m.names, room: m.rnd.IntN(10),
		requests: make(chan func(), 1000), done: make(chan struct{}),
	}
	m.names++
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.stream = m.hub.NewStream(c) // before Share is called, as in grpcapi
	go func() {
		defer close(c.done)
		apart, err := m.set.Share(c.ctx)
		if err != nil && !m.faults.cuts && c.ctx.Err() == nil {
			m.fail("client %d: cannot share: %v", c.name, err)
		}
		if apart != nil && !m.hadAuth() {
			m.fail("client %d is not shared", c.name)
		}
		if apart != nil || err != nil {
			c.forward(apart)
			return
		}
		for {
			select {
			case do := <-c.requests:
				do()
			case <-c.ctx.Done():
				return
			}
		}
	}()
	m.clients = append(m.clients, c)
	return c
}

// forward is when the client's stream turns out to be none of the Set's business.
func (c *modelClient) forward(apart context.Context) {
	c.mu.Lock()
	c.closed, c.apart = true, apart
	if c.ended == nil {
		c.ended = errors.New("forwarded")
	}
	c.mu.Unlock()
	c.stream.Close()
}

func (c *modelClient) close() {
	c.mu.Lock()
	c.closed = true
	for _, w := range c.watches {
		w.over = true
	}
	c.mu.Unlock()
	c.cancel()
	<-c.done
	c.stream.Close()
}

func (c *modelClient) watch(o coalesce.Watch) {
	m := c.m
	w := &modelWatch{watch: o, called: m.known()}
	_, epochs := m.epochsNow()
	w.recent = epochs[len(epochs)-1]
	since := m.hub.Arrive()
	c.mu.Lock()
	w.ID = int64(len(c.watches))
	c.watches = append(c.watches, w)
	m.note("client %d: %v", c.name, w)
	c.mu.Unlock()
	c.requests <- func() {
		err := c.stream.Watch(c.ctx, &w.Watcher, o, since)
		c.mu.Lock()
		defer c.mu.Unlock()
		_, epochs := m.epochsNow()
		switch {
		case (err == nil) != w.created && c.ended == nil && !c.closed:
			m.fail("client %d: %v has the error %v, created %v", c.name, w, err, w.created)
		case err == nil:
		case c.ctx.Err() != nil, m.hadAuth():
			w.canceled = err
		case isReplaced(err) && epochs[len(epochs)-1] != epochs[0]:
			w.canceled = err
		default:
			m.fail("client %d: %v is refused: %v", c.name, w, err)
		}
	}
}

func (c *modelClient) drain(room int) {
	c.mu.Lock()
	c.room = max(c.room, room)
	refused := c.refused && c.room > 0
	if refused {
		c.refused = false
	}
	c.mu.Unlock()
	if refused {
		c.stream.Drained()
	}
}

func (c *modelClient) requestProgress() {
	head, since := c.m.known(), c.m.hub.Arrive()
	_, then := c.m.epochsNow()
	c.requests <- func() {
		c.mu.Lock()
		if _, now := c.m.epochsNow(); len(now) != len(then) {
			head = 0
		}
		c.asked = append(c.asked, head)
		c.dropAsked()
		c.mu.Unlock()
		c.stream.RequestProgress(since)
	}
}

// known is what a client may have been told of through the proxy, which sends everything to the member that the session
// is on. Between two sessions it is no matter: the next one is on a member that has caught up.
func (m *model) known() int64 {
	m.set.mu.Lock()
	defer m.set.mu.Unlock()
	if m.set.session == nil {
		return 0
	}
	member := m.set.session.member.(*fakeConn).member
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	return member.rev
}
