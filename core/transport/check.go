package transport

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// raft trusts what it is given. It panics at some of it, and of some keeps for ever what makes it panic again after each restart. So
// what comes from a peer is looked through before: what no raft says goes no further. What only the state of this member shows to be
// wrong is for consensus.Machine to find.

// Check says what is wrong with a message that has come from the member from to this one, self; it is exported for those who test that
// raft survives the others. A nil error does not make it true.
func Check(m *raftpb.Message, self, from uint64) error {
	if m.GetType() == raftpb.MsgSnap {
		return checkSnapshot(m, self, from)
	}
	return checkMessage(m, self, from)
}

// overNetwork are the types of messages that members send each other, MsgSnap apart, and whether a follower may pass on those
// of another: to the leader, in whose place it was asked.
var overNetwork = map[raftpb.MessageType]bool{
	raftpb.MsgProp:           true,
	raftpb.MsgApp:            false,
	raftpb.MsgAppResp:        false,
	raftpb.MsgVote:           false,
	raftpb.MsgVoteResp:       false,
	raftpb.MsgHeartbeat:      false,
	raftpb.MsgHeartbeatResp:  false,
	raftpb.MsgTransferLeader: true,
	raftpb.MsgTimeoutNow:     false,
	raftpb.MsgReadIndex:      true,
	raftpb.MsgReadIndexResp:  false,
	raftpb.MsgPreVote:        false,
	raftpb.MsgPreVoteResp:    false,
}

const (
	// maxNumber is what a term or an index may be. raft adds to them without a look at whether they overflow.
	maxNumber = 1 << 62
	// maxContext is how many bytes name a read.
	maxContext = 64
	// heartbeatContext is how many bytes a heartbeat has that asks whether this leader still leads: a number (raft's read_only.go).
	heartbeatContext = 8
	// maxVoters bounds a configuration: raft's work with it grows with the square of its members.
	maxVoters = 1000
)

func checkMessage(m *raftpb.Message, self, from uint64) error {
	if m.GetTo() != self {
		return fmt.Errorf("%v to member %x, which this is not", m.GetType(), m.GetTo())
	}
	forwarded, ok := overNetwork[m.GetType()]
	if !ok {
		return fmt.Errorf("%v (%d) is not sent between members", m.GetType(), m.GetType())
	}
	if (m.GetFrom() != from || from == self) && !forwarded {
		return fmt.Errorf("%v of member %x, which this is not from", m.GetType(), m.GetFrom())
	}
	if m.GetFrom() == 0 {
		return fmt.Errorf("%v of nobody", m.GetType())
	}
	if len(m.GetResponses()) > 0 {
		return fmt.Errorf("%v with responses, which are local", m.GetType())
	}
	if err := checkNumbers(m); err != nil {
		return err
	}
	switch m.GetType() {
	case raftpb.MsgProp:
		if len(m.GetEntries()) == 0 {
			return errors.New("MsgProp of nothing")
		}
	case raftpb.MsgApp:
		return checkAppend(m)
	case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		if e := m.GetEntries(); len(e) != 1 || len(e[0].GetData()) == 0 || len(e[0].GetData()) > maxContext {
			return fmt.Errorf("%v that names no read", m.GetType())
		}
	case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp:
		if n := len(m.GetContext()); n != 0 && n != heartbeatContext {
			return fmt.Errorf("%v with a context of %d bytes", m.GetType(), n)
		}
	}
	return nil
}

// checkNumbers looks at the terms and indexes. What is passed on to a leader is of no term, and all else of one.
func checkNumbers(m *raftpb.Message) error {
	if max(m.GetTerm(), m.GetLogTerm(), m.GetIndex(), m.GetCommit(), m.GetRejectHint()) > maxNumber {
		return fmt.Errorf("%v with a term or an index that no raft comes to", m.GetType())
	}
	hasNone := m.GetType() == raftpb.MsgProp || m.GetType() == raftpb.MsgReadIndex
	if hasNone != (m.GetTerm() == 0) {
		return fmt.Errorf("%v of term %d", m.GetType(), m.GetTerm())
	}
	return nil
}

// checkAppend looks whether the entries continue the one that they are said to follow.
func checkAppend(m *raftpb.Message) error {
	index, term := m.GetIndex(), max(m.GetLogTerm(), 1)
	for _, e := range m.GetEntries() {
		index++
		if e.GetIndex() != index || e.GetTerm() < term {
			return fmt.Errorf("MsgApp with entry %d of term %d, in place of entry %d of term %d or later", e.GetIndex(), e.GetTerm(), index, term)
		}
		term = e.GetTerm()
	}
	if term > m.GetTerm() {
		return fmt.Errorf("MsgApp of term %d with an entry of term %d", m.GetTerm(), term)
	}
	return nil
}

func checkSnapshot(m *raftpb.Message, self, from uint64) error {
	at := m.GetSnapshot().GetMetadata()
	switch {
	case m.GetType() != raftpb.MsgSnap:
		return fmt.Errorf("%v in place of MsgSnap", m.GetType())
	case m.GetTo() != self:
		return fmt.Errorf("MsgSnap to member %x, which this is not", m.GetTo())
	case m.GetFrom() != from || from == self:
		return fmt.Errorf("MsgSnap of member %x, which this is not from", m.GetFrom())
	case raft.IsEmptySnap(m.GetSnapshot()) || len(at.GetConfState().GetVoters()) == 0:
		return errors.New("MsgSnap without the metadata of a snapshot")
	case len(m.GetEntries()) > 0 || len(m.GetResponses()) > 0 || len(m.GetSnapshot().GetData()) > 0:
		return errors.New("MsgSnap with what does not belong to it")
	case at.GetIndex() > maxNumber || at.GetTerm() == 0 || at.GetTerm() > m.GetTerm():
		return fmt.Errorf("MsgSnap of term %d with a snapshot of entry %d of term %d", m.GetTerm(), at.GetIndex(), at.GetTerm())
	}
	if err := checkNumbers(m); err != nil {
		return err
	}
	if err := checkConfiguration(at.GetConfState()); err != nil {
		return fmt.Errorf("MsgSnap with a configuration that is none: %w", err)
	}
	return nil
}

// checkConfiguration takes a configuration over as raft does, which does not go on if that fails.
func checkConfiguration(cs *raftpb.ConfState) error {
	if n := len(cs.GetVoters()) + len(cs.GetLearners()) + len(cs.GetVotersOutgoing()) + len(cs.GetLearnersNext()); n > maxVoters {
		return fmt.Errorf("it has %d members", n)
	}
	became := tracker.MakeProgressTracker(1, 0)
	config, progress, err := confchange.Restore(confchange.Changer{Tracker: became, LastIndex: 1}, cs)
	if err != nil {
		return err
	}
	became.Config, became.Progress = config, progress
	return cs.Equivalent(became.ConfState())
}
