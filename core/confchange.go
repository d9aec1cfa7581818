package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// errStopping is returned where the end of the node cut something off. It is no failure.
var errStopping = errors.New("the member is stopping")

// confChange is a change of the membership. It goes through the log as raft's ConfChange, whose context it is.
//
// It is checked against the membership twice: by the member that is asked, to answer without the log, and when it is
// applied, since the membership may have changed meanwhile. The second check decides, on every member alike, so it
// depends on nothing but the change and the membership; what the asking member was configured with is in the change.
type confChange struct {
	Type   raftpb.ConfChangeType `json:"-"`
	Member memberRecord          `json:"member"`
	// Promote tells a learner that becomes a voter from a new voter: raft has one type for both.
	Promote bool `json:"promote,omitempty"`
	// MaxLearners is how many learners there may be with the one that is added.
	MaxLearners int `json:"maxLearners,omitempty"`
}

// adds tells whether the change brings a new member.
func (c confChange) adds() bool {
	return c.Type == raftpb.ConfChangeAddLearnerNode || c.Type == raftpb.ConfChangeAddNode && !c.Promote
}

// message makes the proposal for raft.
func (c confChange) message(id uint64) (*raftpb.Message, error) {
	context, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode a change of the membership: %w", err)
	}
	data, err := proto.Marshal(&raftpb.ConfChange{
		Id: proto.Uint64(id), Type: c.Type.Enum(), NodeId: proto.Uint64(c.Member.ID), Context: context,
	})
	if err != nil {
		return nil, fmt.Errorf("encode a change of the membership: %w", err)
	}
	entry := &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Data: data}
	return &raftpb.Message{Type: raftpb.MsgProp.Enum(), Entries: []*raftpb.Entry{entry}}, nil
}

// decodeConfChange reads the data of an entry.
func decodeConfChange(data []byte) (confChange, *raftpb.ConfChange, error) {
	cc := new(raftpb.ConfChange)
	if err := proto.Unmarshal(data, cc); err != nil {
		return confChange{}, nil, fmt.Errorf("decode a change of the membership: %w", err)
	}
	c := confChange{Type: cc.GetType()}
	if _, ok := raftpb.ConfChangeType_name[int32(c.Type)]; !ok {
		return c, nil, fmt.Errorf("the log holds a change of the membership of type %d, which this weir does not know: run the weir that wrote it", c.Type)
	}
	if err := json.Unmarshal(cc.GetContext(), &c); err != nil {
		return c, nil, fmt.Errorf("decode a change of the membership: %w", err)
	}
	if c.Member.ID != cc.GetNodeId() {
		return c, nil, fmt.Errorf("a change of the membership is of member %s and of member %s", idString(cc.GetNodeId()), idString(c.Member.ID))
	}
	return c, cc, nil
}

// reconfiguration is a confChange that somebody waits for on this member. Owned by run once it has been handed over.
type reconfiguration struct {
	id     uint64
	change confChange
	done   chan result

	logged bool   // raft has taken it
	tried  uint64 // how far raft had applied when it did not take it
}

// appliedChange is a conf change that the applier has come to. It asks run, which owns raft, to carry it out.
type appliedChange struct {
	id     uint64
	change *raftpb.ConfChange // nil if it was refused
	answer chan confAnswer
}

type confAnswer struct {
	state  *raftpb.ConfState // nil if nothing has changed
	waiter chan<- result     // nil if nobody waits
}

// reconfigure has a change of the membership committed and applied. It waits as propose does.
func (n *Node) reconfigure(ctx context.Context, c confChange) error {
	r := &reconfiguration{id: rand.Uint64(), change: c, done: make(chan result, 1)}
	ctx, cancel := context.WithTimeout(ctx, n.cfg.requestTimeout())
	defer cancel()
	waiting := n.reconfigurations
	for {
		select {
		case waiting <- r:
			waiting = nil
		case res := <-r.done:
			return res.err
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return rpctypes.ErrGRPCTimeout
			}
			return rpctypes.ErrGRPCCanceled
		case <-n.stopped:
			return rpctypes.ErrGRPCStopped
		}
	}
}

// beginChange takes over a reconfiguration and proposes it. Called by run.
func (n *Node) beginChange(r *reconfiguration) {
	c := n.raft
	c.change = r
	if r.change.Promote && !c.inSync(r.change.Member.ID) {
		n.endChange(result{err: rpctypes.ErrGRPCLearnerNotReady})
		return
	}
	n.logChange()
}

// logChange proposes c.change. While an earlier change may be unapplied, raft puts an empty entry into the log instead,
// without an error; then it is proposed again when raft has applied more.
func (n *Node) logChange() {
	c := n.raft
	c.change.tried = c.raw.BasicStatus().Applied
	m, err := c.change.change.message(c.change.id)
	if err == nil {
		err = c.raw.Step(m)
	}
	if err != nil {
		n.logger.Warn("raft dropped a change of the membership", "error", err)
		n.endChange(result{err: rpctypes.ErrGRPCNoLeader})
		return
	}
	c.change.logged = m.GetEntries()[0].GetType() == raftpb.EntryConfChange
}

// retryChange proposes c.change again if raft may take it now. Called by run.
func (n *Node) retryChange() {
	c := n.raft
	if c.change != nil && !c.change.logged && c.raw.BasicStatus().Applied > c.change.tried {
		n.logChange()
	}
}

// endChange tells who waits for c.change how it went. Called by run.
func (n *Node) endChange(res result) {
	if c := n.raft; c.change != nil {
		c.change.done <- res
		c.change = nil
	}
}

// carryOut makes an applied change raft's. Called by run.
func (n *Node) carryOut(a appliedChange) {
	c := n.raft
	var answer confAnswer
	if a.change != nil {
		answer.state = c.raw.ApplyConfChange(a.change)
	}
	if c.change != nil && c.change.id == a.id {
		answer.waiter = c.change.done
		c.change = nil
	}
	a.answer <- answer
}

// syncPercent is how much of the leader's log a learner must have to become a voter: etcd's number. With less, the
// cluster might wait for it whenever another voter is down.
const syncPercent = 90

// inSync tells whether a learner has about the leader's log.
func (c *consensus) inSync(id uint64) bool {
	status := c.raw.Status()
	learner, ok := status.Progress[id]
	return ok && learner.Match*100 >= status.Progress[status.ID].Match*syncPercent
}

// applyConfChange applies an entry that changes the membership.
func (n *Node) applyConfChange(entry *raftpb.Entry) error {
	c, cc, err := decodeConfChange(entry.GetData())
	if err != nil {
		return err
	}
	refused := n.members.check(c)
	applied := appliedChange{id: cc.GetId(), answer: make(chan confAnswer, 1)}
	if refused == nil {
		applied.change = cc
	}
	var answer confAnswer
	select {
	case n.appliedChanges <- applied:
	case <-n.stopped:
		return errStopping
	}
	select {
	case answer = <-applied.answer:
	case <-n.stopped:
		return errStopping
	}
	tx := n.store.Begin(entry.GetIndex(), entry.GetTerm())
	if refused == nil {
		tx.SetConfState(answer.state)
		if err := n.members.apply(tx, c); err != nil {
			tx.Fail(err)
			return err
		}
	}
	tx.End()
	n.reached(entry.GetIndex())
	if refused == nil {
		n.logger.Info("changed the membership", "change", c.Type.String(), "member-id", idString(c.Member.ID), "peer-urls", c.Member.PeerURLs)
	}
	if answer.waiter != nil {
		answer.waiter <- result{err: refused}
	}
	n.countForCut(entry)
	return nil
}
