package core

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"weir/core/consensus"
	"weir/core/transport"
)

// RegisterPeers registers what other members call, on the server of the peer URLs.
func (n *Node) RegisterPeers(s grpc.ServiceRegistrar) {
	n.transport.Register(s)
	n.registerCalls(s)
}

// setPeers has the transport reach those who are members now, and notes what this one is. Who joins has no store yet to say so: what it
// was told when it was made keeps it from taking its leader for a stranger like any other. Called by the apply goroutine, or before
// it runs.
func (n *Node) setPeers() {
	urls := n.members.peerURLs()
	if len(urls) == 0 {
		urls = peerURLsOf(n.member.Joined)
	}
	n.transport.SetPeers(urls)
	self, _ := n.members.get(n.member.ID)
	n.isLearner.Store(self.IsLearner)
}

// reaches tells whether what is sent to a member has a way to it. A request that was sent to a leader who is gone is lost, and whoever
// waits for it is told, when there is another, that its fate is open; one that waits is proposed to that other one.
func (n *Node) reaches(id uint64) bool {
	return id == n.member.ID || !n.transport.ActiveSince(id).IsZero()
}

// PeerServerOptions are what that server needs.
func PeerServerOptions() []grpc.ServerOption { return transport.ServerOptions() }

// PeerListener is what it is to accept from instead of l; see transport.Transport.BoundListener.
func (n *Node) PeerListener(l net.Listener) net.Listener { return n.transport.BoundListener(l) }

// fromPeers holds what other members have sent until run takes it. Over maxFromPeers it is lost, which raft expects of any
// message.
type fromPeers struct {
	wake chan struct{}

	mu       sync.Mutex // guards all below
	messages []*raftpb.Message
	bytes    int
}

// maxFromPeers bounds what has come and is not taken: while raft's goroutine is busy, for some milliseconds.
const maxFromPeers = 64 << 20

// messageOverhead is about what a message takes besides its entries.
const messageOverhead = 256

func (p *fromPeers) put(m *raftpb.Message) {
	size := messageOverhead
	for _, e := range m.GetEntries() {
		size += messageOverhead + len(e.GetData())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bytes > maxFromPeers {
		return
	}
	p.messages = append(p.messages, m)
	p.bytes += size
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *fromPeers) takeAll() []*raftpb.Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	messages := p.messages
	p.messages, p.bytes = nil, 0
	return messages
}

const adviceToForgetful = "remove this member, and add it again with an empty data directory"

// stepPeers hands what other members have sent to raft. Called by run.
func (n *Node) stepPeers() {
	for _, m := range n.fromPeers.takeAll() {
		err := n.raft.machine.Step(m)
		switch {
		case errors.Is(err, consensus.ErrForgotten):
			n.fail(fmt.Errorf("%w: %s", err, adviceToForgetful))
			return
		case errors.Is(err, consensus.ErrUnknownLeader) && !n.raft.warned:
			n.raft.warned = true
			n.logger.Warn("if this goes on, this member's data were put back to an earlier state: "+adviceToForgetful, "from", idString(m.GetFrom()), "error", err)
		case err != nil:
			n.logger.Debug("raft refused a message", "type", m.GetType().String(), "from", idString(m.GetFrom()), "error", err)
		}
	}
}

// send sends raft's messages. Called by run.
func (n *Node) send(messages []*raftpb.Message) {
	kept := messages[:0]
	for _, m := range messages {
		switch m.GetType() {
		case raftpb.MsgSnap:
			n.sendSnapshot(m)
			continue
		case raftpb.MsgHeartbeat:
			if n.transport.ActiveSince(m.GetTo()).IsZero() {
				n.metrics.lostHeartbeats.Inc()
			}
		}
		kept = append(kept, m)
	}
	if len(kept) > 0 {
		n.transport.Send(kept)
	}
}

// sendSnapshot sends the committed state of the store, which is at least as new as what raft asks for. What is in the log behind what
// raft asks for stays until the receiver has that, too; see consensus.Outgoing.
func (n *Node) sendSnapshot(m *raftpb.Message) {
	to := m.GetTo()
	n.goroutines.Add(1)
	go func() {
		defer n.goroutines.Done()
		snapshot, err := n.store.Snapshot()
		if err != nil {
			n.snapshotSent(to, fmt.Errorf("read the store: %w", err))
			return
		}
		applied := snapshot.Applied()
		m = proto.Clone(m).(*raftpb.Message)
		m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: proto.Uint64(applied.Index), Term: proto.Uint64(applied.Term), ConfState: applied.ConfState,
		}}
		n.logger.Info("sending a snapshot", "to", idString(to), "index", applied.Index, "bytes", snapshot.Size())
		n.transport.SendSnapshot(m, snapshot.Size(), snapshot)
	}()
}

// snapshotSent tells the machine how it went. Any goroutine may call it.
func (n *Node) snapshotSent(to uint64, err error) {
	if err != nil {
		n.logger.Warn("a snapshot has not arrived", "to", idString(to), "error", err)
	} else {
		n.logger.Info("a snapshot has arrived", "to", idString(to))
	}
	n.raft.inbox.put(func(m *consensus.Machine) { m.SnapshotSent(to, err) })
}

// peerHandler is what the connections to other members call; see transport.Handler.
type peerHandler struct{ n *Node }

func (h peerHandler) Receive(m *raftpb.Message) {
	if m.GetType() == raftpb.MsgProp {
		if err := h.n.agreement.checkProposal(m.GetEntries()); err != nil {
			if reason, isNew := h.n.refusals.add(m.GetFrom(), err); isNew {
				h.n.logger.Error("a member proposes what must not be in the log, it is dropped", "from", idString(m.GetFrom()), "error", reason)
			}
			return
		}
	}
	h.n.fromPeers.put(m)
}

func (h peerHandler) Unreachable(id uint64) {
	h.n.raft.inbox.put(func(m *consensus.Machine) {
		m.Unreachable(id)
		if m.Role().Leader == id {
			h.n.queue.lostTouch()
		}
	})
}

func (h peerHandler) SnapshotSent(id uint64, err error) { h.n.snapshotSent(id, err) }

func (h peerHandler) ReceiveSnapshot(ctx context.Context, m *raftpb.Message, size int64, body io.Reader) error {
	return h.n.receiveSnapshot(ctx, m, size, body)
}

func (h peerHandler) Removed(by uint64) {
	h.n.fail(fmt.Errorf("%w (member %s says so)", ErrRemoved, idString(by)))
}
