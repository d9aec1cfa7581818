package consensus

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// maxEarly is how many reads of learners wait for a leader's first entry.
const maxEarly = 1000

// answerRead deals with a ReadIndex that is not for raft, and tells whether it was one.
func (m *Machine) answerRead(question *raftpb.Message) bool {
	switch {
	case m.isTooEarly():
		if len(m.early) < maxEarly { // else it is lost, and asked again
			m.early = append(m.early, question)
		}
	case m.isConfirmedBy(question.GetFrom()):
		m.release(m.follower(question.GetFrom()))
		m.effects.Send([]*raftpb.Message{{
			Type: raftpb.MsgReadIndexResp.Enum(), From: proto.Uint64(m.id), To: proto.Uint64(question.GetFrom()), Term: proto.Uint64(m.role.Term),
			Index: proto.Uint64(m.raw.BasicStatus().HardState.GetCommit()), Entries: question.GetEntries(),
		}})
	default:
		return false
	}
	return true
}

// isConfirmedBy tells whether a member's question, whether this one still leads, is its own answer: with this leader, who asks is a
// majority.
//
// raft asks the others by a heartbeat whether they still follow (thesis, 6.4), which takes four messages and a round trip more. What
// their answers show is that after the read had begun some members, a majority with this leader, had not voted in a later term yet. So
// nothing was committed in a later one before the read began. A question shows just that of who asks, however long it was on its way:
// it was sent when the read had begun, to who led in the sender's term, and that is no later term than the one in which it leads now.
// Nor is it if another follower has passed the question on: it had led, or followed, in that term or a later one.
func (m *Machine) isConfirmedBy(id uint64) bool {
	if !m.mayRead || id == m.id || !slices.Contains(m.pairs, id) || !slices.Contains(m.pairs, m.id) {
		return false
	}
	status := m.raw.BasicStatus() // what has been stepped since the last Ready may have ended the leadership
	return status.RaftState == raft.StateLeader && status.HardState.GetTerm() == m.role.Term
}

// isTooEarly tells whether raft would answer a ReadIndex with a commit index that may be behind what was acknowledged.
// With one voter it asks nobody.
func (m *Machine) isTooEarly() bool {
	return m.soleVoter != 0 && (!m.mayRead || m.isOut()) && m.raw.BasicStatus().RaftState == raft.StateLeader
}

// isOut tells whether another member is the only voter: if this one leads still, having removed itself, that one may have been elected.
func (m *Machine) isOut() bool { return m.soleVoter != 0 && m.soleVoter != m.id }

// answerEarly lets raft answer reads: it has committed an entry of its own term.
func (m *Machine) answerEarly() {
	early := m.early
	m.mayRead, m.early = true, nil
	for _, question := range early {
		m.stepOwn(question)
	}
}
