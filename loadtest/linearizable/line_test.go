package linearizable

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// line is a long way to a server: what is sent arrives later, by a random time, in order. A proxy at the end of one is told of
// writes after clients elsewhere have been, which leaves far more time to be wrong in than the loopback does.
type line struct {
	addr string // where it begins
	to   string
	late time.Duration // at most

	mu   sync.Mutex // guards open
	open map[net.Conn]struct{}

	tasks sync.WaitGroup
}

// lineTo is a line that ends with the test.
func (s *site) lineTo(addr string, late time.Duration) *line {
	s.Helper()
	listener, err := new(net.ListenConfig).Listen(s.ctx, "tcp", "127.0.0.1:0")
	s.must(err)
	l := &line{addr: listener.Addr().String(), to: addr, late: late, open: map[net.Conn]struct{}{}}
	l.tasks.Go(func() { l.accept(s.ctx, listener) })
	s.Cleanup(func() {
		_ = listener.Close()
		l.cut()
		l.tasks.Wait()
	})
	return l
}

func (l *line) accept(ctx context.Context, listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := new(net.Dialer).DialContext(ctx, "tcp", l.to)
		if err != nil {
			_ = client.Close()
			continue
		}
		l.mu.Lock()
		for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
			l.open[way[0]] = struct{}{}
			sent := make(chan piece, 1024)
			l.tasks.Go(func() { l.take(way[0], sent) })
			l.tasks.Go(func() { l.give(way, sent) })
		}
		l.mu.Unlock()
	}
}

// piece is what is on its way.
type piece struct {
	data []byte
	due  time.Time
}

func (l *line) take(from net.Conn, sent chan<- piece) {
	defer close(sent)
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			sent <- piece{append([]byte(nil), buf[:n]...), time.Now().Add(rand.N(l.late))}
		}
		if err != nil {
			return
		}
	}
}

// give ends with the connection, which it closes at both ends.
func (l *line) give(way [2]net.Conn, sent <-chan piece) {
	defer func() {
		for _, end := range way {
			_ = end.Close()
		}
		for range sent { // until it is noticed
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, way[0])
	}()
	for p := range sent {
		time.Sleep(time.Until(p.due)) // the line's length
		if _, err := way[1].Write(p.data); err != nil {
			return
		}
	}
}

// cut breaks what is connected now.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.open {
		_ = conn.Close()
	}
}
