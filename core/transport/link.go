package transport

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"

	"weir/grpcapi/wire"
)

// link keeps one stream of frames to one peer open, and writes what is queued. Its goroutine, run, makes one session after
// another, and drops what is queued when one ends or cannot be made.
//
// A session has a gRPC connection of its own, though one could reconnect below the calls: it would not tell from which of the
// peer's URLs an answer came, nor go on to the next when it is somebody else who answers.
type link struct {
	channel
	peer  *peer
	queue *queue
	retry chan struct{}

	mu      sync.Mutex // guards what follows
	session *session   // the present one, or nil
	since   time.Time  // when it was made, or when there was none for the first time after that
	err     error      // why there is none
}

// channel is what makes one link of a peer differ from the other.
type channel struct {
	name          string
	limit         int // of the queue, in bytes
	window        int32
	ping, silence time.Duration
}

func newLink(p *peer, c channel) *link {
	return &link{channel: c, peer: p, queue: newQueue(c.limit), retry: make(chan struct{}, 1)}
}

// run connects, writes, and connects again, until the peer is gone.
func (l *link) run() {
	p, timing := l.peer, l.peer.t.cfg.timing
	outage := outage{link: l}
	pause := timing.minBackoff
	for p.ctx.Err() == nil {
		url := p.urls.pick()
		s, err := p.open(p.ctx, url, &messagesDesc, l.window, timing.connect, keyChannel, l.name)
		if err == nil {
			outage.end(url)
			err = l.use(s)
			if time.Since(s.since) > timing.maxBackoff {
				pause = timing.minBackoff
			}
		}
		if p.ctx.Err() != nil {
			return
		}
		p.urls.failed(url)
		p.metrics.sentFailures.Add(float64(l.queue.clear()))
		l.setError(err)
		outage.note(url, err)
		if l.wait(pause) {
			pause = timing.minBackoff
		} else {
			pause = min(2*pause, timing.maxBackoff)
		}
	}
}

// wait pauses between attempts, and tells whether retryNow has ended it early, though never before the shortest pause.
func (l *link) wait(d time.Duration) bool {
	shortest := l.peer.t.cfg.timing.minBackoff
	d -= time.Duration(rand.Int64N(int64(d)/4 + 1)) // members that lost the same connections do not come back in step
	timer := time.NewTimer(min(d, shortest))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.peer.ctx.Done():
		return false
	}
	timer.Reset(max(d-shortest, 0))
	select {
	case <-l.retry:
		return true
	case <-timer.C:
	case <-l.peer.ctx.Done():
	}
	return false
}

// retryNow has the present pause end, or the next one.
func (l *link) retryNow() {
	select {
	case l.retry <- struct{}{}:
	default:
	}
}

var messagesDesc = grpc.StreamDesc{StreamName: "Messages", ClientStreams: true}

// use writes to a session until it is over, and returns why.
func (l *link) use(s *session) error {
	l.setSession(s)
	defer l.setSession(nil)
	var parts sync.WaitGroup
	parts.Go(func() { l.write(s) })
	parts.Go(func() { s.pings(l.ping, l.silence, l.answered) })
	err := s.stream.RecvMsg(new(wire.Raw)) // which is never sent
	s.close(s.explain(err, s.stream.Trailer()))
	parts.Wait()
	cause := context.Cause(s.ctx)
	var silent silentError
	if l == l.peer.small && errors.As(cause, &silent) {
		l.peer.silent(cause)
	}
	return cause
}

// write sends frames of what is queued until the session is over. gRPC holds one part and 64 KiB at most.
func (l *link) write(s *session) {
	for {
		batch, err := l.queue.take(s.ctx)
		if err != nil {
			return
		}
		frame, err := encodeFrame(batch)
		if err != nil {
			s.cancel(err)
			return
		}
		n := len(batch)
		clear(batch) // the queue's memory: what is encoded need not be kept
		for part := range partsOf(frame) {
			size := part.Len()
			if err := s.stream.SendMsg(part); err != nil { // RecvMsg knows why
				l.peer.metrics.sentFailures.Add(float64(n))
				return
			}
			l.peer.metrics.sentBytes.Add(float64(size))
		}
	}
}

func (l *link) answered(rtt time.Duration) {
	if l == l.peer.small {
		l.peer.metrics.roundTrip.Observe(rtt.Seconds())
	}
}

func (l *link) setSession(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l == l.peer.small {
		l.peer.metrics.connected(s != nil)
	}
	l.session = s
	if s != nil {
		l.since, l.err = s.since, nil
	} else {
		l.since = time.Now()
	}
}

// setError notes why there is no session.
func (l *link) setError(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err = err; l.since.IsZero() {
		l.since = time.Now()
	}
}

func (l *link) state() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return State{l.session != nil, l.since, l.err}
}

// cut ends the present session.
func (l *link) cut(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != nil {
		l.session.cancel(cause)
	}
}

func (l *link) activeSince() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session == nil {
		return time.Time{}
	}
	return l.session.since
}
