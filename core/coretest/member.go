package coretest

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"weir/core/consensus"
)

// Member is one member: a consensus.Machine, and around it what core.Node has, on a disk, a network and a clock that obey a script.
//
// What in core.Node are goroutines are tasks here: raft's own (run), the log's writer, the applier, the one that cuts the log, and
// those that receive and send snapshots. Each task is one event, so a crash may come between any two of them, and which of them is
// first is a matter of the delays.
type Member struct {
	cluster *Cluster
	id      uint64
	disk    disk
	gone    string // why it will never run again; empty if it may
	// installed counts the snapshots that it has installed, and sent those that it was sent.
	installed, sent int
	breaks          breaks

	// All below is what a crash takes away.
	process
	life int // counts its starts
}

// breaks are rules that a member does not keep. They show that the invariants are noticed.
type breaks struct {
	reads   bool // it answers reads without asking the leader
	appends bool // it says that an append is done when it has begun
}

// process is what a member has in memory.
type process struct {
	isRunning bool
	isPaused  bool
	held      []func() // what is to happen after the pause
	machine   *consensus.Machine
	inbox     []func()
	hasWork   bool // an event will run the machine
	// isReleasing says that what the machine holds back will be sent.
	isReleasing bool
	writer      logWriter
	toApply     []task
	state       state
	// applying is how long the applier takes for an entry, or from when it has put a snapshot in place of the store.
	applying time.Duration

	receiving  bool // a snapshot is being received or installed
	received   *received
	installing bool // raft has asked for the installation of a snapshot, and has not been told that it is done
	cutting    bool
	writes     writeQueue
	reads      readGate
	change     *change                          // that this member has proposed as leader, and is not applied
	probes     struct{ write, read *Operation } // of Cluster.serves
}

// received is a snapshot that is stored, and that raft has not heard of.
type received struct {
	message *raftpb.Message
	answer  func(error)
}

// task is what the applier is to do: carry out entries, or install a snapshot.
type task struct {
	entries   []*raftpb.Entry
	snapshot  *raftpb.SnapshotMetadata
	hardState *raftpb.HardState
	work      consensus.Work
}

const (
	tick          = 10 * time.Millisecond
	electionTicks = 10
	// What is in a log before the first entry, as at core.
	firstIndex, firstTerm = 1, 1
	maxMessage            = 512 // bytes of entries, so that catching up takes several messages
)

// after has something happen unless the process ends before. While it is paused, it waits.
func (m *Member) after(d time.Duration, do func()) {
	life := m.life
	m.cluster.clock.after(d, func() {
		switch {
		case m.life != life || !m.isRunning:
		case m.isPaused:
			m.held = append(m.held, do)
		default:
			do()
		}
	})
}

func (m *Member) start() {
	c := m.cluster
	state, err := m.recover()
	if err != nil {
		c.violate("recovery", "member %d does not start: %v", m.id, err)
		return
	}
	m.life++
	m.process = process{isRunning: true, state: m.disk.store}
	m.reads.base = uint64(m.life)<<32 | m.id
	m.writes.nextBatch = uint64(m.life)<<32 | m.id<<24
	if slices.Contains(m.state.removed, m.id) {
		m.leave("its store says that it has been removed")
		return
	}
	m.machine, err = consensus.New(consensus.Config{
		ID: m.id, ElectionTicks: electionTicks, MaxMessageBytes: maxMessage, Bounds: c.bounds, Logger: slog.New(slog.DiscardHandler),
	}, state, effects{m})
	if err != nil {
		c.violate("recovery", "member %d does not start: %v", m.id, err)
		return
	}
	c.trace("member %d starts: applied %d, log %d to %d, %v", m.id, m.state.index, m.disk.log.before+1, m.disk.log.last(), m.disk.log.hardState)
	c.checks.started(m)
	if voters := state.ConfState.GetVoters(); len(voters) == 1 && voters[0] == m.id {
		if err := m.machine.Campaign(); err != nil {
			c.violate("campaign", "member %d: %v", m.id, err)
		}
	}
	m.after(c.draw(tick), m.tick)
	m.run()
}

