package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// raft believes what others say, and panics at what contradicts its own state. What shows in a message alone is refused before it comes
// here (core/transport); what follows is what only this member can know to be untrue. A faulty or foreign caller is to end no member.
//
// Somebody who speaks for a voter can say enough that is untrue and possible: that is for TLS between members to prevent.

// ErrForgotten says that the log does not have what this member has told others to be durable: it was put back to an earlier state. It
// must not vote again, since it may have done so; raft would panic.
var ErrForgotten = errors.New("the log has forgotten what this member has acknowledged")

// ErrUnknownLeader says that somebody who is no voter here sends heartbeats as a leader who was told of an entry that the log does not
// have. It may be a stranger. If it leads, this member was put back to a state from before it was added, and waits for ever.
var ErrUnknownLeader = errors.New("a leader that is no voter here was told of an entry that the log does not have")

// maxTermJump is by how much a term may be later than this member's. Who has been away for 2^32 elections has been so for a century;
// but a later term that is believed is every member's from then on, and after the last one there is no election any more.
const maxTermJump = 1 << 32

// polls is how far the leader has counted the reads of a term when it last asked who follows it. raft finds the reads that an answer
// confirms by its count, and takes one that it has never given for an index of them.
type polls struct{ term, count uint64 }

// asked notes what a heartbeat asks.
func (p *polls) asked(heartbeat *raftpb.Message) {
	if count, ok := pollCount(heartbeat); ok {
		*p = polls{heartbeat.GetTerm(), count}
	}
}

// pollCount reads a context as raft encodes it.
func pollCount(m *raftpb.Message) (uint64, bool) {
	if len(m.GetContext()) != 8 {
		return 0, false
	}
	return binary.LittleEndian.Uint64(m.GetContext()), true
}

// doubt returns why a message must not be stepped, nil if it may be.
func (m *Machine) doubt(message *raftpb.Message) error {
	isNew := m.committed == 0 // it has joined, and its first leader may be of any term
	if term := message.GetTerm(); term > m.role.Term+maxTermJump && !isNew {
		return fmt.Errorf("term %d, which no election can have come to after %d", term, m.role.Term)
	}
	switch message.GetType() {
	case raftpb.MsgHeartbeat:
		return m.mustHave(message)
	case raftpb.MsgHeartbeatResp:
		if len(message.GetContext()) == 0 {
			return nil
		}
		if count, ok := pollCount(message); !ok || message.GetTerm() != m.polls.term || count > m.polls.count {
			return errors.New("the answer to a heartbeat that was not sent")
		}
	case raftpb.MsgTransferLeader:
		// A follower would pass it on, which raft does not let it do with one that has been passed on.
		if m.raw.BasicStatus().RaftState != raft.StateLeader {
			return errNotLeader
		}
	}
	return nil
}

// mustHave looks whether the log is shorter than the leader knows: no heartbeat says more to be committed than its receiver has
// acknowledged in that term. Only a voter leads; of one that this member does not know yet it has acknowledged nothing.
func (m *Machine) mustHave(heartbeat *raftpb.Message) error {
	commit := heartbeat.GetCommit()
	if heartbeat.GetTerm() < m.role.Term || commit <= m.committed {
		return nil
	}
	m.Advance() // so that last is what raft has
	durable, err := m.storage.LastIndex()
	last := min(durable, m.last) // the log's own end may be of an earlier term, and about to be replaced
	if err != nil || commit <= last {
		return err
	}
	if !m.isVoter(heartbeat.GetFrom()) {
		return fmt.Errorf("%w: it ends at entry %d, and member %x was told of entry %d", ErrUnknownLeader, last, heartbeat.GetFrom(), commit)
	}
	return fmt.Errorf("%w: it ends at entry %d, and the leader was told of entry %d", ErrForgotten, last, commit)
}

func (m *Machine) isVoter(id uint64) (is bool) {
	m.raw.WithProgress(func(other uint64, kind raft.ProgressType, _ tracker.Progress) {
		is = is || other == id && kind == raft.ProgressTypePeer
	})
	return is
}
