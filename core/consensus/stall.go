package consensus

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// stall is what a leader has to know to tell whether its disk holds up a cluster that would do better under another member.
//
// Nothing would be lost if it went on leading, since its heartbeats do not wait for its disk; but it applies nothing, so that who asks
// this member waits, and no lease expires, and at last it takes no more writes. At etcd such a leader is silent, and is deposed.
//
// Only a leader whose disk is worse than another's leaves:
//
//   - Its log lags: what was committed some election timeouts ago is not durable here now. It does not matter whether the disk stands
//     still, or writes less than comes.
//   - The other has acknowledged an entry from after that: its disk works, and did not stop with this one, as when they are one, and it
//     is not as slow. If there is no such entry, the leader makes an empty one.
//   - That is so seldom that, if it helps nothing, it does little harm: who takes over may fail to, as it may see nobody but this
//     leader. And of two the one that has failed is the last to be asked again.
//
// To leave as soon as the log has done nothing for an election timeout, to who has most of it, was the first rule. With disks that are
// all slow, or one, it was an election after another.
type stall struct {
	marks []mark // of the last ticks, the oldest first
	// ticks is for how many it has led, or since when it has tried to leave.
	ticks int
	tried uint64 // who has been asked to take over, and has not
}

// mark is what a leader knew at a tick.
type mark struct{ committed, last uint64 }

const (
	// lagTimeouts is for how many election timeouts a leader's disk may lag.
	lagTimeouts = 2
	// stayTimeouts is for how many election timeouts it leads, or stays after an attempt to leave, in any case.
	stayTimeouts = 10
)

// leaveIfStalled is called at each tick.
func (m *Machine) leaveIfStalled() {
	if !m.role.Leads {
		return
	}
	m.ticks++
	m.marks = append(m.marks, mark{m.committed, m.last})
	if len(m.marks) <= lagTimeouts*m.electionTicks {
		return
	}
	then := m.marks[0]
	m.marks = m.marks[1:]
	durable, err := m.storage.LastIndex()
	if err != nil || then.committed <= durable || m.ticks < stayTimeouts*m.electionTicks {
		return
	}
	to := m.faster(m.marks[len(m.marks)-m.electionTicks].last)
	switch {
	case to != raft.None:
		m.log.Warn("the disk of this leader is too slow, and another member is to lead", "member", fmt.Sprintf("%x", to),
			"durable", durable, "committed", m.committed)
		m.ticks, m.tried = 0, to
		m.raw.TransferLeader(to)
	case m.last == m.committed:
		if err := m.raw.Propose(nil); err != nil {
			m.log.Debug("raft took no empty entry", "error", err)
		}
	}
}

// faster is a voter that has acknowledged an entry behind one; 0 if there is none. It is the one that has most, but who has been tried
// is the last.
func (m *Machine) faster(last uint64) (id uint64) {
	var match uint64
	m.raw.WithProgress(func(other uint64, kind raft.ProgressType, p tracker.Progress) {
		if other == m.id || kind != raft.ProgressTypePeer || p.Match <= last {
			return
		}
		if id == raft.None || id == m.tried || other != m.tried && p.Match >= match {
			id, match = other, p.Match
		}
	})
	return id
}