// crash ends the process. Of the writes that are on their way to the log, some of the first may have become durable.
func (m *Member) crash() {
	w := len(m.writer.writing) + len(m.writer.queue)
	m.crashKeeping(m.cluster.rng.IntN(w + 1))
}

func (m *Member) crashKeeping(writes int) {
	m.keepWrites(writes)
	m.cluster.trace("member %d crashes, with %d more writes", m.id, writes)
	if m.disk.reverts != nil {
		m.disk = *m.disk.reverts
	}
	m.end()
}

func (m *Member) end() {
	m.life++
	m.process = process{}
}

// leave ends the member for good.
func (m *Member) leave(why string) {
	m.cluster.trace("member %d leaves: %s", m.id, why)
	m.gone = why
	m.end()
}

func (m *Member) tick() {
	m.after(tick, m.tick)
	m.tell(func() {
		m.machine.Tick()
		for range m.machine.Held() {
			m.cluster.checks.counts.held++
		}
		m.writes.expire()
		m.reads.tick(m)
	})
}

// tell puts something into raft's inbox.
func (m *Member) tell(do func()) {
	m.inbox = append(m.inbox, do)
	if !m.hasWork {
		m.hasWork = true
		m.after(m.cluster.goroutine(), m.run)
	}
}

// holdInterval is as at core.
const holdInterval = 2 * time.Millisecond

// release has the machine send what it holds back, for as long as there is something.
func (m *Member) release() {
	if m.isReleasing || !m.machine.IsPacing() {
		return
	}
	m.isReleasing = true
	m.after(holdInterval, func() {
		m.tell(func() {
			m.isReleasing = false
			m.machine.ReleaseHeld()
		})
	})
}

// run is some rounds of core.Node.run, in which it takes one message or all that there are before it has raft advance.
func (m *Member) run() {
	defer m.release()
	tasks := m.inbox
	m.inbox, m.hasWork = nil, false
	m.machine.Advance()
	for i, do := range tasks {
		do()
		if i == len(tasks)-1 || m.cluster.rng.IntN(2) == 0 {
			m.machine.Advance()
			m.stepSnapshot()
		}
	}
	for m.cluster.violation == nil {
		m.stepSnapshot()
		switch {
		case m.change.isDue(m):
			m.change.propose(m)
		case m.machine.CanPropose() && m.writes.isDue(m.machine.IsLogIdle()):
			m.writes.propose(m)
		case m.machine.CanRead() && m.reads.isDue():
			m.machine.ReadIndex(m.reads.take())
		default:
			return
		}
		m.machine.Advance()
	}
}

// applyNext carries out the next of what is to be applied: one entry, or a snapshot. Only one is under way at a time.
func (m *Member) applyNext() {
	if len(m.toApply) == 0 {
		return
	}
	t := &m.toApply[0]
	if t.snapshot != nil {
		m.install(*t)
		return
	}
	entry := t.entries[0]
	t.entries = t.entries[1:]
	if m.apply(entry); m.at(stepApplied) {
		return
	}
	if len(t.entries) == 0 {
		m.endTask()
		return
	}
	m.after(m.cluster.goroutine()+m.applying, m.applyNext)
}

// endTask says that the first of toApply is done.
func (m *Member) endTask() {
	t := m.toApply[0]
	m.toApply = m.toApply[1:]
	m.tell(func() {
		if t.snapshot != nil {
			m.receiving, m.installing = false, false
		}
		m.machine.Done(t.work)
	})
	if len(m.toApply) > 0 {
		m.after(m.cluster.goroutine()+m.applying, m.applyNext)
	}
}

