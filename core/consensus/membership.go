package consensus

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"
)

// ProposeChange proposes a change of the membership on the leader. While an earlier change may be unapplied, raft puts an empty
// entry into the log instead, without an error: taken is false then, and it makes sense to propose again when Applied has grown.
func (m *Machine) ProposeChange(change []byte) (taken bool, err error) {
	proposal := &raftpb.Message{
		Type: raftpb.MsgProp.Enum(), From: proto.Uint64(m.id),
		Entries: []*raftpb.Entry{{Type: raftpb.EntryConfChange.Enum(), Data: change}},
	}
	err = m.raw.Step(proposal)
	return err == nil && proposal.Entries[0].GetType() == raftpb.EntryConfChange, err
}

// ApplyChange makes a committed change of the membership raft's, and returns its new configuration.
func (m *Machine) ApplyChange(change *raftpb.ConfChange) *raftpb.ConfState {
	cs := m.raw.ApplyConfChange(change)
	m.setVoters(cs)
	return cs
}

// setVoters notes a membership that is raft's now.
func (m *Machine) setVoters(cs *raftpb.ConfState) {
	m.soleVoter, m.pairs = 0, nil
	switch voters := cs.GetVoters(); {
	case len(voters) == 1:
		m.soleVoter = voters[0]
	case len(voters) <= 3 && len(cs.GetVotersOutgoing()) == 0:
		m.pairs = slices.Clone(voters)
	}
}

// IsSettled tells whether all that raft knows to be committed has been applied. A snapshot is stepped only then: raft takes its
// configuration over at once, and changes of the membership that come out of the applier afterwards would be made to it.
func (m *Machine) IsSettled() bool {
	status := m.raw.BasicStatus()
	return status.Applied == status.HardState.GetCommit()
}

// Applied is how far raft knows that entries have been applied.
func (m *Machine) Applied() uint64 { return m.raw.BasicStatus().Applied }

// syncPercent is how much of the leader's log a learner must have to become a voter: etcd's number. With less, the cluster might
// wait for it whenever another voter is down.
const syncPercent = 90

// InSync tells on the leader whether a member has about its log.
func (m *Machine) InSync(id uint64) bool {
	status := m.raw.Status()
	other, ok := status.Progress[id]
	return ok && other.Match*100 >= status.Progress[status.ID].Match*syncPercent
}

// Nearest is the voter that has most of this leader's log, was heard of lately, and is reached, as the driver knows; 0 if there is
// none. It is who takes over best.
func (m *Machine) Nearest(isReached func(id uint64) bool) (id uint64) {
	var match uint64
	m.raw.WithProgress(func(other uint64, kind raft.ProgressType, p tracker.Progress) {
		if other != m.id && kind == raft.ProgressTypePeer && p.RecentActive && p.Match >= match && p.Match > 0 && isReached(other) {
			id, match = other, p.Match
		}
	})
	return id
}
