package coretest

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// state is what a store holds: how far it has come, the membership, and instead of keys the chain, which is another one if any entry
// before was another one. It is a value: what it refers to is never changed.
type state struct {
	index, term uint64
	chain       chain
	conf        *raftpb.ConfState
	removed     []uint64 // members that will never be any again
}

// chain is the hash of a log up to an entry.
type chain uint64

func (c chain) with(e *raftpb.Entry) chain {
	h := fnv.New64a()
	var b [32]byte
	binary.LittleEndian.PutUint64(b[0:], uint64(c))
	binary.LittleEndian.PutUint64(b[8:], e.GetIndex())
	binary.LittleEndian.PutUint64(b[16:], e.GetTerm())
	binary.LittleEndian.PutUint64(b[24:], uint64(e.GetType()))
	h.Write(b[:])
	h.Write(e.GetData())
	return chain(h.Sum64())
}

// firstState is what founders start from.
func firstState(voters []uint64) state {
	return state{index: firstIndex, term: firstTerm, conf: &raftpb.ConfState{Voters: voters, AutoLeave: proto.Bool(false)}}
}

// apply carries out an entry, and tells those who wait for it.
func (m *Member) apply(entry *raftpb.Entry) {
	c := m.cluster
	if entry.GetIndex() != m.state.index+1 {
		c.violate("apply order", "member %d applies entry %d after %d", m.id, entry.GetIndex(), m.state.index)
		return
	}
	before := m.state.term
	m.state.index, m.state.term = entry.GetIndex(), entry.GetTerm()
	m.state.chain = m.state.chain.with(entry)
	c.checks.applied(m, entry)
	switch entry.GetType() {
	case raftpb.EntryConfChange:
		m.applyChange(entry)
	default:
		m.writes.applied(m, entry)
	}
	m.reads.reached(m)
	if m.state.term > before {
		m.writes.superseded(m.state.term)
	}
	if m.cluster.commitEvery > 0 && m.state.index%m.cluster.commitEvery == m.id%m.cluster.commitEvery {
		m.after(m.cluster.goroutine(), m.commitAndCut)
	}
}

// commitAndCut is core.cutLog: it waits while a snapshot is being installed, and one waits for it.
func (m *Member) commitAndCut() {
	if m.cutting || m.machine.IsInstalling() {
		m.after(tick, m.commitAndCut)
		return
	}
	if m.commitStore(); m.isRunning {
		m.cutting = true
		m.after(m.cluster.goroutine(), m.cutLog)
	}
}

// applyChange carries out a change of the membership, unless the membership forbids it.
func (m *Member) applyChange(entry *raftpb.Entry) {
	cc := new(raftpb.ConfChange)
	if err := proto.Unmarshal(entry.GetData(), cc); err != nil {
		m.cluster.violate("apply", "entry %d: %v", entry.GetIndex(), err)
		return
	}
	id := cc.GetNodeId()
	if m.change != nil && m.change.id == cc.GetId() {
		m.change = nil
	}
	refused := m.refuse(cc)
	m.cluster.checks.changed(cc.GetId(), refused)
	if refused != nil {
		m.cluster.trace("member %d refuses a change: %v", m.id, refused)
		return
	}
	m.state.conf = changedConf(m.state.conf, cc)
	m.cluster.checks.configured(m, m.machine.ApplyChange(cc))
	m.cluster.trace("member %d applies %v of %d: %v", m.id, cc.GetType(), id, m.state.conf)
	if cc.GetType() == raftpb.ConfChangeRemoveNode {
		m.state.removed = append(slices.Clip(m.state.removed), id)
		if id == m.id {
			m.after(leaveTicks*tick, func() { m.leave("it has been removed") })
		}
	}
}

// changedConf is a membership after a change.
func changedConf(conf *raftpb.ConfState, cc *raftpb.ConfChange) *raftpb.ConfState {
	isIt := func(id uint64) bool { return id == cc.GetNodeId() }
	changed := proto.Clone(conf).(*raftpb.ConfState)
	changed.Voters, changed.Learners = slices.DeleteFunc(changed.Voters, isIt), slices.DeleteFunc(changed.Learners, isIt)
	switch cc.GetType() {
	case raftpb.ConfChangeAddNode:
		changed.Voters = append(changed.Voters, cc.GetNodeId())
	case raftpb.ConfChangeAddLearnerNode:
		changed.Learners = append(changed.Learners, cc.GetNodeId())
	}
	return changed
}

// leaveTicks is how long a member goes on after its removal, as at core, so that others learn of it.
const leaveTicks = 10

// refuse says why a change must not be made. It depends on the membership alone, and so is the same everywhere.
func (m *Member) refuse(cc *raftpb.ConfChange) error {
	id, conf := cc.GetNodeId(), m.state.conf
	isVoter, isLearner := slices.Contains(conf.GetVoters(), id), slices.Contains(conf.GetLearners(), id)
	switch cc.GetType() {
	case raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode:
		isPromotion := cc.GetType() == raftpb.ConfChangeAddNode && isLearner
		if (isVoter || isLearner) && !isPromotion || slices.Contains(m.state.removed, id) {
			return fmt.Errorf("%d is, or was, a member", id)
		}
	case raftpb.ConfChangeRemoveNode:
		if !isVoter && !isLearner {
			return fmt.Errorf("%d is no member", id)
		}
		if isVoter && len(conf.GetVoters()) == 1 {
			return fmt.Errorf("%d is the last voter", id)
		}
	}
	return nil
}
