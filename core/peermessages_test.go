package core

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"weir/core/consensus"
	"weir/core/transport"
)

// liars is a consensus.Machine among members that say anything. What they say is chosen near what would be true: at random nothing
// would be heard.
type liars struct {
	choices  []byte
	m        *consensus.Machine
	asked    []consensus.Work
	applying []consensus.Work
	sent     []*raftpb.Message // heartbeats that ask for an answer
	trail    []string
}

func (l *liars) Append(_ *raftpb.HardState, _ []*raftpb.Entry, w consensus.Work) {
	l.asked = append(l.asked, w)
}

func (l *liars) Apply(_ []*raftpb.Entry, w consensus.Work) { l.applying = append(l.applying, w) }

func (l *liars) Install(_ *raftpb.SnapshotMetadata, _ *raftpb.HardState, w consensus.Work) {
	l.asked = append(l.asked, w)
}

func (l *liars) Send(ms []*raftpb.Message) {
	for _, m := range ms {
		if len(m.GetContext()) > 0 {
			l.sent = append(l.sent, m)
		}
	}
}

func (*liars) Confirmed([]byte, uint64) {}
func (*liars) Became(consensus.Role)    {}

// pick is one of 0 to n-1.
func (l *liars) pick(n int) int {
	if len(l.choices) == 0 {
		return 0
	}
	c := int(l.choices[0])
	l.choices = l.choices[1:]
	return c % n
}

// near is a number about n, or one that is far off.
func (l *liars) near(n uint64) *uint64 {
	switch c := l.pick(40); c {
	case 36:
		n = 1 << 62
	case 37:
		n = 1<<64 - 1
	case 38:
		n += 1 << 33
	case 39:
		n = 0
	default:
		if c < 16 {
			n = max(n+uint64(c%4), 1) - 1
		}
	}
	return &n
}

var saidByPeers = []raftpb.MessageType{
	raftpb.MsgApp, raftpb.MsgApp, raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgAppResp, raftpb.MsgVoteResp, raftpb.MsgPreVoteResp,
	raftpb.MsgVote, raftpb.MsgPreVote, raftpb.MsgProp, raftpb.MsgReadIndex, raftpb.MsgReadIndexResp, raftpb.MsgTimeoutNow, raftpb.MsgTransferLeader, raftpb.MsgSnap,
}

func (l *liars) message() (m *raftpb.Message, from uint64) {
	storage := l.m.Storage()
	last, _ := storage.LastIndex()
	from = uint64([]int{2, 2, 3, 3, 9, 1}[l.pick(6)])
	m = &raftpb.Message{Type: saidByPeers[l.pick(len(saidByPeers))].Enum(), From: &from, To: proto.Uint64(1), Index: l.near(last), Commit: l.near(last)}
	logTerm := l.m.Role().Term
	if m.GetIndex() <= last {
		logTerm, _ = storage.Term(m.GetIndex())
	}
	m.LogTerm = l.near(logTerm)
	if t := m.GetType(); t != raftpb.MsgProp && t != raftpb.MsgReadIndex || l.pick(8) == 0 {
		m.Term = l.near(l.m.Role().Term)
	} else if l.pick(2) == 0 {
		m.From = proto.Uint64(uint64(1 + l.pick(3))) // passed on
	}
	m.Reject, m.RejectHint = proto.Bool(l.pick(3) == 0), l.near(last)
	for i := range l.pick(4) {
		e := &raftpb.Entry{Index: proto.Uint64(m.GetIndex() + uint64(i) + 1), Term: proto.Uint64(max(m.GetTerm(), 1)), Data: []byte("context")}
		if l.pick(10) == 0 {
			e = &raftpb.Entry{Index: l.near(e.GetIndex()), Term: l.near(e.GetTerm())}
		}
		m.Entries = append(m.Entries, e)
	}
	switch l.pick(5) {
	case 0:
		m.Context = []byte{1}
	case 1:
		m.Context = binary.LittleEndian.AppendUint64(nil, uint64(l.pick(256)))
	case 2:
		if len(l.sent) > 0 {
			m.Context = l.sent[len(l.sent)-1].GetContext()
		}
	case 3:
		m.Context = []byte("CampaignTransfer") // raft's, of who was told to campaign
	}
	if m.GetType() == raftpb.MsgSnap {
		voters := [][]uint64{{1, 2, 3}, {1, 2, 9}, {1}, {2, 3}, {1, 1}, {0, 1}}[l.pick(6)]
		cs := &raftpb.ConfState{Voters: voters, AutoLeave: proto.Bool(l.pick(4) == 0)}
		if l.pick(3) == 0 {
			cs.Learners = []uint64{uint64(l.pick(5))}
		}
		if l.pick(4) == 0 {
			cs.VotersOutgoing = []uint64{uint64(l.pick(5)), 2}
		}
		if l.pick(4) == 0 {
			cs.LearnersNext = []uint64{uint64(l.pick(5))}
		}
		m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: l.near(last + 2), Term: l.near(l.m.Role().Term), ConfState: cs}}
		if l.pick(2) == 0 {
			m.Entries = nil
		}
	}
	return m, from
}

