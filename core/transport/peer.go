package transport

import (
	"context"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// peer is another member as this one sees it: two links for raft's messages, at most one snapshot on its way, and a connection
// for other calls. Each has a TCP connection of its own, so that nothing waits behind what is larger.
//
// The small link has what must come in time: heartbeats, votes, reads, and all answers. The bulk link has what carries entries:
// appends and forwarded proposals. All appends go there, small ones too, since each builds on the one before: one that overtook
// another would be rejected, and raft would send both again.
type peer struct {
	t      *Transport
	id     uint64
	ctx    context.Context
	cancel context.CancelCauseFunc

	guest   bool // nobody has set it, but it calls; guarded by t.mu
	streams int  // inbound, as a guest; guarded by t.mu

	requests atomic.Int32 // of it, that are read or answered

	urls        urlPicker
	small, bulk *link
	snapshots   snapshotSender
	calls       *calls
	metrics     *peerMetrics
	lost        chan struct{} // messages to it were lost, and the handler is to be told
}

// What may wait in queues and windows for one peer. An append is raft's own memory as long as it waits.
const (
	smallQueue  = 1 << 20
	bulkQueue   = 64 << 20
	smallWindow = 1 << 20
	bulkWindow  = 4 << 20
)

// smallMessage is how large a message of the small link may be.
const smallMessage = 64 << 10

// newPeer starts to connect. t.mu is held.
func newPeer(t *Transport, id uint64, urls []string) *peer {
	p := &peer{t: t, id: id, metrics: t.metrics.of(id), lost: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancelCause(t.ctx)
	p.urls.set(urls)
	p.snapshots.peer = p
	p.calls = newCalls(p)
	timing := t.cfg.timing
	p.small = newLink(p, channel{"small", smallQueue, smallWindow, timing.ping, timing.silence})
	p.bulk = newLink(p, channel{"bulk", bulkQueue, bulkWindow, timing.bulkPing, timing.bulkQuiet})
	t.goroutines.Go(p.small.run)
	t.goroutines.Go(p.bulk.run)
	t.goroutines.Go(p.tellLosses)
	return p
}

// tellLosses tells the handler of losses, and closes the connection for calls in the end.
func (p *peer) tellLosses() {
	defer p.calls.close()
	for {
		select {
		case <-p.lost:
			p.t.cfg.Handler.Unreachable(p.id)
		case <-p.ctx.Done():
			return
		}
	}
}

// lose has the handler told. Losses that it has not been told of yet become one.
func (p *peer) lose() {
	select {
	case p.lost <- struct{}{}:
	default:
	}
}

// send queues m, or drops it.
func (p *peer) send(m *raftpb.Message) {
	if _, ok := overNetwork[m.GetType()]; !ok {
		p.t.cfg.Logger.Error("raft has a message for a peer that is not sent like this", "type", m.GetType().String())
		return
	}
	out := outgoing{m, proto.Size(m)}
	if out.size > maxFrameSize-16 {
		p.t.cfg.Logger.Error("a message is too large for any peer", "type", m.GetType().String(), "bytes", out.size)
		p.metrics.sentFailures.Inc()
		return
	}
	l := p.small
	if m.GetType() == raftpb.MsgApp || m.GetType() == raftpb.MsgProp || out.size > smallMessage {
		l = p.bulk
	}
	ok, first := l.queue.put(out)
	if !ok {
		p.metrics.sentFailures.Inc()
	}
	if first {
		p.lose()
	}
}

// setURLs says where the peer is to be found. Connections that stand go on, since it answers on them: a member's URLs may be changed
// before it moves, as procedures for etcd have it, and one that cannot be reached at its new ones yet must not be lost.
func (p *peer) setURLs(urls []string) {
	if p.urls.set(urls) {
		p.retry()
	}
}

// retry ends the pauses between attempts to connect.
func (p *peer) retry() {
	p.small.retryNow()
	p.bulk.retryNow()
}

// silent breaks what else there is when the small link finds that nobody answers. A snapshot may outlive a short silence; it has a
// longer patience of its own.
func (p *peer) silent(cause error) {
	p.bulk.cut(cause)
	p.calls.socket.cut()
}
