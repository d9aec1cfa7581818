package core

import (
	"fmt"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"weir/core/consensus"
	"weir/core/mvcc"
)

// raftDriver is what the run goroutine drives raft with. Others reach it through the inboxes, the request queue and the read
// gate.
type raftDriver struct {
	machine *consensus.Machine // of run alone
	// inbox is what log, applier and connections have to tell the machine. It is bounded by its use: what is told answers
	// what the machine has asked for.
	inbox   *mailbox[func(*consensus.Machine)]
	logIdle bool // what the queue has been told of the log; owned by run
	// received is a snapshot that raft is to hear of, nil if there is none. Owned by run.
	received *receivedSnapshot
	// change is the change of the membership that is proposed and not applied yet, nil if there is none. Owned by run.
	change *reconfiguration
	first  firstElection
	warned bool // of a leader that is not known here
}

// mailbox is a queue between goroutines that never blocks the sender.
type mailbox[T any] struct {
	wake chan struct{}

	mu    sync.Mutex // guards items
	items []T
}

func newMailbox[T any]() *mailbox[T] { return &mailbox[T]{wake: make(chan struct{}, 1)} }

func (m *mailbox[T]) put(item T) {
	m.mu.Lock()
	m.items = append(m.items, item)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *mailbox[T]) takeAll() []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	items := m.items
	m.items = nil
	return items
}

// startRaft restarts raft from what the log and the store hold. entries are those of the log.
func (n *Node) startRaft(hs *raftpb.HardState, applied mvcc.Applied, entries []*raftpb.Entry) error {
	n.raft.inbox = newMailbox[func(*consensus.Machine)]()
	n.raft.first = newFirstElection(n.cfg)
	machine, err := consensus.New(consensus.Config{
		ID: n.member.ID, ElectionTicks: n.cfg.electionTicks(), MaxMessageBytes: maxBatchBytes, NoPreVote: n.cfg.NoPreVote, Logger: n.logger,
	}, consensus.State{
		HardState: hs, Applied: applied.Index, AppliedTerm: applied.Term, ConfState: applied.ConfState, Entries: entries,
	}, raftEffects{n})
	if err != nil {
		return err
	}
	n.raft.machine = machine
	n.term.Store(machine.Role().Term)
	n.committed.Store(machine.Committed())
	n.cutter.told.Store(applied.Index)
	return nil
}

// holdInterval is for how long, up to twice as long, a follower may not be told that the last of several writes is committed, when
// nobody is known to wait for it there; see consensus.Machine.ReleaseHeld. Who watches there, or reads what may be old, sees it so much
// later. With 1 ms, which is about what a write takes, the timer woke the leader as often as what it saves.
const holdInterval = 2 * time.Millisecond

// run is the raft goroutine.
func (n *Node) run() {
	defer n.goroutines.Done()
	m := n.raft.machine
	ticker := time.NewTicker(n.cfg.HeartbeatInterval)
	defer ticker.Stop()
	release, isReleasing := time.NewTimer(holdInterval), true
	defer release.Stop()
	if voters := n.store.Applied().ConfState.GetVoters(); len(voters) == 1 && voters[0] == n.member.ID {
		// Nobody else can win: no need to wait for the election timeout.
		if err := m.Campaign(); err != nil {
			n.fail(fmt.Errorf("campaign: %w", err))
		}
	}
	for {
		m.Advance()
		n.stepSnapshot()
		n.committed.Store(m.Committed())
		if idle := m.IsLogIdle(); idle != n.raft.logIdle {
			n.raft.logIdle = idle
			n.queue.logIs(idle)
		}
		if m.IsPacing() && !isReleasing {
			release.Reset(holdInterval)
			isReleasing = true
		}
		requests, reads, changes := n.queue.wake, n.reads.wake, n.reconfigurations
		if !m.CanPropose() || !n.reaches(m.Role().Leader) {
			requests = nil
		}
		if !m.CanRead() || n.reads.isBusy() {
			reads = nil
		}
		if n.raft.change != nil {
			changes = nil
		}
		select {
		case <-requests:
			n.proposeNext()
		case <-reads:
			m.ReadIndex(n.reads.take())
		case r := <-changes:
			n.beginChange(r)
		case a := <-n.appliedChanges:
			n.carryOut(a)
		case <-n.raft.inbox.wake:
			for _, tell := range n.raft.inbox.takeAll() {
				tell(m)
			}
			n.retryChange()
		case <-n.fromPeers.wake:
			n.stepPeers()
		case <-release.C:
			isReleasing = false
			m.ReleaseHeld()
		case <-ticker.C:
			n.tick()
		case <-n.stopped:
			return
		}
	}
}

