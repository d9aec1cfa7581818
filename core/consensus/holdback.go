package consensus

import (
	"math"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// holdback keeps back what would tell a follower nothing but how far the log is committed: the next append tells it that, too. When one
// write comes soon after another, such messages are half of what a leader sends, and each costs as much as an append: a follower is
// woken by it.
//
// Nothing depends on them, as raft's messages may be lost; but somebody may wait for what they say. So none is kept back
//
//   - from a follower that has forwarded a proposal, before that is committed: its client waits;
//   - behind the answer to a read: it waits until that index is applied;
//   - when a change of the membership is committed: who is removed by it is not reached later;
//   - when no other write was committed lately;
//   - for longer than two intervals between calls of ReleaseHeld, for those who watch at a follower.
//
// What raft sends to find out how far a follower is, is never kept back.
//
// Rejected: to leave it to heartbeats, which come too late for those who watch; to do it where messages are queued, which does not know
// who waits; and to keep all back for an interval that is shorter: the driver's timer, which wakes the leader, then costs what is saved.
type holdback struct {
	followers []*follower // to whom this leader has sent appends
	pacing    int         // how many of them have been told something lately
}

// follower is what a leader has told one.
type follower struct {
	id       uint64
	told     uint64          // up to where the log is committed by the appends to it, that which is held included
	recent   int             // in how many calls of ReleaseHeld it will not have been told something lately
	waitsFor uint64          // the last entry that it has forwarded, if it has not been told that this is committed; else 0
	held     *raftpb.Message // an append without entries; nil if none is held
	isDue    bool            // that is sent at the next call of ReleaseHeld
}

// unknownEntry is that of a proposal that raft has taken, before it shows which it is.
const unknownEntry = math.MaxUint64

// IsPacing tells whether ReleaseHeld is to be called after an interval: something is held back, or would be.
func (m *Machine) IsPacing() bool { return m.pacing > 0 }

// ReleaseHeld sends what was held back already when it was called before. It is to be called at intervals while IsPacing, and so bounds
// by two of them for how long a follower is not told what is committed.
func (m *Machine) ReleaseHeld() {
	for _, f := range m.followers {
		if f.isDue {
			m.release(f)
		}
		f.isDue = f.held != nil
		if f.recent > 0 {
			if f.recent--; f.recent == 0 {
				m.pacing--
			}
		}
	}
}

// releaseAll sends all that is held back.
func (m *Machine) releaseAll() {
	for _, f := range m.followers {
		m.release(f)
	}
}

// release sends what is held back from a follower; nil is nobody.
func (m *Machine) release(f *follower) {
	if f != nil && f.held != nil {
		m.effects.Send([]*raftpb.Message{f.held})
		f.drop()
	}
}

// drop forgets what is held back: something is sent that says it, too.
func (f *follower) drop() { f.held, f.isDue = nil, false }

// follower is nil for who has not been sent an append.
func (m *Machine) follower(id uint64) *follower {
	for _, f := range m.followers {
		if f.id == id {
			return f
		}
	}
	return nil
}

// forwarded notes that raft has taken a proposal of a member.
func (m *Machine) forwarded(id uint64) {
	if f := m.follower(id); f != nil { // else nothing can be held back from it
		f.waitsFor = unknownEntry
	}
}

// proposed notes which entries proposals have become.
func (m *Machine) proposed(last uint64) {
	for _, f := range m.followers {
		if f.waitsFor == unknownEntry {
			f.waitsFor = last
		}
	}
}

// holdsBack tells whether a message is not to be sent now.
func (m *Machine) holdsBack(message *raftpb.Message) bool {
	switch message.GetType() {
	case raftpb.MsgApp:
		return m.holdsBackAppend(message)
	case raftpb.MsgReadIndexResp:
		m.release(m.follower(message.GetTo()))
	}
	return false
}

func (m *Machine) holdsBackAppend(message *raftpb.Message) bool {
	f := m.follower(message.GetTo())
	if f == nil {
		f = &follower{id: message.GetTo()}
		m.followers = append(m.followers, f)
	}
	commit := message.GetCommit()
	isNews, isLately := commit > f.told, f.recent > 0
	if isNews {
		f.told, f.recent = commit, 2
		if !isLately {
			m.pacing++
		}
	}
	if len(message.GetEntries()) == 0 && isNews && isLately && f.waitsFor == 0 && m.isReplicating(f.id) {
		f.held = message // isDue stays: the follower has not been told what was held before
		return true
	}
	f.drop()
	if commit >= f.waitsFor {
		f.waitsFor = 0
	}
	return false
}

// isReplicating tells whether raft takes it for certain that a follower has the log up to the last entry that was sent to it.
func (m *Machine) isReplicating(id uint64) (is bool) {
	m.raw.WithProgress(func(other uint64, _ raft.ProgressType, p tracker.Progress) {
		is = is || other == id && p.State == tracker.StateReplicate
	})
	return is
}

// changesMembers tells whether among entries is a change of the membership.
func changesMembers(entries []*raftpb.Entry) bool {
	for _, e := range entries {
		if e.GetType() != raftpb.EntryNormal {
			return true
		}
	}
	return false
}
