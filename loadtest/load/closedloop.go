package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"weir/loadtest/client"
)

// ClosedLoop is clients each of which has one request under way, and asks again as soon as it is answered.
//
// The goroutine that reads a connection also checks its answers and sends the next requests, all of those in one write whose
// answers came in one read: so a client costs little on the machine that it shares with the servers. Rejected: a
// goroutine for each client, which costs more than some of the servers.
//
// Its methods are called one after the other.
type ClosedLoop struct {
	place   Place
	clients Clients
	track   func(i int) Track
	group   *client.Group // nil before Connect
	links   []*link

	stopping atomic.Bool  // nobody asks again
	asking   atomic.Int64 // clients that have not stopped
	stopped  chan struct{}
}

// Clients are who asks in a ClosedLoop.
type Clients struct {
	Connections int
	PerConn     int // clients on each connection
	// Client makes the i-th client; those of one connection follow each other.
	Client func(i int) Requester
	// Beside, if it is not nil, is done while the clients ask. It returns when its context ends, which is no error.
	Beside func(ctx context.Context) error
}

// Requester says what one client asks for. Its methods are called one after the other, but not by one goroutine.
type Requester interface {
	// Next is the next request, encoded. It is sent before Next is called again. The client stops with io.EOF.
	Next() (method client.Method, request []byte, err error)
	// Check looks at the answer to the last request, of which it may keep nothing, and returns how many bytes of values
	// were sent or received. An error ends the load.
	Check(answer []byte) (bytes int, err error)
}

// link is a connection, with who waits for what comes on it.
type link struct {
	loop  *ClosedLoop
	conn  *client.Conn
	track Track // its reader's

	mu      sync.Mutex // guards the fields below; it is held while a request is sent, as the answer may come at once
	callers map[uint32]*caller
}

// caller is a client of a ClosedLoop, under the lock of its link.
type caller struct {
	Requester
	begun    time.Time
	answered bool
	bytes    int
}

// NewClosedLoop is not connected yet. What the i-th connection is answered goes to the i-th track.
func NewClosedLoop(p Place, c Clients, track func(i int) Track) *ClosedLoop {
	return &ClosedLoop{place: p, clients: c, track: track, stopped: make(chan struct{})}
}

// Connect connects the clients. Close must be called, also after an error. Whatever goes wrong later, ctx's end too, is an error of Run.
func (l *ClosedLoop) Connect(ctx context.Context) error {
	l.group = client.NewGroup(ctx)
	for i := range l.clients.Connections {
		l.links = append(l.links, &link{loop: l, callers: map[uint32]*caller{}, track: l.track(i)})
	}
	conns, err := l.group.Connect(len(l.links), l.place.Endpoint, l.place.Client, func(i int) client.Handler { return l.links[i] })
	if err != nil {
		return err
	}
	for i, k := range l.links {
		k.conn = conns[i]
	}
	return nil
}

// Run has all clients ask until stop ends, or until all have stopped, and returns when what is under way is answered. It may be called once.
func (l *ClosedLoop) Run(ctx context.Context, stop <-chan struct{}) error {
	var beside sync.WaitGroup
	defer beside.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if l.clients.Beside != nil {
		beside.Go(func() {
			if err := l.clients.Beside(ctx); err != nil {
				l.group.Fail(err)
			}
		})
	}
	l.asking.Store(int64(len(l.links) * l.clients.PerConn))
	for i, k := range l.links {
		if err := k.begin(i * l.clients.PerConn); err != nil {
			return err
		}
	}
	select {
	case <-stop:
	case <-l.stopped:
	case <-l.group.Failed().Done():
		return context.Cause(l.group.Failed())
	}
	l.stopping.Store(true)
	select {
	case <-l.stopped:
	case <-l.group.Failed().Done():
	case <-time.After(Patience):
		return fmt.Errorf("%v after the last request there is no answer to %d requests", Patience, l.asking.Load())
	}
	return context.Cause(l.group.Failed())
}

// Fail ends Run with an error, if it is called after Connect.
func (l *ClosedLoop) Fail(err error) { l.group.Fail(err) }

// Close ends the connections.
func (l *ClosedLoop) Close() error {
	if l.group == nil {
		return nil
	}
	return l.group.Close()
}

// begin sends the first requests of a link's clients, of whom the first has the number first.
func (k *link) begin(first int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.loop.clients.PerConn {
		if err := k.ask(&caller{Requester: k.loop.clients.Client(first + i)}); err != nil {
			return err
		}
	}
	return k.conn.Flush()
}

// ask sends the next request of a client, if there is to be one, under the lock.
func (k *link) ask(c *caller) error {
	if k.loop.stopping.Load() {
		k.loop.stops()
		return nil
	}
	method, request, err := c.Next()
	if errors.Is(err, io.EOF) {
		k.loop.stops()
		return nil
	}
	if err != nil {
		return err
	}
	c.begun, c.answered = time.Now(), false
	rpc, err := k.conn.Call(method, request)
	k.callers[rpc] = c
	return err
}

// stops notes that a client has.
func (l *ClosedLoop) stops() {
	if l.asking.Add(-1) == 0 {
		close(l.stopped)
	}
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
	c.bytes, err = c.Check(m)
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
