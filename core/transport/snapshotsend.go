package transport

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"weir/grpcapi/wire"
)

// snapshotSender sends snapshots to one peer, one at a time. Each has a connection of its own, so that nothing else waits behind
// its bytes; and one that breaks is not resumed, but taken anew by raft, since the store has gone on.
type snapshotSender struct {
	peer *peer

	mu       sync.Mutex // guards all below
	latest   *outgoingSnapshot
	failures int // in a row
}

// outgoingSnapshot is one on its way, or waiting until the one before has given up.
type outgoingSnapshot struct {
	message *raftpb.Message
	size    int64
	content Snapshot

	before *outgoingSnapshot // nil if there is none
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{}
}

var (
	errSuperseded = errors.New("a newer snapshot is sent instead")
	errArrived    = errors.New("the snapshot has arrived") // why such a session is over
)

// send starts to send a snapshot. Transport.mu is held, and it is not closed.
func (s *snapshotSender) send(m *raftpb.Message, size int64, content Snapshot) {
	o := &outgoingSnapshot{message: m, size: size, content: content, done: make(chan struct{})}
	o.ctx, o.cancel = context.WithCancelCause(s.peer.ctx)
	s.mu.Lock()
	o.before, s.latest = s.latest, o
	s.mu.Unlock()
	if o.before != nil {
		o.before.cancel(errSuperseded)
	}
	s.peer.t.goroutines.Go(func() { s.run(o) })
}

func (s *snapshotSender) run(o *outgoingSnapshot) {
	defer close(o.done)
	defer o.cancel(nil)
	if o.before != nil {
		<-o.before.done
		o.before = nil
	}
	metrics := s.peer.metrics
	start := time.Now()
	metrics.snapshotSending.Inc()
	err := o.transfer(s.peer)
	metrics.snapshotSending.Dec()
	if closeErr := o.content.Close(); closeErr != nil {
		s.peer.t.cfg.Logger.Warn("cannot close a snapshot", "error", closeErr)
	}
	if err == nil {
		metrics.snapshotSent.Inc()
		metrics.snapshotSendSeconds.Observe(time.Since(start).Seconds())
	} else {
		metrics.snapshotSendFailures.Inc()
	}
	s.report(o, err)
}

// report tells the handler, of a failure after a pause. A snapshot that was given up is not reported: raft would take it for the
// one that is sent instead.
func (s *snapshotSender) report(o *outgoingSnapshot, err error) {
	s.mu.Lock()
	pause := s.peer.t.cfg.timing.pausing << min(s.failures, 4)
	if err == nil {
		s.failures, pause = 0, 0
	} else {
		s.failures++
	}
	s.mu.Unlock()
	if pause > 0 {
		timer := time.NewTimer(pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-o.ctx.Done():
		}
	}
	if o.ctx.Err() == nil {
		s.peer.t.cfg.Handler.SnapshotSent(s.peer.id, err)
	}
}

var snapshotDesc = grpc.StreamDesc{StreamName: "Snapshot", ClientStreams: true}

// transfer returns nil when the peer has stored and stepped the snapshot.
func (o *outgoingSnapshot) transfer(p *peer) error {
	if o.ctx.Err() != nil {
		return context.Cause(o.ctx)
	}
	timing := p.t.cfg.timing
	url := p.urls.pick()
	s, err := p.open(o.ctx, url, &snapshotDesc, bulkWindow, timing.bulkQuiet, keyTerm, strconv.FormatUint(o.message.GetTerm(), 10))
	if err != nil {
		p.urls.failed(url)
		return fmt.Errorf("connect to %s: %w", url, err)
	}
	var parts sync.WaitGroup
	parts.Go(func() { s.pings(timing.bulkPing, timing.bulkQuiet, func(time.Duration) {}) })
	parts.Go(func() {
		err := s.stream.RecvMsg(new(wire.Raw))
		if err != nil {
			s.cancel(s.explain(err, s.stream.Trailer()))
		}
		s.cancel(errArrived)
	})
	if err := o.write(s.stream, p.metrics); err != nil {
		s.cancel(err)
	}
	<-s.ctx.Done()
	cause := context.Cause(s.ctx)
	s.close(cause)
	parts.Wait()
	if errors.Is(cause, errArrived) {
		return nil
	}
	return cause
}

// write sends the snapshot. It returns an error only if the snapshot itself is to blame; why the stream cannot be written to is
// for RecvMsg to say.
func (o *outgoingSnapshot) write(stream grpc.ClientStream, metrics *peerMetrics) error {
	head, err := snapshotHead{o.size, o.message}.encode()
	if err != nil {
		return err
	}
	c := &chunks{stream: stream, pool: mem.NewTieredBufferPool(chunkSize), sum: sha256.New(), bytes: metrics.sentBytes}
	if c.fail(stream.SendMsg(head)) != nil {
		return nil
	}
	n, err := o.content.WriteTo(c)
	if err == nil {
		err = c.flush()
	}
	switch {
	case c.failed != nil:
		return nil
	case err != nil:
		return fmt.Errorf("read the snapshot: %w", err)
	case n != o.size:
		return fmt.Errorf("read the snapshot: it has %d bytes instead of %d", n, o.size)
	}
	if c.fail(stream.SendMsg(wire.Raw(c.sum.Sum(nil)))) == nil {
		_ = c.fail(stream.CloseSend())
	}
	return nil
}

// chunks is an io.Writer that sends what is written in messages of chunkSize. gRPC holds two of them at most.
type chunks struct {
	stream grpc.ClientStream
	pool   mem.BufferPool
	sum    hash.Hash
	bytes  prometheus.Counter

	chunk  *[]byte // nil: none begun
	filled int
	failed error // of the stream
}

func (c *chunks) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		if c.chunk == nil {
			c.chunk, c.filled = c.pool.Get(chunkSize), 0
		}
		n := copy((*c.chunk)[c.filled:], b)
		c.filled += n
		b = b[n:]
		if c.filled == chunkSize {
			if err := c.flush(); err != nil {
				return written, err
			}
		}
		written += n
	}
	return written, nil
}

// flush sends the chunk that is begun.
func (c *chunks) flush() error {
	if c.chunk == nil {
		return nil
	}
	chunk := c.chunk
	c.chunk = nil
	*chunk = (*chunk)[:c.filled]
	c.sum.Write(*chunk)
	c.bytes.Add(float64(c.filled))
	return c.fail(c.stream.SendMsg(mem.BufferSlice{mem.NewBuffer(chunk, c.pool)}))
}

func (c *chunks) fail(err error) error {
	if err != nil {
		c.failed = err
	}
	return err
}
