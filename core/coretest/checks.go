package coretest

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"weir/core/consensus"
)

// checks holds everything that members do against what must be true of all of them together. Nothing here knows how raft works: what
// must hold is that of the Raft paper's figure 3, and what is promised to clients.
type checks struct {
	cluster *Cluster
	leaders map[uint64]uint64 // by term
	chains  map[entryAt]chain // of the log up to any entry that any member was ever asked to append
	history []position        // what was applied, by index
	written map[uint64]uint64 // the entry of each write that was applied
	ended   uint64            // the position of the last operation that has ended
	terms   map[uint64]uint64 // what each member has said last that its term is, and holds after a crash, too
	changes map[uint64]error  // what came of those that were applied
	counts  counts
}

// entryAt is what names an entry: there is one of a term at an index, or none.
type entryAt struct{ index, term uint64 }

// position is an entry that was applied, the chain up to it, and the term of the member that was the first to apply it.
type position struct {
	term, under uint64
	chain       chain
}

// counts is what has happened in a run.
type counts struct {
	elections, writes, reads, snapshots, changes int
	// What bounds have brought about: works held back at a tick, messages that were not taken, and proposals that raft has dropped.
	held, refused, dropped int
}

func newChecks(c *Cluster) checks {
	return checks{
		cluster: c, leaders: map[uint64]uint64{}, chains: map[entryAt]chain{}, written: map[uint64]uint64{},
		terms: map[uint64]uint64{}, changes: map[uint64]error{},
	}
}

func (k *checks) founded(s state) {
	k.chains[entryAt{s.index, s.term}] = s.chain
	k.history = make([]position, s.index, 1024)
	k.history = append(k.history, position{term: s.term, chain: s.chain})
	k.chains[entryAt{}] = 0
}

// started: a member comes back with what it has attested.
func (k *checks) started(m *Member) {
	if term := m.machine.Role().Term; term < k.terms[m.id] {
		k.cluster.violate("durable term", "member %d starts in term %d after it has said that it is in %d", m.id, term, k.terms[m.id])
	}
}

// appended: log matching. If two logs have an entry of the same index and term, all before is the same.
func (k *checks) appended(m *Member, entries []*raftpb.Entry) {
	if m.installing {
		k.cluster.violate("install", "member %d is asked to append while a snapshot is installed", m.id)
	}
	if len(entries) == 0 {
		return
	}
	l := m.asked()
	before := entryAt{entries[0].GetIndex() - 1, 0}
	before.term = l.term(before.index)
	sum, ok := k.chains[before]
	if !ok {
		k.cluster.violate("log matching", "member %d appends after entry %d of term %d, which nobody has", m.id, before.index, before.term)
		return
	}
	for _, e := range entries {
		sum = sum.with(e)
		at := entryAt{e.GetIndex(), e.GetTerm()}
		if known, ok := k.chains[at]; ok && known != sum {
			k.cluster.violate("log matching", "member %d has a log up to entry %d of term %d that differs from another's", m.id, at.index, at.term)
		}
		k.chains[at] = sum
		if p := k.at(at.index); p.chain != 0 && p.chain != sum && l.term(at.index) == p.term && at.index <= m.state.index {
			k.cluster.violate("append only", "member %d overwrites entry %d, which it has applied", m.id, at.index)
		}
	}
}

// at is what was applied at an index, empty if nothing was.
func (k *checks) at(index uint64) position {
	if index >= uint64(len(k.history)) {
		return position{}
	}
	return k.history[index]
}

// became: election safety, at most one leader in a term; and leader completeness, a leader has everything that was committed in
// earlier terms.
func (k *checks) became(m *Member, r consensus.Role) {
	if r.Term < k.terms[m.id] {
		k.cluster.violate("terms", "member %d goes back from term %d to %d", m.id, k.terms[m.id], r.Term)
	}
	if !r.Leads {
		return
	}
	if other, ok := k.leaders[r.Term]; ok && other != m.id {
		k.cluster.violate("election safety", "members %d and %d lead in term %d", other, m.id, r.Term)
	} else if !ok {
		k.counts.elections++
	}
	k.leaders[r.Term] = m.id
	l := m.logged()
	for i := len(k.history) - 1; i > firstIndex; i-- {
		p := k.history[i]
		if p.under >= r.Term {
			continue // a late leader of an earlier term
		}
		if index := uint64(i); index >= l.before && l.term(index) != p.term {
			k.cluster.violate("leader completeness", "member %d leads in term %d without entry %d of term %d, which was committed in term %d at the latest", m.id, r.Term, index, p.term, p.under)
		}
		return
	}
}

// toApply: only what is durable here is applied here.
func (k *checks) toApply(m *Member, entries []*raftpb.Entry) {
	for _, e := range entries {
		l := &m.disk.log
		if e.GetIndex() > l.before && l.term(e.GetIndex()) != e.GetTerm() {
			k.cluster.violate("durable", "member %d is to apply entry %d of term %d, which is not durable here", m.id, e.GetIndex(), e.GetTerm())
		}
	}
}

