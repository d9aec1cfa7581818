package consensus

import (
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// Outgoing is the snapshots that this leader sends. Each is here until its receiver has installed it, and has come near the end of the
// log by the entries behind it. So long the log is kept from the entry on that raft has asked for (see Oldest): a large store takes a
// while to send and to install, and if the log were cut meanwhile the receiver would need the next snapshot, and so on. (etcd keeps
// its log for 30 s after a snapshot was sent.)
//
// That a snapshot has come to its receiver raft is told only when it is installed, which raft finds by the receiver's answer. Told
// before, it would send the entries behind the one that it has asked for with each answer to a heartbeat, to who can take none of them
// yet; and that is an earlier one than the snapshot has, which is as new as the store was.
//
// Rejected: to have the receiver say that it has come when it is installed. A connection that breaks meanwhile would be a failure, of
// which raft sends the next one.
//
// Oldest and Release may be called by any goroutine.
type Outgoing struct {
	mu sync.Mutex // guards to
	to map[uint64]*receiver
}

// receiver is somebody who is sent a snapshot, or has been.
type receiver struct {
	// index is up to which entry it needs the log no more: the one that raft has asked for, or once it has installed a snapshot the
	// last that it has acknowledged.
	index     uint64
	sending   bool // the snapshot that was asked for last is on its way
	has       bool // it has one, and may not have installed it
	installed bool
	ticks     int // since that has come
}

// answerTimeouts is after how many election timeouts without an answer of who has a snapshot raft is told all the same: the answer
// may be lost.
const answerTimeouts = 10

// Oldest is the lowest entry behind which one of the receivers that are reached needs the log: how it went with the others is told
// late. It is not ok if there is none.
func (o *Outgoing) Oldest(isReached func(id uint64) bool) (index uint64, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, r := range o.to {
		if isReached(id) && (!ok || r.index < index) {
			index, ok = r.index, true
		}
	}
	return index, ok
}

// Release ends those that have been installed and followed by all up to an entry.
func (o *Outgoing) Release(index uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, r := range o.to {
		if r.installed && r.index >= index {
			delete(o.to, id)
		}
	}
}

// clear ends all.
func (o *Outgoing) clear() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.to)
}

// ask notes that raft asks for a snapshot that has an entry. A receiver that has one which it has not installed takes no other before,
// and will need what is behind that one.
func (o *Outgoing) ask(to, index uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := &receiver{index: index, sending: true}
	if before := o.to[to]; before != nil && before.has && !before.installed {
		r.index, r.has = min(index, before.index), true
	}
	if o.to == nil {
		o.to = map[uint64]*receiver{}
	}
	o.to[to] = r
}

// sent notes how it went with the one that was asked for last.
func (o *Outgoing) sent(to uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.to[to]
	switch {
	case r == nil:
	case err == nil:
		r.sending, r.has, r.ticks = false, true, 0
	case !r.has && !r.installed:
		delete(o.to, to)
	default: // it still has to come from the one that it has to the end of the log
		r.sending = false
	}
}

// follow notes, at each tick, how far the receivers have come, and returns of whom raft is to be told that they have their snapshot.
// None is of who is no member, and where this member does not lead.
func (o *Outgoing) follow(progress func(id uint64) (p tracker.Progress, ok bool), patience int) (have []uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, r := range o.to {
		p, ok := progress(id)
		if !ok {
			delete(o.to, id)
			continue
		}
		if p.Match >= r.index {
			r.index, r.installed = p.Match, true
		}
		if r.sending || p.State != tracker.StateSnapshot { // by the answer raft has found it itself
			continue
		}
		if r.ticks++; r.installed || r.ticks > patience {
			have = append(have, id)
		}
	}
	return have
}

// lostTouch notes that an answer may be lost with the connection.
func (o *Outgoing) lostTouch(id uint64, patience int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.to[id]; r != nil && !r.sending {
		r.ticks = patience
	}
}

// Outgoing is the snapshots that this leader sends.
func (m *Machine) Outgoing() *Outgoing { return &m.outgoing }

// SnapshotSent says how it went with a snapshot that Send was asked for: without an error its receiver has it, and will install it.
func (m *Machine) SnapshotSent(id uint64, err error) {
	m.outgoing.sent(id, err)
	if err != nil {
		m.raw.ReportSnapshot(id, raft.SnapshotFailure)
	}
}

// Unreachable says that messages to another member were lost.
func (m *Machine) Unreachable(id uint64) {
	m.raw.ReportUnreachable(id)
	m.outgoing.lostTouch(id, m.answerPatience())
}

// followOutgoing is called at each tick.
func (m *Machine) followOutgoing() {
	for _, id := range m.outgoing.follow(m.progress, m.answerPatience()) {
		m.raw.ReportSnapshot(id, raft.SnapshotFinish)
	}
}

func (m *Machine) answerPatience() int { return answerTimeouts * m.electionTicks }

// progress is what this leader knows of another member. It is not ok on others, and of who is none.
func (m *Machine) progress(id uint64) (found tracker.Progress, ok bool) {
	if !m.role.Leads {
		return found, false
	}
	m.raw.WithProgress(func(other uint64, _ raft.ProgressType, p tracker.Progress) {
		if other == id {
			found, ok = p, true
		}
	})
	return found, ok
}
