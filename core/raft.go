package core

import (
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"weir/core/mvcc"
)

// consensus drives raft's state machine. Its run goroutine is the only one that touches raft.RawNode; others
// reach it through the mailbox, the request queue and the read gate.
//
// RawNode is used instead of raft.Node because the loop knows more than Node's channels can say: it takes
// requests only when the log is free, so that those that arrive meanwhile share one entry.
type consensus struct {
	raw     *raft.RawNode
	storage *raft.MemoryStorage
	inbox   *mailbox[stored] // what the storage threads have done

	// appends is how many appends the log has been given and not yet reported. Owned by run.
	appends int
	// hardState is what the log last got. Owned by run.
	hardState *raftpb.HardState
	// isLeader is raft's last word on it. Owned by run.
	isLeader bool
	// mayRead is whether an entry of this leader's own term is committed. Before, the commit index may be behind
	// what was acknowledged under an earlier leader, or before a restart (Raft thesis, 6.4), and raft does not
	// hold ReadIndex back when there is only one voter. Owned by run.
	mayRead bool
	// change is the change of the membership that is proposed and not applied yet, nil if there is none. Owned by run.
	change *reconfiguration
}

// stored is the answer of a storage thread: messages for raft, once what they attest is durable (log) or done
// (apply).
type stored struct {
	messages []*raftpb.Message
	appended bool // by the log
}

// mailbox is a queue between goroutines that never blocks the sender. What is in it is bounded by its use: each
// message answers one that the receiver sent.
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

// newConsensus restarts raft from what the log and the store hold. applied is the store's; entries are those
// after it.
func newConsensus(cfg Config, m member, hs *raftpb.HardState, applied mvcc.Applied, entries []*raftpb.Entry, logger *slog.Logger) (*consensus, error) {
	storage := raft.NewMemoryStorage()
	snapshot := &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		ConfState: applied.ConfState,
		Index:     proto.Uint64(applied.Index),
		Term:      proto.Uint64(applied.Term),
	}}
	if err := storage.ApplySnapshot(snapshot); err != nil {
		return nil, fmt.Errorf("start raft at index %d: %w", applied.Index, err)
	}
	hs = proto.Clone(hs).(*raftpb.HardState)
	// The log need not have recorded that these entries were committed; that they were applied proves it.
	// raft panics when applied > commit.
	if hs.GetCommit() < applied.Index {
		hs.Commit = proto.Uint64(applied.Index)
	}
	if hs.GetTerm() < applied.Term {
		hs.Term, hs.Vote = proto.Uint64(applied.Term), nil // the vote was one of the earlier term
	}
	if err := storage.SetHardState(hs); err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	if err := storage.Append(entries); err != nil {
		return nil, fmt.Errorf("start raft with %d entries: %w", len(entries), err)
	}
	raw, err := raft.NewRawNode(&raft.Config{
		ID:                        m.ID,
		ElectionTick:              cfg.electionTicks(),
		HeartbeatTick:             1,
		Storage:                   storage,
		Applied:                   applied.Index,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             maxBatchBytes,
		MaxCommittedSizePerReady:  64 << 20,
		MaxUncommittedEntriesSize: math.MaxUint64,
		MaxInflightMsgs:           512,
		CheckQuorum:               true,
		PreVote:                   true,
		Logger:                    raftLogger{logger},
	})
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	return &consensus{raw: raw, storage: storage, inbox: newMailbox[stored](), hardState: hs}, nil
}

// run is the raft goroutine.
func (n *Node) run() {
	defer n.goroutines.Done()
	c := n.raft
	ticker := time.NewTicker(n.cfg.HeartbeatInterval)
	defer ticker.Stop()
	if len(n.store.Applied().ConfState.GetVoters()) == 1 {
		// Nobody else can win: no need to wait for the election timeout.
		if err := c.raw.Campaign(); err != nil {
			n.fail(fmt.Errorf("campaign: %w", err))
		}
	}
	for {
		n.handleReady()
		requests, reads, changes := n.queue.wake, n.reads.wake, n.reconfigurations
		if !c.isLeader || c.appends > 0 {
			requests = nil // what arrives now shares the next entry
		}
		if !c.mayRead {
			reads = nil
		}
		if !c.isLeader || c.change != nil {
			changes = nil
		}
		select {
		case <-requests:
			if entry, id := n.queue.take(); entry != nil {
				if err := c.raw.Propose(entry); err != nil {
					n.logger.Warn("raft dropped a proposal", "error", err)
					n.queue.drop(id, rpctypes.ErrGRPCNoLeader)
				}
			}
		case <-reads:
			c.raw.ReadIndex(n.reads.take())
		case r := <-changes:
			n.beginChange(r)
		case a := <-n.appliedChanges:
			n.carryOut(a)
		case <-c.inbox.wake:
			for _, done := range c.inbox.takeAll() {
				if done.appended {
					c.appends--
				}
				for _, m := range done.messages {
					if err := c.raw.Step(m); err != nil {
						n.logger.Warn("raft refused a message", "type", m.GetType().String(), "error", err)
					}
				}
			}
			n.retryChange()
		case <-ticker.C:
			c.raw.Tick()
			for _, id := range n.reads.tick() {
				n.metrics.slowReads.Inc()
				if c.mayRead {
					c.raw.ReadIndex(id)
				}
			}
		case <-n.stopped:
			return
		}
	}
}

