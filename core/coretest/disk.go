package coretest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"weir/core/consensus"
)

// disk is what of a member survives a crash: the log, the store as of its last commit, and a snapshot that has come and may not be
// installed. What is queued for it, or being written, is in its member's log writer.
type disk struct {
	log      logFile
	store    state
	incoming *state

	sync    span // how long a write takes
	isStuck bool
	// reverts is what a disk that lies really has: at a crash it forgets all that came later.
	reverts *disk
}

// logFile is a log as recovery would read it. Its slices are shared and never changed in place.
type logFile struct {
	hardState *raftpb.HardState
	// Before is what the log begins after: where it was cut, or the snapshot that has replaced it.
	before, beforeTerm uint64
	snapshot           uint64 // index of that snapshot
	entries            []*raftpb.Entry
}

func (l *logFile) last() uint64 { return l.before + uint64(len(l.entries)) }

// term is that of an entry, 0 if it is not there.
func (l *logFile) term(index uint64) uint64 {
	switch {
	case index == l.before:
		return l.beforeTerm
	case index < l.before || index > l.last():
		return 0
	}
	return l.entries[index-l.before-1].GetTerm()
}

// append adds entries in place of those of their indexes and above.
func (l *logFile) append(entries []*raftpb.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	first := entries[0].GetIndex()
	if first <= l.before || first > l.last()+1 {
		return fmt.Errorf("entry %d is appended to a log of %d to %d", first, l.before+1, l.last())
	}
	l.entries = append(slices.Clip(l.entries[:first-l.before-1]), entries...)
	return nil
}

func (l *logFile) cut(index uint64) {
	if index <= l.before {
		return
	}
	l.beforeTerm = l.term(index)
	l.entries = l.entries[index-l.before:]
	l.before = index
}

// write is one thing that a log is asked to make durable.
type write struct {
	hardState *raftpb.HardState
	entries   []*raftpb.Entry
	replace   *raftpb.SnapshotMetadata // of the snapshot that stands for all before
	then      func()
}

func (w *write) to(l *logFile) error {
	if w.hardState != nil {
		l.hardState = proto.Clone(w.hardState).(*raftpb.HardState)
	}
	if s := w.replace; s != nil {
		*l = logFile{hardState: l.hardState, before: s.GetIndex(), beforeTerm: s.GetTerm(), snapshot: s.GetIndex()}
		return nil
	}
	return l.append(w.entries)
}

// logWriter makes what is queued durable, in batches: what comes while one is written is the next. A crash leaves any part of the
// order: those writes that were first.
type logWriter struct {
	queue   []write
	writing []write
	isBusy  bool // writing, or about to
	isLate  bool // what is being written has to wait for a disk that is stuck
}

// appendLog queues a write.
func (m *Member) appendLog(w write) {
	m.writer.queue = append(m.writer.queue, w)
	if !m.writer.isBusy {
		m.writer.isBusy = true
		m.after(m.cluster.goroutine(), m.writeBatch)
	}
}

func (m *Member) writeBatch() {
	w := &m.writer
	if len(w.queue) == 0 || m.disk.isStuck {
		w.isBusy = false
		return
	}
	w.writing, w.queue = w.queue, nil
	if m.at(stepAppend) {
		return
	}
	m.after(m.disk.sync.draw(m.cluster.rng), m.endBatch)
}

func (m *Member) endBatch() {
	w := &m.writer
	if m.disk.isStuck {
		w.isLate = true
		return
	}
	batch := w.writing
	m.keepWrites(len(batch))
	w.writing = nil
	if m.at(stepAppended) {
		return
	}
	for _, write := range batch {
		write.then()
	}
	m.writeBatch()
}

// unstick lets a disk that was stuck go on.
func (m *Member) unstick() {
	m.disk.isStuck = false
	w := &m.writer
	switch {
	case w.isLate:
		w.isLate = false
		m.after(0, m.endBatch)
	case !w.isBusy && len(w.queue) > 0:
		w.isBusy = true
		m.after(0, m.writeBatch)
	}
}

// keepWrites makes the first n writes that are being written, or wait for that, durable.
func (m *Member) keepWrites(n int) {
	for _, write := range slices.Concat(m.writer.writing, m.writer.queue)[:n] {
		if err := write.to(&m.disk.log); err != nil {
			m.cluster.violate("log", "member %d: %v", m.id, err)
		}
	}
}