// applied: state machine safety. Whoever applies an entry at an index has applied the same up to it.
func (k *checks) applied(m *Member, entry *raftpb.Entry) {
	index := entry.GetIndex()
	switch p := k.at(index); {
	case index < uint64(len(k.history)):
		if p.chain != m.state.chain {
			k.cluster.violate("state machine safety", "member %d has another state than others after entry %d of term %d", m.id, index, entry.GetTerm())
		}
		return
	case index > uint64(len(k.history)):
		k.cluster.violate("state machine safety", "member %d applies entry %d and nobody has applied the one before", m.id, index)
		return
	}
	k.history = append(k.history, position{entry.GetTerm(), m.machine.Role().Term, m.state.chain})
	for _, id := range writesOf(entry) {
		if other, ok := k.written[id]; ok {
			k.cluster.violate("applied once", "write %d is in entry %d and in entry %d", id, other, index)
		}
		k.written[id] = index
	}
}

// installed: a snapshot is what its members would have applied.
func (k *checks) installed(m *Member) {
	k.counts.snapshots++
	if p := k.at(m.state.index); p.chain != m.state.chain || p.term != m.state.term {
		k.cluster.violate("state machine safety", "member %d has installed another state than others have after entry %d", m.id, m.state.index)
	}
}

// sent: nothing is said to another member that attests what is not durable here.
func (k *checks) sent(m *Member, message *raftpb.Message) {
	term, log := message.GetTerm(), &m.disk.log
	durable := max(log.hardState.GetTerm(), firstTerm)
	switch message.GetType() {
	case raftpb.MsgAppResp, raftpb.MsgVoteResp:
	default:
		return
	}
	if message.GetReject() || durable > term { // of an earlier term: who asked has nothing of it any more
		return
	}
	k.terms[m.id] = max(k.terms[m.id], term)
	if durable < term {
		k.cluster.violate("durable", "member %d sends %v in term %d, and its disk has term %d", m.id, message.GetType(), term, durable)
		return
	}
	switch message.GetType() {
	case raftpb.MsgVoteResp:
		if vote := log.hardState.GetVote(); vote != message.GetTo() {
			k.cluster.violate("durable", "member %d votes for %d in term %d, and its disk has a vote for %d", m.id, message.GetTo(), term, vote)
		}
	case raftpb.MsgAppResp:
		if index := message.GetIndex(); index > log.last() && index > m.disk.store.index {
			k.cluster.violate("durable", "member %d says that it has entry %d, and its disk has entry %d", m.id, index, log.last())
		}
	}
}

// end: linearizability. Writes are in the order of their entries, and a read is after what had been applied when it was answered. So it
// remains to be seen that an operation that began after another had ended has a later position.
func (k *checks) end(o *Operation, at uint64) {
	o.position, o.outcome = at, done
	switch {
	case o.isRead:
		k.counts.reads++
		if at < o.floor {
			k.cluster.violate("linearizable reads", "a read on member %d saw entry %d, and before it began entry %d had been acknowledged or seen", o.member, at, o.floor)
		}
	default:
		k.counts.writes++
		if at <= o.floor {
			k.cluster.violate("linearizable writes", "a write on member %d is entry %d, and before it began entry %d had been acknowledged or seen", o.member, at, o.floor)
		}
		if k.written[o.id] != at {
			k.cluster.violate("acknowledged", "a write was acknowledged at entry %d and is in entry %d", at, k.written[o.id])
		}
	}
	k.ended = max(k.ended, at)
}

// configured: raft has the membership that has been applied here.
func (k *checks) configured(m *Member, has *raftpb.ConfState) {
	if want := m.state.conf; !slices.Equal(sortedIDs(has.GetVoters()), sortedIDs(want.GetVoters())) || !slices.Equal(sortedIDs(has.GetLearners()), sortedIDs(want.GetLearners())) {
		k.cluster.violate("configuration", "member %d has applied the membership %v, and its raft has %v", m.id, want, has)
	}
}

func sortedIDs(ids []uint64) []uint64 { return slices.Sorted(slices.Values(ids)) }

func (k *checks) changed(id uint64, refused error) {
	if _, ok := k.changes[id]; !ok && refused == nil {
		k.counts.changes++
	}
	k.changes[id] = refused
}

// atEnd: nothing that was acknowledged is lost.
func (k *checks) atEnd() {
	for _, m := range k.cluster.sorted() {
		if m.isRunning && m.state.index > 0 && m.state.chain != k.at(m.state.index).chain {
			k.cluster.violate("state machine safety", "member %d has another state than others after entry %d", m.id, m.state.index)
		}
	}
	if leader := k.cluster.leader(); leader != nil && leader.state.index < k.ended {
		k.cluster.violate("acknowledged", "the leader is at entry %d, and entry %d was acknowledged", leader.state.index, k.ended)
	}
}