// proposeNext proposes the requests that wait, as far as one entry may hold them. Called by run.
func (n *Node) proposeNext() {
	role := n.raft.machine.Role()
	entry, id := n.queue.take(role)
	if entry == nil {
		return
	}
	if err := n.raft.machine.Propose(entry); err != nil {
		n.logger.Debug("raft took no proposal, it will be made again", "error", err)
		n.queue.putBack(id)
	}
}

// tick is what happens in each heartbeat interval. Called by run.
func (n *Node) tick() {
	m := n.raft.machine
	n.hasten()
	m.Tick()
	n.queue.signalWaiting() // which Tick may have let proceed
	n.queue.expire(n.cfg.requestTimeout(), min(n.cfg.ElectionTimeout, maxPatience))
	for _, id := range n.reads.tick() {
		n.metrics.slowReads.Inc()
		if m.CanRead() {
			m.ReadIndex(id)
		}
	}
}

// raftEffects does what raft wants done; see consensus.Effects.
type raftEffects struct{ n *Node }

func (e raftEffects) Append(hs *raftpb.HardState, entries []*raftpb.Entry, w consensus.Work) {
	e.n.log.Append(hs, entries, func(err error) {
		if err != nil {
			e.n.fail(fmt.Errorf("append to the log: %w", err))
			return
		}
		e.n.raft.inbox.put(func(m *consensus.Machine) { m.Done(w) })
	})
}

func (e raftEffects) Apply(entries []*raftpb.Entry, w consensus.Work) {
	// Before any is applied: who sees one applied sees it committed.
	e.n.committed.Store(max(e.n.committed.Load(), entries[len(entries)-1].GetIndex()))
	e.n.backlog.add(time.Now(), entries)
	e.n.toApply.put(toApply{entries: entries, work: w})
}

func (e raftEffects) Install(snapshot *raftpb.SnapshotMetadata, hs *raftpb.HardState, w consensus.Work) {
	e.n.backlog.add(time.Now(), nil)
	e.n.toApply.put(toApply{snapshot: snapshot, hardState: hs, work: w})
}

func (e raftEffects) Send(messages []*raftpb.Message) { e.n.send(messages) }

func (e raftEffects) Confirmed(context []byte, index uint64) { e.n.reads.confirm(context, index) }

// Became is called by run.
func (e raftEffects) Became(r consensus.Role) {
	n := e.n
	n.term.Store(r.Term)
	n.queue.lostTouch()
	old := n.sawLeader(r.Leader)
	if old != r.Leader && r.Leader != 0 {
		n.metrics.leaderChanges.Inc()
		n.logger.Info("there is a leader", "leader", idString(r.Leader), "term", r.Term)
		for _, context := range n.reads.unanswered() { // the one before will not
			n.raft.machine.ReadIndex(context)
		}
	}
	wasLeading := n.tenure.ofTerm() != 0
	switch {
	case r.Leads && n.tenure.ofTerm() != r.Term:
		n.logger.Info("became leader", "member-id", idString(n.member.ID), "term", r.Term)
		n.tenure.begin(r.Term)
	case wasLeading && !r.Leads:
		n.tenure.end(n.leases)
		n.endChange()
	}
	n.queue.signalWaiting()
}

// done tells raft what the applier has done.
func (n *Node) done(what toApply) {
	applied := n.applied.Load()
	n.raft.inbox.put(func(m *consensus.Machine) {
		m.Done(what.work)
		n.cutter.told.Store(applied)
		if what.snapshot != nil { // only now raft can tell whether the next one is to be installed
			n.incoming.end()
			n.cutter.turn.end()
		}
	})
}
