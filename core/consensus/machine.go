package consensus

import (
	"errors"
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Machine is raft's state machine of one member (Ongaro: Consensus, 2014; go.etcd.io/raft), with PreVote and CheckQuorum, and
// without leader leases.
//
// The log append of a leader and the messages that bring the same entries to others go out at the same time: raft says with
// each append which messages attest it, and those wait for it (AsyncStorageWrites).
//
// raft.RawNode is used and not raft.Node, because the driver knows more than Node's channels can say: it takes requests only
// when few are on their way, so that those that arrive meanwhile share one entry.
//
// One goroutine may call the methods, but for Storage's. Effects are asked for from within them.
type Machine struct {
	raw     *raft.RawNode
	storage *raft.MemoryStorage
	effects Effects
	id      uint64
	log     *slog.Logger

	role Role
	saving
	holdback
	answers answers
	stall
	outgoing      Outgoing
	polls         polls
	committed     uint64 // the last entry that is known to be committed
	electionTicks int
	// mayRead is whether an entry of this leader's own term is committed. Before, the commit index may be behind what was
	// acknowledged under an earlier leader, or before a restart (Raft thesis, 6.4), and raft does not hold ReadIndex back when
	// there is only one voter, neither its own nor those of learners.
	mayRead bool
	// soleVoter is the only one, 0 if there are several, and pairs are the voters if any two of them are a majority; see setVoters.
	soleVoter uint64
	pairs     []uint64
	// early are the ReadIndexes that have come to a leader which must not answer them; see isTooEarly.
	early []*raftpb.Message
	// refused says that raft has not taken a proposal, and there is no sign yet that it would take another one.
	refused bool
}

// Effects are what a machine wants done. They are asked for from within the machine's methods, must not wait, and must not
// call the machine, but for ReadIndex from Became. What is asked for is done in the order in which it was asked for, but Append,
// Apply and Send do not wait for each other.
type Effects interface {
	// Append makes a hard state, if hs is not nil, and entries durable in the log; then w is done.
	Append(hs *raftpb.HardState, entries []*raftpb.Entry, w Work)
	// Apply carries out committed entries; then w is done.
	Apply(entries []*raftpb.Entry, w Work)
	// Install replaces log and state by those of a snapshot that has come with these metadata, and makes hs, if it is not nil,
	// durable with it. All that was to be applied is carried out before. Then w is done.
	Install(snapshot *raftpb.SnapshotMetadata, hs *raftpb.HardState, w Work)
	// Send sends messages to other members, or loses them. One of type MsgSnap asks for a snapshot that is at least as new.
	Send(messages []*raftpb.Message)
	// Confirmed says that a read which asked ReadIndex with this context may be answered from the state at index.
	Confirmed(context []byte, index uint64)
	// Became tells of a change of Role, and of what came of it.
	Became(r Role)
}

// Role is what a member is in its cluster.
type Role struct {
	Leads  bool
	Leader uint64 // who leads; 0 if that is not known
	Term   uint64
}

// Work is what a machine is to be told when something has been done.
type Work struct {
	hardState *raftpb.HardState        // that has become durable; nil if it need not
	entries   []*raftpb.Entry          // likewise
	snapshot  *raftpb.SnapshotMetadata // that has been installed
	responses []*raftpb.Message        // that attest it
	bytes     int                      // of all of it, or of the entries that have been applied
	isApplied bool                     // entries have been applied, and nothing above but responses and bytes is set
}

// Config is who a member is, and how it behaves.
type Config struct {
	ID uint64
	// ElectionTicks is after how many ticks without a word from a leader an election is held. A leader sends heartbeats at
	// each tick.
	ElectionTicks int
	// MaxMessageBytes bounds what is sent to a follower in one message, but for a single larger entry.
	MaxMessageBytes uint64
	// Bounds are of what is kept in memory. Tests have small ones.
	Bounds Bounds
	// NoPreVote lets a candidate raise the term of others before it knows that it could win.
	NoPreVote bool
	Logger    *slog.Logger
}

// State is what a member has on disk.
type State struct {
	HardState *raftpb.HardState
	// Applied, AppliedTerm and ConfState are those of the last entry that the store has.
	Applied, AppliedTerm uint64
	ConfState            *raftpb.ConfState
	// Entries are those of the log. They need not begin after Applied, but must not leave a gap.
	Entries []*raftpb.Entry
}

const (
	// maxInflight is how many appends with entries are sent to a follower before it has answered the first.
	maxInflight = 512
	// maxApply is how many bytes of entries the applier is given at once.
	maxApply = 64 << 20
)

// New restarts a machine from what is on disk. It asks for nothing before Advance is called.
func New(cfg Config, s State, e Effects) (*Machine, error) {
	cfg.Bounds = cfg.Bounds.orDefaults()
	storage, hs, err := restore(s)
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	raw, err := raft.NewRawNode(&raft.Config{
		ID:                        cfg.ID,
		ElectionTick:              cfg.ElectionTicks,
		HeartbeatTick:             1,
		Storage:                   storage,
		Applied:                   s.Applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             cfg.MaxMessageBytes,
		MaxCommittedSizePerReady:  maxApply,
		MaxUncommittedEntriesSize: cfg.Bounds.Uncommitted,
		MaxInflightMsgs:           maxInflight,
		MaxInflightBytes:          max(cfg.Bounds.Inflight, cfg.MaxMessageBytes),
		CheckQuorum:               true,
		PreVote:                   !cfg.NoPreVote,
		Logger:                    raftLogger{cfg.Logger},
	})
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	last, err := storage.LastIndex()
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	m := &Machine{
		raw: raw, storage: storage, effects: e, id: cfg.ID, log: cfg.Logger, saving: saving{hardState: hs, last: last, bounds: cfg.Bounds}, role: Role{Term: hs.GetTerm()},
		committed: hs.GetCommit(), electionTicks: cfg.ElectionTicks,
	}
	m.setVoters(s.ConfState)
	return m, nil
}

// restore makes of a State what raft starts with.
func restore(s State) (*raft.MemoryStorage, *raftpb.HardState, error) {
	hs := proto.Clone(s.HardState).(*raftpb.HardState)
	// The log need not have recorded that these entries were committed; that they were applied proves it. raft panics when
	// applied > commit.
	if hs.GetCommit() < s.Applied {
		hs.Commit = proto.Uint64(s.Applied)
	}
	if hs.GetTerm() < s.AppliedTerm {
		hs.Term, hs.Vote = proto.Uint64(s.AppliedTerm), nil // the vote was one of the earlier term
	}
	// What raft holds begins after the snapshot. Entries from before it are kept for those who lag: then the first of them
	// stands for the snapshot, since only its term is known.
	first := &raftpb.SnapshotMetadata{ConfState: s.ConfState, Index: proto.Uint64(s.Applied), Term: proto.Uint64(s.AppliedTerm)}
	entries := s.Entries
	isKept := len(entries) > 0 && entries[0].GetIndex() <= s.Applied
	if isKept {
		first.Index, first.Term = entries[0].Index, entries[0].Term
		entries = entries[1:]
	}
	storage := raft.NewMemoryStorage()
	if first.GetIndex() > 0 { // else it is a member that has joined, and has yet to be sent all there is
		if err := storage.ApplySnapshot(&raftpb.Snapshot{Metadata: first}); err != nil {
			return nil, nil, fmt.Errorf("at index %d: %w", first.GetIndex(), err)
		}
	}
	if err := storage.SetHardState(hs); err != nil {
		return nil, nil, err
	}
	if err := storage.Append(entries); err != nil {
		return nil, nil, fmt.Errorf("with %d entries: %w", len(entries), err)
	}
	if isKept && s.Applied > first.GetIndex() {
		if _, err := storage.CreateSnapshot(s.Applied, s.ConfState, nil); err != nil {
			return nil, nil, fmt.Errorf("at index %d: %w", s.Applied, err)
		}
	}
	return storage, hs, nil
}

// Storage is what raft holds of the log. Its methods may be called by any goroutine; it is changed by the machine, and by who
// cuts off what is applied for good.
func (m *Machine) Storage() *raft.MemoryStorage { return m.storage }

// Role is what the member is now.
func (m *Machine) Role() Role { return m.role }

// Committed is the index of the last entry that is known to be committed.
func (m *Machine) Committed() uint64 { return m.committed }

// CanPropose tells whether a proposal may go somewhere now. How many are on their way is for the driver to bound: only it knows which
// have come back.
func (m *Machine) CanPropose() bool {
	return m.role.Leader != raft.None && !m.refused && !m.isBehind()
}

// CanRead tells whether ReadIndex may be answered.
func (m *Machine) CanRead() bool {
	if m.role.Leads {
		return m.mayRead && !m.isOut()
	}
	return m.role.Leader != raft.None
}

// Tick is to be called once in a heartbeat interval.
func (m *Machine) Tick() {
	m.refused = false
	m.leaveIfStalled()
	m.followOutgoing()
	m.raw.Tick()
}

// Campaign holds an election at once.
func (m *Machine) Campaign() error { return m.raw.Campaign() }

// Propose hands on the data of an entry: to the own log if this member leads, else to the leader, and it may be lost on the way.
// An error says that it has not been taken, and never will be.
func (m *Machine) Propose(data []byte) error {
	err := m.raw.Propose(data)
	m.refused = errors.Is(err, raft.ErrProposalDropped)
	return err
}

// ReadIndex asks the leader whether it still leads, and for its commit index, which Effects.Confirmed brings. The context must
// be unlike that of any other member, and of any earlier question, of an earlier process too. It may be lost.
func (m *Machine) ReadIndex(context []byte) {
	question := &raftpb.Message{Type: raftpb.MsgReadIndex.Enum(), Entries: []*raftpb.Entry{{Data: context}}}
	if err := m.Step(question); err != nil {
		m.log.Debug("raft refused a read index", "error", err) // as good as lost
	}
}

// Step hands over a message of another member. After ErrForgotten the machine must not be used any more.
func (m *Machine) Step(message *raftpb.Message) error {
	if err := m.doubt(message); err != nil {
		return err
	}
	switch message.GetType() {
	case raftpb.MsgReadIndex:
		if m.answerRead(message) {
			return nil
		}
	case raftpb.MsgProp:
		// raft would pass it on to who leads now. It may be old: on its way to this member while that was paused, say. Who has made it
		// has given it up, and what was written since must stay the last.
		if m.raw.BasicStatus().RaftState != raft.StateLeader {
			return errNotLeader
		}
		if m.isBehind() {
			return errBehind
		}
		err := m.raw.Step(message)
		if err == nil {
			m.forwarded(message.GetFrom())
		}
		return err
	case raftpb.MsgApp, raftpb.MsgSnap, raftpb.MsgVote, raftpb.MsgPreVote: // what is not taken is as good as lost, and comes again
		if m.isFull() {
			return errFull
		}
		if message.GetType() == raftpb.MsgApp {
			if m.isLate() {
				return errLate
			}
			m.answers.heard(message, m.committed)
		}
	}
	return m.raw.Step(message)
}

// TransferLeadership has another voter take over. Until it has, or an election timeout has passed, nothing is proposed.
func (m *Machine) TransferLeadership(to uint64) { m.raw.TransferLeader(to) }

// deliver hands on messages that waited for storage.
func (m *Machine) deliver(messages []*raftpb.Message) {
	others := 0
	for _, message := range messages {
		if message.GetTo() == m.id {
			m.stepOwn(message)
			continue
		}
		if m.answers.isSpared(message) {
			continue
		}
		messages[others] = message
		others++
	}
	if others > 0 {
		m.effects.Send(messages[:others:others])
	}
}

func (m *Machine) stepOwn(message *raftpb.Message) {
	if err := m.raw.Step(message); err != nil {
		m.log.Warn("raft refused a message", "type", message.GetType().String(), "error", err)
	}
}

// Advance asks for everything that raft has ready. It is to be called after any other method.
func (m *Machine) Advance() {
	for m.raw.HasReady() {
		m.handle(m.raw.Ready())
	}
}

func (m *Machine) handle(rd raft.Ready) {
	role := m.role
	if rd.SoftState != nil {
		role.Leader, role.Leads = rd.Lead, rd.RaftState == raft.StateLeader
	}
	if !raft.IsEmptyHardState(rd.HardState) {
		role.Term = rd.HardState.GetTerm()
		m.committed = rd.HardState.GetCommit()
	}
	if role != m.role {
		if !role.Leads || role.Term != m.role.Term {
			m.mayRead, m.early = false, nil // who asked asks again
			m.holdback = holdback{}
			m.outgoing.clear()
			m.stall = stall{tried: m.tried}
		}
		m.role, m.refused = role, false
		m.effects.Became(role)
	}
	for _, rs := range rd.ReadStates {
		m.effects.Confirmed(rs.RequestCtx, rs.Index)
	}
	others := 0
	for _, message := range rd.Messages {
		switch message.GetTo() {
		case raft.LocalAppendThread:
			m.store(message)
		case raft.LocalApplyThread:
			entries := message.GetEntries()
			if m.role.Leads && entries[len(entries)-1].GetTerm() == m.role.Term {
				m.answerEarly()
			}
			if changesMembers(entries) {
				m.releaseAll()
			}
			m.refused = false // there is room for another one
			m.effects.Apply(entries, Work{responses: message.GetResponses(), bytes: sizeOf(entries), isApplied: true})
		default:
			switch message.GetType() {
			case raftpb.MsgHeartbeat:
				m.polls.asked(message)
			case raftpb.MsgSnap:
				m.outgoing.ask(message.GetTo(), message.GetSnapshot().GetMetadata().GetIndex())
			}
			if m.holdsBack(message) {
				continue
			}
			rd.Messages[others] = message
			others++
		}
	}
	if others > 0 {
		m.effects.Send(rd.Messages[:others:others])
	}
}
