package transport

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// cables are the TCP connections that one member dials. A test stalls, cuts and delays them.
type cables struct {
	mu         sync.Mutex // guards all below
	open       map[*cable]bool
	refusing   bool
	stallAfter int64         // bytes written on one connection, after which it stalls; 0 is never
	stalledTo  string        // the address to which all stall
	changed    chan struct{} // closed when the above change
	delay      time.Duration // of everything written
	dialled    []string
	stalls     chan *cable // those that begin to wait
}

func newCables() *cables {
	return &cables{open: map[*cable]bool{}, changed: make(chan struct{}), stalls: make(chan *cable, 100)}
}

// cable is one of them.
type cable struct {
	net.Conn
	all     *cables
	written int64
	address string
	closed  chan struct{}
	once    sync.Once
}

var errRefused = errors.New("connection refused by the test")

func (w *cables) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dialled = append(w.dialled, address)
	refusing := w.refusing
	w.mu.Unlock()
	if refusing {
		return nil, errRefused
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &cable{Conn: conn, all: w, address: address, closed: make(chan struct{})}
	w.mu.Lock()
	w.open[c] = true
	w.mu.Unlock()
	return c, nil
}

// count is how many connections there are.
func (w *cables) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.open)
}

// change changes how all connections behave from now on.
func (w *cables) change(f func(w *cables)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
	close(w.changed)
	w.changed = make(chan struct{})
}

// cut breaks every connection there is.
func (w *cables) cut() {
	w.mu.Lock()
	var open []*cable
	for c := range w.open {
		open = append(open, c)
	}
	w.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
}

// pass waits while the connection stalls.
func (c *cable) pass() error {
	for first := true; ; first = false {
		w := c.all
		w.mu.Lock()
		stalled := w.stalledTo == c.address || w.stallAfter > 0 && c.written > w.stallAfter
		changed, delay := w.changed, w.delay
		w.mu.Unlock()
		if !stalled {
			if delay > 0 {
				time.Sleep(delay) // the network's latency
			}
			return nil
		}
		if first {
			select {
			case w.stalls <- c:
			default:
			}
		}
		select {
		case <-changed:
		case <-c.closed:
			return net.ErrClosed
		}
	}
}

func (c *cable) Write(b []byte) (int, error) {
	if err := c.pass(); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(b)
	c.all.mu.Lock()
	c.written += int64(n)
	c.all.mu.Unlock()
	return n, err
}

func (c *cable) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		return n, err
	}
	for {
		c.all.mu.Lock()
		stalled, changed := c.all.stalledTo == c.address, c.all.changed
		c.all.mu.Unlock()
		if !stalled {
			return n, nil
		}
		select {
		case <-changed:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
}

func (c *cable) Close() error {
	c.once.Do(func() { close(c.closed) })
	c.all.mu.Lock()
	delete(c.all.open, c)
	c.all.mu.Unlock()
	return c.Conn.Close()
}