// handleReady hands on everything that raft has ready.
func (n *Node) handleReady() {
	c := n.raft
	for c.raw.HasReady() {
		rd := c.raw.Ready()
		if rd.SoftState != nil {
			wasLeader := c.isLeader
			c.isLeader = rd.RaftState == raft.StateLeader
			if old := n.leader.Swap(rd.Lead); old != rd.Lead && rd.Lead != raft.None {
				n.metrics.leaderChanges.Inc()
			}
			c.mayRead = c.mayRead && c.isLeader
			switch {
			case c.isLeader && !wasLeader:
				n.logger.Info("became leader", "member-id", idString(n.member.ID))
				n.leases.Promote(0)
			case wasLeader && !c.isLeader:
				n.leases.Demote()
				n.queue.abandon(rpctypes.ErrGRPCLeaderChanged)
				n.endChange(result{err: rpctypes.ErrGRPCLeaderChanged})
			}
		}
		if !raft.IsEmptyHardState(rd.HardState) {
			if old := n.term.Swap(rd.HardState.GetTerm()); old != rd.HardState.GetTerm() {
				c.mayRead = false
			}
			n.committed.Store(rd.HardState.GetCommit())
		}
		for _, rs := range rd.ReadStates {
			n.reads.confirm(rs.RequestCtx, rs.Index)
		}
		for _, m := range rd.Messages {
			switch m.GetTo() {
			case raft.LocalAppendThread:
				n.appendToLog(m)
			case raft.LocalApplyThread:
				entries := m.GetEntries()
				c.mayRead = c.mayRead || c.isLeader && entries[len(entries)-1].GetTerm() == n.term.Load()
				n.toApply.put(m)
			default:
				if m.GetType() == raftpb.MsgHeartbeat {
					n.metrics.lostHeartbeats.Inc()
				}
				c.cannotSend(m)
			}
		}
	}
}

// cannotSend deals with a message to another member: there is no way to reach one yet.
func (c *consensus) cannotSend(m *raftpb.Message) {
	if m.GetType() == raftpb.MsgSnap {
		c.raw.ReportSnapshot(m.GetTo(), raft.SnapshotFailure)
		return
	}
	c.raw.ReportUnreachable(m.GetTo())
}

// appendToLog starts the log append that m asks for. Its answers go to the inbox when it is durable.
func (n *Node) appendToLog(m *raftpb.Message) {
	c := n.raft
	if m.GetSnapshot() != nil && !raft.IsEmptySnap(m.GetSnapshot()) {
		n.fail(fmt.Errorf("raft sent a snapshot of index %d, but a cluster has one member", m.GetSnapshot().GetMetadata().GetIndex()))
		return
	}
	hs := &raftpb.HardState{Term: proto.Uint64(m.GetTerm()), Vote: proto.Uint64(m.GetVote()), Commit: proto.Uint64(m.GetCommit())}
	if raft.IsEmptyHardState(hs) {
		hs = c.hardState
	}
	entries, responses := m.GetEntries(), m.GetResponses()
	if len(entries) == 0 && hs.GetTerm() == c.hardState.GetTerm() && hs.GetVote() == c.hardState.GetVote() {
		// The commit index alone is worth no disk write: the next append carries it, and after a crash raft
		// finds it again (Raft, figure 2: commitIndex is volatile). The responses may attest earlier appends,
		// so they wait for those.
		c.hardState = hs
		hs = nil
		if len(responses) == 0 {
			return
		}
		if c.appends == 0 {
			c.inbox.put(stored{messages: responses})
			return
		}
	} else {
		c.hardState = hs
	}
	c.appends++
	n.log.Append(hs, entries, func(err error) {
		if err == nil && len(entries) > 0 {
			err = c.storage.Append(entries)
		}
		if err != nil {
			n.fail(fmt.Errorf("append to the log: %w", err))
			return
		}
		c.inbox.put(stored{messages: responses, appended: true})
	})
}
