package suite

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"weir/loadtest/client"
)

// closedLoop is a Load of clients each of which has one request under way, and asks again as soon as it is answered.
//
// The goroutine that reads a connection also checks its answers and sends the next requests, all of those in one write whose
// answers came in one read: so a client costs little on the machine that it shares with the servers. Rejected: a
// goroutine for each client, which costs more than some of the servers.
type closedLoop struct {
	system   *System
	recorder *Recorder
	options  closedLoopOptions
	group    *client.Group // nil before Connect
	links    []*link

	stopping atomic.Bool  // nobody asks again
	asking   atomic.Int64 // clients that have not stopped
	stopped  chan struct{}
}

// closedLoopOptions are who the clients of a closedLoop are.
type closedLoopOptions struct {
	Connections int
	PerConn     int // clients on each connection
	// Client makes the i-th client; those of one connection follow each other.
	Client func(i int) requester
	// Beside, if it is not nil, is done while the clients ask. It returns when its context ends, which is no error.
	Beside func(ctx context.Context) error
}

// requester says what one client asks for. Its methods are called one after the other, but not by one goroutine.
type requester interface {
	// next is the next request, encoded. It is sent before next is called again.
	next() (method client.Method, request []byte, err error)
	// check looks at the answer to the last request, of which it may keep nothing, and returns how many bytes of values
	// were sent or received. An error ends the turn.
	check(answer []byte) (bytes int, err error)
}

// link is a connection, with who waits for what comes on it.
type link struct {
	loop *closedLoop
	conn *client.Conn

	mu      sync.Mutex // guards the fields below; it is held while a request is sent, as the answer may come at once
	callers map[uint32]*caller
	track   *Track
}

// caller is a client of a closedLoop, under the lock of its link.
type caller struct {
	requester
	begun    time.Time
	answered bool
	bytes    int
}

func newClosedLoop(s *System, r *Recorder, o closedLoopOptions) *closedLoop {
	return &closedLoop{system: s, recorder: r, options: o, stopped: make(chan struct{})}
}

// Connect connects the clients.
func (l *closedLoop) Connect(ctx context.Context) error {
	l.group = client.NewGroup(ctx)
	for range l.options.Connections {
		l.links = append(l.links, &link{loop: l, callers: map[uint32]*caller{}, track: l.recorder.Track()})
	}
	conns, err := l.group.Connect(len(l.links), l.system.Endpoint, l.system.Client, func(i int) client.Handler { return l.links[i] })
	if err != nil {
		return err
	}
	for i, k := range l.links {
		k.conn = conns[i]
	}
	return nil
}

// Run has all clients ask.
func (l *closedLoop) Run(ctx context.Context, stop <-chan struct{}) error {
	var beside sync.WaitGroup
	defer beside.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if l.options.Beside != nil {
		beside.Go(func() {
			if err := l.options.Beside(ctx); err != nil {
				l.group.Fail(err)
			}
		})
	}
	l.asking.Store(int64(len(l.links) * l.options.PerConn))
	for i, k := range l.links {
		if err := k.begin(i * l.options.PerConn); err != nil {
			return err
		}
	}
	select {
	case <-stop:
	case <-l.group.Failed().Done():
		return context.Cause(l.group.Failed())
	}
	l.stopping.Store(true)
	return await(l.group, l.stopped, func() string { return fmt.Sprintf("%d requests", l.asking.Load()) })
}

// patience is how long a system may take for what it was asked for, after the last request.
const patience = 30 * time.Second

// await waits until done is closed, or something goes wrong with the connections. If it takes longer than patience, what is missing
// is the error.
func await(g *client.Group, done <-chan struct{}, missing func() string) error {
	select {
	case <-done:
		return context.Cause(g.Failed())
	case <-g.Failed().Done():
		return context.Cause(g.Failed())
	case <-time.After(patience):
		return fmt.Errorf("%v after the last request there is no answer to %s", patience, missing())
	}
}

// Close ends the connections.
func (l *closedLoop) Close() error {
	if l.group == nil {
		return nil
	}
	return l.group.Close()
}

// begin sends the first requests of a link's clients, of whom the first has the number first.
func (k *link) begin(first int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.loop.options.PerConn {
		if err := k.ask(&caller{requester: k.loop.options.Client(first + i)}); err != nil {
			return err
		}
	}
	return k.conn.Flush()
}

// ask sends the next request of a client, if there is to be one, under the lock.
func (k *link) ask(c *caller) error {
	if k.loop.stopping.Load() {
		if k.loop.asking.Add(-1) == 0 {
			close(k.loop.stopped)
		}
		return nil
	}
	method, request, err := c.next()
	if err != nil {
		return err
	}
	c.begun, c.answered = time.Now(), false
	rpc, err := k.conn.Call(method, request)
	k.callers[rpc] = c
	return err
}

// Message is given an answer.
func (k *link) Message(rpc uint32, m []byte) (err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.callers[rpc]
	if c == nil || c.answered {
		return errors.New("an answer to nothing that was asked")
	}
	c.answered = true
	c.bytes, err = c.check(m)
	return err
}

// End counts an answer, and has its client ask again.
func (k *link) End(rpc uint32, err error) error {
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.callers[rpc]
	if c == nil || !c.answered {
		return errors.New("the server ended an RPC without an answer")
	}
	delete(k.callers, rpc)
	k.track.Done(c.begun, c.bytes)
	return k.ask(c)
}