// asked is the log with all that it has been asked for.
func (m *Member) asked() logFile {
	return m.with(m.disk.log, slices.Concat(m.writer.writing, m.writer.queue)...)
}

// logged is the log with all that raft wants there.
func (m *Member) logged() logFile {
	l := m.asked()
	for entries, snapshot := range m.machine.Held() {
		l = m.with(l, write{entries: entries, replace: snapshot})
	}
	return l
}

func (m *Member) with(l logFile, writes ...write) logFile {
	for _, write := range writes {
		if err := write.to(&l); err != nil {
			m.cluster.violate("log", "member %d: %v", m.id, err)
		}
	}
	return l
}

// commitStore makes the store durable as it is.
func (m *Member) commitStore() {
	if m.disk.store.index < m.state.index { // else a snapshot has just taken its place
		m.disk.store = m.state
	}
	m.at(stepCommitted)
}

// cutLog removes from the log, and from raft's memory, what the store holds for good, but for some entries for those who lag.
func (m *Member) cutLog() {
	applied, storage := m.disk.store, m.machine.Storage()
	first, err := storage.FirstIndex()
	if err != nil {
		m.cluster.violate("storage", "member %d: %v", m.id, err)
		return
	}
	last, err := storage.LastIndex()
	if err != nil {
		m.cluster.violate("storage", "member %d: %v", m.id, err)
		return
	}
	if applied.index < first || applied.index > last {
		m.endCut()
		return
	}
	index := applied.index - min(applied.index, m.cluster.catchUp)
	outgoing := m.machine.Outgoing()
	outgoing.Release(index + (applied.index-index)/2)
	isReached := func(id uint64) bool { return m.cluster.runs(id) && !m.cluster.network.isCut(m.id, id) }
	if wanted, ok := outgoing.Oldest(isReached); ok {
		index = min(index, wanted)
	}
	if len(applied.conf.GetVoters())+len(applied.conf.GetLearners()) == 1 {
		index = applied.index
	}
	index = min(index, m.machine.Applied())
	m.disk.log.cut(index)
	if m.at(stepCut) {
		return
	}
	m.after(m.cluster.goroutine(), func() {
		if _, err := storage.CreateSnapshot(applied.index, proto.Clone(applied.conf).(*raftpb.ConfState), nil); err != nil && !errors.Is(err, raft.ErrSnapOutOfDate) {
			m.cluster.violate("storage", "member %d: %v", m.id, err)
		}
		if index >= first {
			if err := storage.Compact(index); err != nil {
				m.cluster.violate("storage", "member %d: %v", m.id, err)
			}
		}
		m.endCut()
	})
}

func (m *Member) endCut() { m.tell(func() { m.cutting = false }) }

// recover is what a member finds at start, as core.Open does: the installation of a snapshot is finished, or undone.
func (m *Member) recover() (consensus.State, error) {
	d := &m.disk
	if d.log.snapshot > d.store.index {
		if d.incoming == nil || d.incoming.index != d.log.snapshot {
			return consensus.State{}, fmt.Errorf("the log has a snapshot of entry %d, the store is at %d, and no snapshot is there to install", d.log.snapshot, d.store.index)
		}
		d.store = *d.incoming
	}
	d.incoming = nil
	applied, log := d.store, d.log
	switch {
	case log.before > applied.index:
		return consensus.State{}, fmt.Errorf("the log begins after entry %d and the store is at %d", log.before, applied.index)
	case log.last() < applied.index && (log.last() != 0 || applied.index != firstIndex):
		return consensus.State{}, fmt.Errorf("the log ends at entry %d and the store is at %d", log.last(), applied.index)
	}
	if log.last() <= applied.index && len(log.entries) == 0 {
		d.log.before, d.log.beforeTerm = applied.index, applied.term
	}
	return consensus.State{
		HardState: log.hardState, Applied: applied.index, AppliedTerm: applied.term, ConfState: applied.conf, Entries: log.entries,
	}, nil
}

// span is a range of durations.
type span struct{ from, to time.Duration }

func (s span) draw(rng *rand.Rand) time.Duration {
	if s.to <= s.from {
		return s.from
	}
	return s.from + time.Duration(rng.Int64N(int64(s.to-s.from)))
}
