package coretest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// network carries messages. It may lose, delay, reorder and double them, but it does not double proposals: core/transport never sends
// anything twice, and raft cannot tell that it has had a proposal already.
type network struct {
	cut    map[link]bool
	delay  span
	loss   float64 // how likely a message is lost
	double float64 // how likely it comes twice
	slow   float64 // how likely it takes up to slowest, and so is overtaken
	rules  []*rule
}

// link is one direction between two members.
type link struct{ from, to uint64 }

// rule is what happens to messages of one type, from one member or to one. 0 is any.
type rule struct {
	kind     raftpb.MessageType
	from, to uint64
	holds    bool // or loses
	held     []func()
}

func (r *rule) matches(m *raftpb.Message) bool {
	return r.kind == m.GetType() && (r.from == 0 || r.from == m.GetFrom()) && (r.to == 0 || r.to == m.GetTo())
}

// slowest is how late a message may be: later than an election.
const slowest = 4 * electionTicks * tick

func newNetwork() network {
	return network{cut: map[link]bool{}, delay: span{200 * time.Microsecond, 800 * time.Microsecond}}
}

func (n *network) isCut(from, to uint64) bool { return n.cut[link{from, to}] }

// send takes a message of a member that runs. An error of it is told as core/transport does.
func (c *Cluster) send(from *Member, message *raftpb.Message) {
	if message.GetType() == raftpb.MsgSnap {
		c.sendSnapshot(from, message)
		return
	}
	message = proto.Clone(message).(*raftpb.Message)
	to, n := message.GetTo(), &c.network
	if n.isCut(from.id, to) || !c.runs(to) {
		from.after(c.goroutine(), func() { from.tell(func() { from.unreachable(to) }) })
		return
	}
	if c.rng.Float64() < n.loss {
		return
	}
	i := slices.IndexFunc(n.rules, func(r *rule) bool { return r.matches(message) })
	if i >= 0 {
		if r := n.rules[i]; r.holds {
			r.held = append(r.held, func() { c.deliver(message) })
		}
		return
	}
	c.clock.after(c.transit(), func() { c.deliver(message) })
	if message.GetType() != raftpb.MsgProp && c.rng.Float64() < n.double {
		again := proto.Clone(message).(*raftpb.Message)
		c.clock.after(c.transit(), func() { c.deliver(again) })
	}
}

func (c *Cluster) transit() time.Duration {
	if c.rng.Float64() < c.network.slow {
		return c.draw(slowest)
	}
	return c.network.delay.draw(c.rng)
}

func (c *Cluster) runs(id uint64) bool {
	m := c.members[id]
	return m != nil && m.isRunning
}

// deliver hands a message to whom it is for. It may have been on its way for long: who sent it may be another process now, or none.
func (c *Cluster) deliver(message *raftpb.Message) {
	from, to := message.GetFrom(), message.GetTo()
	if !c.runs(to) || c.network.isCut(from, to) || c.refuses(to, from) {
		return
	}
	m := c.members[to]
	m.after(0, func() {
		m.tell(func() {
			if err := m.machine.Step(message); err != nil {
				if message.GetType() != raftpb.MsgProp {
					c.checks.counts.refused++
				}
				c.trace("member %d refuses %v of %d: %v", to, message.GetType(), from, err)
			}
		})
	})
}

// refuses tells whether a member does not talk to another because that has been removed. The other is told so.
func (c *Cluster) refuses(id, from uint64) bool {
	if !slices.Contains(c.members[id].state.removed, from) {
		return false
	}
	if other := c.members[from]; other.isRunning && !c.network.isCut(id, from) {
		other.after(c.transit(), func() { other.leave(fmt.Sprintf("member %d says that it has been removed", id)) })
	}
	return true
}

var errLost = errors.New("the connection was lost")

// sendSnapshot sends the store as it is when its goroutine gets to it, which may be some time after raft has asked; see
// core.sendSnapshot.
func (c *Cluster) sendSnapshot(from *Member, message *raftpb.Message) {
	to, life := message.GetTo(), from.life
	from.after(c.transit(), func() {
		if from.commitStore(); !from.isRunning {
			return
		}
		content := from.disk.store
		if content.index < message.GetSnapshot().GetMetadata().GetIndex() {
			c.violate("snapshot", "member %d is to send a snapshot of entry %d and its store is at %d", from.id, message.GetSnapshot().GetMetadata().GetIndex(), content.index)
			return
		}
		sent := proto.Clone(message).(*raftpb.Message)
		sent.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: proto.Uint64(content.index), Term: proto.Uint64(content.term), ConfState: content.conf,
		}}
		c.members[to].sent++
		c.trace("member %d sends a snapshot of entry %d to %d", from.id, content.index, to)
		answer := func(err error) {
			if from.life != life || !from.isRunning {
				return
			}
			from.after(c.transit(), func() {
				from.tell(func() { from.machine.SnapshotSent(to, err) })
			})
		}
		c.clock.after(c.transit()+c.draw(5*time.Millisecond), func() { c.deliverSnapshot(sent, content, life, answer) })
	})
}

func (c *Cluster) deliverSnapshot(message *raftpb.Message, content state, life int, answer func(error)) {
	from, to := message.GetFrom(), message.GetTo()
	n, m := &c.network, c.members[to]
	isLost := c.members[from].life != life || !c.runs(to) || n.isCut(from, to) || n.isCut(to, from) || m.isPaused
	if isLost || c.refuses(to, from) || c.rng.Float64() < n.loss {
		answer(errLost)
		return
	}
	// If the other ends before it has answered, the connection breaks.
	other, answered := m.life, false
	once := func(err error) {
		if !answered {
			answered = true
			answer(err)
		}
	}
	m.receiveSnapshot(message, content, once)
	c.awaitEnd(m, other, &answered, once)
}

// awaitEnd answers with an error when a member ends before it has answered.
func (c *Cluster) awaitEnd(m *Member, life int, answered *bool, answer func(error)) {
	c.clock.after(tick, func() {
		switch {
		case *answered:
		case m.life != life:
			answer(errLost)
		default:
			c.awaitEnd(m, life, answered, answer)
		}
	})
}