// step hands over a message as Node does: not before transport has looked through it, and a snapshot when all is applied.
func (l *liars) step(m *raftpb.Message, from uint64) error {
	if transport.Check(m, 1, from) != nil {
		return nil
	}
	if m.GetType() == raftpb.MsgSnap && (!l.m.IsSettled() || l.m.IsInstalling()) {
		return nil
	}
	l.trail = append(l.trail, fmt.Sprint(m))
	err := l.m.Step(proto.Clone(m).(*raftpb.Message))
	if m.GetType() == raftpb.MsgSnap || l.pick(3) > 0 { // several messages may be stepped at once
		l.m.Advance()
	}
	return err
}

func (l *liars) done(of *[]consensus.Work) {
	if len(*of) > 0 {
		w := (*of)[0]
		*of = (*of)[1:]
		l.m.Done(w)
		l.m.Advance()
	}
}

func (l *liars) run(t *testing.T) {
	defer func() {
		if broken := recover(); broken != nil {
			t.Fatalf("%v\nafter\n%q\n%s", broken, l.trail, debug.Stack())
		}
	}()
	entry := func(index, term uint64) *raftpb.Entry { return &raftpb.Entry{Index: &index, Term: &term} }
	state := consensus.State{
		HardState: &raftpb.HardState{Term: proto.Uint64(3), Commit: proto.Uint64(4)}, Applied: 3, AppliedTerm: 1,
		ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}, AutoLeave: proto.Bool(false)},
		Entries:   []*raftpb.Entry{entry(2, 1), entry(3, 1), entry(4, 2), entry(5, 2), entry(6, 3)},
	}
	if l.pick(4) == 0 { // it has joined, and knows nobody
		state = consensus.State{HardState: &raftpb.HardState{}, ConfState: &raftpb.ConfState{AutoLeave: proto.Bool(false)}}
	}
	var err error
	l.m, err = consensus.New(consensus.Config{ID: 1, ElectionTicks: 3, MaxMessageBytes: 1 << 10, NoPreVote: l.pick(2) == 0, Logger: slog.New(slog.DiscardHandler)}, state, l)
	if err != nil {
		t.Fatal(err)
	}
	for l.m.Advance(); len(l.choices) > 0; {
		switch l.pick(12) {
		case 0:
			l.m.Tick()
		case 1:
			l.done(&l.asked)
		case 2:
			l.done(&l.applying)
		case 3:
			_ = l.m.Propose([]byte("entry")) // it may lead nobody
		case 4:
			l.m.ReadIndex([]byte("context"))
		case 5:
			l.m.Unreachable(2)
		case 6:
			l.m.SnapshotSent(3, []error{nil, errIncoming}[l.pick(2)])
		case 7:
			l.m.Campaign() //nolint:errcheck // it may not be its turn
		default:
			for range 1 + l.pick(3) {
				if err := l.step(l.message()); errors.Is(err, consensus.ErrForgotten) {
					return // a voter may say it
				}
			}
		}
		l.m.Advance()
		if l.m.Role().Term > 1<<63 {
			t.Fatalf("it is in term %d", l.m.Role().Term)
		}
	}
}

// FuzzNothingThatAPeerSaysMakesAMemberPanic steps what transport lets pass into a machine.
func FuzzNothingThatAPeerSaysMakesAMemberPanic(f *testing.F) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		choices := make([]byte, 2000)
		for i := range choices {
			choices[i] = byte(rng.Uint32())
		}
		f.Add(choices)
	}
	f.Fuzz(func(t *testing.T, choices []byte) { (&liars{choices: choices}).run(t) })
}

// Who was put back to before its leader was added cannot tell that from a stranger, and waits: it says so, once.
func TestAHeartbeatOfAnUnknownLeaderIsToldOnce(t *testing.T) {
	log := new(syncLog)
	n := openNode(t, t.TempDir(), func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	defer closeNode(t, n)
	heartbeat := func(commit uint64) {
		(peerHandler{n}).Receive(&raftpb.Message{
			Type: raftpb.MsgHeartbeat.Enum(), From: proto.Uint64(9), To: &n.member.ID, Term: proto.Uint64(1000), Commit: &commit,
		})
	}
	heartbeat(1 << 30)
	heartbeat(1<<30 + 1)
	heartbeat(0) // which is taken, after them
	led := func() bool { return n.term.Load() >= 1000 }
	(&testCluster{T: t}).until("the last one is taken", led)
	if lines := log.count(adviceToForgetful); lines != 1 {
		t.Errorf("%d lines say what to do", lines)
	}
	if err := n.Err(); err != nil {
		t.Errorf("it has ended: %v", err)
	}
}