// install installs a snapshot, as core.installSnapshot does.
func (m *Member) install(t task) {
	if m.disk.incoming == nil || m.disk.incoming.index != t.snapshot.GetIndex() || m.disk.incoming.term != t.snapshot.GetTerm() {
		m.cluster.violate("snapshot", "member %d is to install a snapshot of entry %d that it does not have", m.id, t.snapshot.GetIndex())
		return
	}
	if m.at(stepInstall) {
		return
	}
	m.appendLog(write{hardState: t.hardState, replace: t.snapshot, then: func() {
		if m.at(stepLogReplaced) {
			return
		}
		m.after(m.cluster.goroutine(), func() {
			m.disk.store, m.disk.incoming = *m.disk.incoming, nil
			if m.at(stepStoreReplaced) {
				return
			}
			m.after(m.cluster.goroutine()+m.applying, func() {
				m.state = m.disk.store
				m.cluster.checks.installed(m)
				m.installed++
				m.writes.superseded(m.state.term + 1)
				m.reads.reached(m)
				m.cluster.trace("member %d has installed a snapshot of entry %d", m.id, m.state.index)
				m.endTask()
			})
		})
	}})
}

// receiveSnapshot is told when a snapshot has come from another member, and answers when it is stored and stepped.
func (m *Member) receiveSnapshot(message *raftpb.Message, content state, answer func(error)) {
	if m.receiving {
		answer(fmt.Errorf("member %d is receiving or installing another snapshot", m.id))
		return
	}
	m.receiving = true
	m.after(m.disk.sync.draw(m.cluster.rng), func() {
		m.disk.incoming = &content
		if m.at(stepReceived) {
			return
		}
		m.tell(func() { m.received = &received{message, answer} })
	})
}

// stepSnapshot hands a snapshot that has come to raft, as soon as it can take it.
func (m *Member) stepSnapshot() {
	s := m.received
	if s == nil || m.cutting || !m.machine.IsSettled() {
		return
	}
	m.received = nil
	err := m.machine.Step(s.message)
	m.machine.Advance()
	if !m.machine.IsInstalling() {
		m.disk.incoming, m.receiving = nil, false
	}
	s.answer(err)
}

// unreachable is told when messages to another member were lost.
func (m *Member) unreachable(id uint64) {
	m.machine.Unreachable(id)
	if m.machine.Role().Leader == id {
		m.writes.lostTouch()
	}
}

// effects does what raft wants done; see consensus.Effects.
type effects struct{ m *Member }

func (e effects) Append(hs *raftpb.HardState, entries []*raftpb.Entry, w consensus.Work) {
	m := e.m
	m.cluster.checks.appended(m, entries)
	then := func() { m.tell(func() { m.machine.Done(w) }) }
	if m.breaks.appends {
		then()
		then = func() {}
	}
	m.appendLog(write{hardState: hs, entries: entries, then: then})
}

func (e effects) Apply(entries []*raftpb.Entry, w consensus.Work) {
	e.m.cluster.checks.toApply(e.m, entries)
	e.m.addTask(task{entries: entries, work: w})
}

func (e effects) Install(snapshot *raftpb.SnapshotMetadata, hs *raftpb.HardState, w consensus.Work) {
	e.m.installing = true
	e.m.addTask(task{snapshot: snapshot, hardState: hs, work: w})
}

func (m *Member) addTask(t task) {
	m.toApply = append(m.toApply, t)
	if len(m.toApply) == 1 {
		m.after(m.cluster.goroutine()+m.applying, m.applyNext)
	}
}

func (e effects) Send(messages []*raftpb.Message) {
	for _, message := range messages {
		e.m.cluster.checks.sent(e.m, message)
		e.m.cluster.send(e.m, message)
	}
}

func (e effects) Confirmed(context []byte, index uint64) { e.m.reads.confirm(e.m, context, index) }

func (e effects) Became(r consensus.Role) {
	m := e.m
	m.cluster.trace("member %d: leader %d in term %d", m.id, r.Leader, r.Term)
	m.cluster.checks.became(m, r)
	m.writes.lostTouch()
	if r.Leader != 0 {
		m.reads.askAgain(m)
	}
	if !r.Leads {
		m.change = nil
	}
}
