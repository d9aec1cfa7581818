package consensus

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// saving is what raft wants in the log and is not durable there yet: what the log has been asked for, and what waits for its turn.
//
// The log is not asked for more than a bounded number of bytes, so that it never has to make the driver wait, and with it the
// heartbeats. What waits costs nothing more: raft itself has these entries in memory. How many there may be is bounded by what
// leaders send to a follower that does not answer, by isFull, and on a leader by isBehind.
type saving struct {
	// hardState is the last that raft wanted.
	hardState *raftpb.HardState
	// asked is how many works the log has been asked for that are not done, and askedBytes what they have.
	asked, askedBytes int
	// installing says that one of them is a snapshot that is being installed.
	installing bool
	// held is what the log is to be asked for later, and heldBytes what it has.
	held      []Work
	heldBytes int
	// last is the index of the last entry that raft has wanted in the log.
	last uint64
	// unapplied is about how many bytes of entries have come and are not applied.
	unapplied int
	bounds    Bounds
}

const (
	// entryOverhead is about what an entry takes besides its data, and workOverhead a work with an answer.
	entryOverhead = 64
	workOverhead  = 512
)

var (
	errBehind    = errors.New("the log of this leader is too far behind")
	errFull      = errors.New("too much waits for the log of this member")
	errLate      = errors.New("this member applies too slowly")
	errNotLeader = errors.New("this member does not lead")
)

// isBehind tells whether a leader is to take no more. The others may have all that it cannot write, so that it is committed, and
// nothing else would hold them back.
func (m *Machine) isBehind() bool {
	return m.role.Leads && m.askedBytes+m.heldBytes >= m.bounds.Unsaved
}

// isFull tells whether no more that is to be answered when it is durable should be taken. A leader bounds the entries that it sends to
// a follower that does not answer, but not what it sends without entries: to a follower that lags as often as that answers a heartbeat,
// which is with each linearizable read. And there may be one leader, or candidate, after another.
func (m *Machine) isFull() bool { return m.asked+len(m.held) >= m.bounds.Works }

// isLate tells whether no more entries should be taken before some are applied: till then they are kept in memory. There has to be
// something to apply: what is not committed may be the remains of earlier leaders, which only the entries of the next one replace.
func (m *Machine) isLate() bool { return m.unapplied >= m.bounds.Unapplied && !m.IsSettled() }

// IsLogIdle tells whether nothing is asked of the log.
func (m *Machine) IsLogIdle() bool { return m.asked == 0 }

// IsInstalling tells whether a snapshot is to be installed, and is not.
func (m *Machine) IsInstalling() bool {
	return m.installing || slices.ContainsFunc(m.held, func(w Work) bool { return w.snapshot != nil })
}

// Held is what raft wants in the log and the log has not been asked for, in order: entries, or a snapshot that takes the place of all.
func (m *Machine) Held() iter.Seq2[[]*raftpb.Entry, *raftpb.SnapshotMetadata] {
	return func(yield func([]*raftpb.Entry, *raftpb.SnapshotMetadata) bool) {
		for _, w := range m.held {
			if !yield(w.entries, w.snapshot) {
				return
			}
		}
	}
}

// store has the log take what raft wants there.
func (m *Machine) store(message *raftpb.Message) {
	hs := &raftpb.HardState{Term: proto.Uint64(message.GetTerm()), Vote: proto.Uint64(message.GetVote()), Commit: proto.Uint64(message.GetCommit())}
	if raft.IsEmptyHardState(hs) {
		hs = m.hardState
	}
	before := m.hardState
	m.hardState = hs
	if s := message.GetSnapshot(); !raft.IsEmptySnap(s) {
		m.last = s.GetMetadata().GetIndex()
	}
	if n := len(message.GetEntries()); n > 0 {
		m.last = message.GetEntries()[n-1].GetIndex()
		m.proposed(m.last)
	}
	w := Work{hardState: hs, entries: message.GetEntries(), responses: message.GetResponses()}
	if s := message.GetSnapshot(); !raft.IsEmptySnap(s) {
		install := Work{hardState: hs, snapshot: s.GetMetadata()}
		if len(w.entries) == 0 {
			install.responses = w.responses
			m.save(install)
			return
		}
		m.save(install)
	} else if len(w.entries) == 0 && hs.GetTerm() == before.GetTerm() && hs.GetVote() == before.GetVote() {
		// The commit index alone is worth no disk write: the next append carries it, and after a crash raft finds it again
		// (Raft, figure 2: commitIndex is volatile). The responses may attest earlier appends, so they wait for those.
		w.hardState = nil
		if len(w.responses) == 0 {
			return
		}
		if m.asked == 0 && len(m.held) == 0 {
			m.deliver(w.responses)
			return
		}
	}
	m.save(w)
}

// save asks the log for a work, or holds it until it may be asked.
func (m *Machine) save(w Work) {
	size := sizeOf(w.entries)
	w.bytes = workOverhead + size
	m.unapplied += size
	if len(m.held) == 0 && m.mayAsk() {
		m.ask(w)
		return
	}
	m.held = append(m.held, w)
	m.heldBytes += w.bytes
}

// sizeOf is what entries take in memory.
func sizeOf(entries []*raftpb.Entry) (bytes int) {
	for _, e := range entries {
		bytes += entryOverhead + len(e.GetData())
	}
	return bytes
}

func (m *Machine) mayAsk() bool { return !m.installing && m.askedBytes < m.bounds.Asked }

func (m *Machine) ask(w Work) {
	m.asked++
	m.askedBytes += w.bytes
	if w.snapshot != nil {
		m.installing = true
		m.effects.Install(w.snapshot, w.hardState, w)
		return
	}
	m.effects.Append(w.hardState, w.entries, w)
}

// Done says that what was asked for has been done.
func (m *Machine) Done(w Work) {
	if !w.isApplied {
		m.saved(w)
	}
	m.deliver(w.responses)
	if w.isApplied { // raft has heard of it
		m.unapplied = max(0, m.unapplied-w.bytes)
		if m.IsSettled() { // of those that others have replaced nothing is heard any more
			m.unapplied = 0
		}
	}
	for len(m.held) > 0 && m.mayAsk() {
		next := m.held[0]
		m.held[0], m.held = Work{}, m.held[1:]
		m.heldBytes -= next.bytes
		m.ask(next)
	}
}

// saved makes what the log has done raft's.
func (m *Machine) saved(w Work) {
	m.asked--
	m.askedBytes -= w.bytes
	var err error
	switch {
	case w.snapshot != nil:
		err = m.storage.ApplySnapshot(&raftpb.Snapshot{Metadata: w.snapshot})
		m.installing, m.unapplied = false, 0
		m.setVoters(w.snapshot.GetConfState())
	case len(w.entries) > 0:
		err = m.storage.Append(w.entries)
	}
	if err != nil { // the driver has done something else than it was asked for
		panic(fmt.Sprintf("raft's storage does not take what the log has: %v", err))
	}
}
