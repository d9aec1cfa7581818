package coretest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Operation is a write or a linearizable read that a client has asked a member for.
type Operation struct {
	id     uint64
	isRead bool
	member uint64
	begun  time.Duration
	// floor is the position of the last operation that had ended when this one began, and position that of this one: the index of a
	// write's entry, or what was applied when a read was answered.
	floor, position uint64
	outcome         outcome
}

type outcome int

const (
	unknown outcome = iota
	done
	open // nobody will tell whether it is carried out
)

func (o outcome) String() string { return [...]string{"unknown", "done", "open"}[o] }

const (
	// requestTicks is how long a member keeps a batch that it has proposed.
	requestTicks = 100
	// maxBatches is how many may be on their way, as at core.
	maxBatches = 4
)

// writeQueue is the writes that wait for the next entry, and the batches on their way; see core.requestQueue.
type writeQueue struct {
	waiting   []*Operation
	nextBatch uint64
	sent      []*batch
}

type batch struct {
	id        uint64
	writes    []*Operation
	term      uint64
	ticks     int
	isAwaited bool // it has not been given up as lost, so that the next one may have to wait for it
}

// isDue tells whether there is something to propose, and few enough batches are on their way.
func (q *writeQueue) isDue(logIdle bool) bool {
	onWay := 0
	for _, b := range q.sent {
		if b.isAwaited {
			onWay++
		}
	}
	return len(q.waiting) > 0 && (onWay == 0 || logIdle && onWay < maxBatches)
}

// lostTouch says that what is on its way may be lost.
func (q *writeQueue) lostTouch() {
	for _, b := range q.sent {
		b.isAwaited = false
	}
}

func (q *writeQueue) propose(m *Member) {
	q.nextBatch++
	b := &batch{id: q.nextBatch, writes: q.waiting, term: m.machine.Role().Term, isAwaited: true}
	data := binary.LittleEndian.AppendUint64(nil, b.id)
	for _, w := range b.writes {
		data = binary.LittleEndian.AppendUint64(data, w.id)
	}
	q.waiting = nil
	q.sent = append(q.sent, b)
	if err := m.machine.Propose(data); err != nil {
		if !errors.Is(err, raft.ErrProposalDropped) {
			m.cluster.violate("propose", "member %d: %v", m.id, err)
		}
		m.cluster.checks.counts.dropped++
		q.forget(b.id)
		q.waiting = b.writes
	}
}

func (q *writeQueue) forget(id uint64) *batch {
	i := slices.IndexFunc(q.sent, func(b *batch) bool { return b.id == id })
	if i < 0 {
		return nil
	}
	b := q.sent[i]
	q.sent = slices.Delete(q.sent, i, i+1)
	return b
}

func (q *writeQueue) applied(m *Member, entry *raftpb.Entry) {
	data := entry.GetData()
	if len(data) == 0 {
		return
	}
	if b := q.forget(binary.LittleEndian.Uint64(data)); b != nil {
		for _, w := range b.writes {
			m.cluster.checks.end(w, entry.GetIndex())
		}
	}
}

// superseded says that an entry of a term was applied: what was proposed in earlier ones, and is not applied, is open.
func (q *writeQueue) superseded(term uint64) {
	q.lose(func(b *batch) bool { return b.term < term })
}

func (q *writeQueue) expire() {
	q.lose(func(b *batch) bool {
		b.ticks++
		b.isAwaited = b.isAwaited && b.ticks <= electionTicks
		return b.ticks > requestTicks
	})
}

func (q *writeQueue) lose(isLost func(*batch) bool) {
	q.sent = slices.DeleteFunc(q.sent, func(b *batch) bool {
		if !isLost(b) {
			return false
		}
		for _, w := range b.writes {
			w.outcome = open
		}
		return true
	})
}

// readGate is the reads that wait; see core.readGate.
type readGate struct {
	base    uint64
	next    []*Operation
	sent    []*readCheck
	waiting []*readCheck
	lastID  uint64
}

type readCheck struct {
	id    uint64
	reads []*Operation
	index uint64
	ticks int
}

// As at core: how often a question is asked again, and how many may be on their way.
const (
	retryTicks = 5
	maxChecks  = 2
)

func (g *readGate) isDue() bool { return len(g.next) > 0 && len(g.sent) < maxChecks }

func (g *readGate) take() []byte {
	g.lastID++
	g.sent = append(g.sent, &readCheck{id: g.lastID, reads: g.next})
	g.next = nil
	return g.context(g.lastID)
}

func (g *readGate) context(id uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, g.base), id)
}

func (g *readGate) confirm(m *Member, context []byte, index uint64) {
	if len(context) != 16 || binary.LittleEndian.Uint64(context) != g.base {
		return
	}
	id := binary.LittleEndian.Uint64(context[8:])
	for i, check := range g.sent {
		if check.id == id {
			g.sent = slices.Delete(g.sent, i, i+1)
			check.index = index
			g.waiting = append(g.waiting, check)
			g.reached(m)
			return
		}
	}
}

// reached answers the reads for which the store has come far enough.
func (g *readGate) reached(m *Member) {
	g.waiting = slices.DeleteFunc(g.waiting, func(check *readCheck) bool {
		if check.index > m.state.index {
			return false
		}
		for _, r := range check.reads {
			m.cluster.checks.end(r, m.state.index)
		}
		return true
	})
}

func (g *readGate) tick(m *Member) {
	for _, check := range g.sent {
		if check.ticks++; check.ticks%retryTicks == 0 && m.machine.CanRead() {
			m.machine.ReadIndex(g.context(check.id))
		}
	}
}

func (g *readGate) askAgain(m *Member) {
	for _, check := range g.sent {
		m.machine.ReadIndex(g.context(check.id))
	}
}

// change is a change of the membership that a leader has been asked for; see core.reconfiguration.
type change struct {
	id     uint64
	kind   raftpb.ConfChangeType
	member uint64
	logged bool
	tried  uint64 // how far raft had applied when it did not take it
	isNew  bool
}

func (c *change) isDue(m *Member) bool {
	return c != nil && !c.logged && (c.isNew || m.machine.Applied() > c.tried)
}

func (c *change) propose(m *Member) {
	c.isNew, c.tried = false, m.machine.Applied()
	data, err := proto.Marshal(&raftpb.ConfChange{Id: &c.id, Type: c.kind.Enum(), NodeId: &c.member})
	if err == nil {
		c.logged, err = m.machine.ProposeChange(data)
	}
	if err != nil {
		m.cluster.trace("member %d: change is dropped: %v", m.id, err)
		m.change = nil
	}
}

func (c *change) String() string { return fmt.Sprintf("%v of %d", c.kind, c.member) }

// writesOf are the ids of the writes in an entry.
func writesOf(entry *raftpb.Entry) (ids []uint64) {
	if entry.GetType() != raftpb.EntryNormal || len(entry.GetData()) == 0 {
		return nil
	}
	for data := entry.GetData()[8:]; len(data) > 0; data = data[8:] {
		ids = append(ids, binary.LittleEndian.Uint64(data))
	}
	return ids
}
