package consensus

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// handedOverTo is the last that was asked to take over, 0 if nobody was.
func (r *recorder) handedOverTo() (id uint64) {
	for _, m := range r.sent {
		if m.GetType() == raftpb.MsgTimeoutNow {
			id = m.GetTo()
		}
	}
	return id
}

// reply has some of the others acknowledge all that they were sent, and the rest answer heartbeats, and forgets what was sent.
func (r *recorder) reply(t *testing.T, working ...uint64) {
	t.Helper()
	last := map[uint64]uint64{}
	for _, m := range r.sent {
		if n := len(m.GetEntries()); n > 0 {
			last[m.GetTo()] = m.GetEntries()[n-1].GetIndex()
		}
	}
	r.sent = nil
	for _, id := range []uint64{2, 3} {
		r.step(t, &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), From: proto.Uint64(id), Term: proto.Uint64(2)})
	}
	for _, id := range working {
		if last[id] > 0 {
			r.step(t, &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), From: proto.Uint64(id), Term: proto.Uint64(2), Index: proto.Uint64(last[id])})
		}
	}
}

// play lets ticks pass, in which the others whose disks work acknowledge everything, and tells at which the leader has asked whom to take
// over.
func (r *recorder) play(t *testing.T, ticks int, each func(tick int), working ...uint64) (asked map[int]uint64) {
	t.Helper()
	asked = map[int]uint64{}
	for tick := range ticks {
		each(tick)
		r.m.Advance()
		r.m.Tick()
		r.m.Advance()
		for range 4 { // all that follows from it
			if to := r.handedOverTo(); to != 0 {
				asked[tick] = to
			}
			r.reply(t, working...)
		}
	}
	return asked
}

func (r *recorder) propose(t *testing.T, data string) {
	t.Helper()
	if err := r.m.Propose([]byte(data)); err != nil {
		t.Fatal(err)
	}
	r.m.Advance()
}

// newLeader leads for long enough to leave, and has written all.
func newLeader(t *testing.T) *recorder {
	t.Helper()
	r := newRecorder(t)
	r.lead(t)
	r.acknowledge(t, 2)
	if asked := r.play(t, 200, func(int) {}, 2, 3); len(asked) > 0 {
		t.Fatalf("an idle leader has asked others to take over: %v", asked)
	}
	return r
}

func nothing(int) {}

func TestALeaderWhoseDiskStandsStillHandsOverToOneWhoseDiskWorks(t *testing.T) {
	r := newLeader(t)
	r.propose(t, "x")
	asked := r.play(t, 30, nothing, 2, 3)
	if len(asked) != 1 {
		t.Fatalf("in three election timeouts it has asked %v", asked)
	}
	for tick := range asked {
		if tick < 10 {
			t.Errorf("it has handed over after %d ticks", tick)
		}
	}
}

func TestALeaderWhoseDiskStandsStillStaysIfAllDo(t *testing.T) {
	r := newLeader(t)
	r.propose(t, "x")
	r.reply(t, 2, 3) // it is committed, and then all stand still
	before := len(r.asked)
	if asked := r.play(t, 1000, nothing); len(asked) > 0 {
		t.Errorf("it has asked %v", asked)
	}
	if grown := len(r.asked) - before; grown > 1 {
		t.Errorf("to see whose disk works it has appended %d entries", grown)
	}
}

func TestALeaderThatHasJustBeenElectedStays(t *testing.T) {
	r := newRecorder(t)
	r.lead(t)
	r.acknowledge(t, 2)
	r.propose(t, "x")
	for tick := range r.play(t, 150, nothing, 2, 3) {
		if tick < stayTimeouts*10-1 {
			t.Errorf("it has asked another to take over after %d ticks", tick)
		}
	}
}

// One small write in nine ticks, and two entries come in each.
func TestALeaderThatFallsBehindForEverHandsOver(t *testing.T) {
	r := newLeader(t)
	asked := r.play(t, 40, func(tick int) {
		if r.m.raw.BasicStatus().LeadTransferee == 0 {
			r.propose(t, "x")
			r.propose(t, "y")
		}
		if tick%9 == 0 {
			r.write()
		}
	}, 2, 3)
	if len(asked) == 0 {
		t.Error("it has never handed over")
	}
}

// Who is asked to take over does not, as when it sees nobody else.
func TestALeaderAsksAnotherAfterOneThatDoesNotTakeOver(t *testing.T) {
	r := newLeader(t)
	r.propose(t, "x")
	refused, tried := 0, 0
	asked := r.play(t, 500, func(int) {
		tried++
		if r.m.Propose([]byte("y")) != nil {
			refused++
		}
	}, 2, 3)
	of := map[uint64]int{}
	for _, id := range asked {
		of[id]++
	}
	if len(asked) > 5 || of[2] == 0 || of[3] == 0 {
		t.Errorf("in 50 election timeouts it has asked %v", asked)
	}
	if refused > len(asked)*10 {
		t.Errorf("of %d proposals %d were refused", tried, refused)
	}
}

// A leader sends an append without entries to a follower that lags with each answer to a heartbeat, and with each linearizable read there
// is one.
func TestAFollowerWhoseDiskStandsStillDoesNotGrowWithReads(t *testing.T) {
	r := newRecorder(t)
	r.step(t, appendOf(2, []byte("x")))
	r.sent = nil
	empty := func() *raftpb.Message {
		return &raftpb.Message{
			Type: raftpb.MsgApp.Enum(), From: proto.Uint64(2), To: proto.Uint64(1), Term: proto.Uint64(2), Index: proto.Uint64(2),
			LogTerm: proto.Uint64(2), Commit: proto.Uint64(1),
		}
	}
	vote := func(term uint64) *raftpb.Message {
		return &raftpb.Message{
			Type: raftpb.MsgPreVote.Enum(), From: proto.Uint64(3), To: proto.Uint64(1), Term: proto.Uint64(term), Index: proto.Uint64(1), LogTerm: proto.Uint64(1),
		}
	}
	const reads = 20_000
	for i := range uint64(reads) {
		_ = r.m.Step(empty()) // an error says that it is as good as lost
		_ = r.m.Step(vote(3 + i))
		r.m.Advance()
		r.step(t, &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), Term: proto.Uint64(2), Commit: proto.Uint64(1), Context: []byte("12345678")})
	}
	if waits := r.m.asked + len(r.m.held); waits > defaults.Works {
		t.Errorf("%d works wait for the log", waits)
	}
	answered := 0
	for _, m := range r.sent {
		if m.GetType() == raftpb.MsgHeartbeatResp {
			answered++
		}
	}
	if answered != reads {
		t.Errorf("%d of %d heartbeats were answered", answered, reads)
	}
	r.writeAll()
	if err := r.m.Step(empty()); err != nil {
		t.Errorf("when its disk has gone on: %v", err)
	}
}

func TestAProposalIsNotPassedOnByWhoDoesNotLead(t *testing.T) {
	r := newLeader(t)
	proposal := func() *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: proto.Uint64(2), To: proto.Uint64(1), Entries: []*raftpb.Entry{{Data: []byte("old")}}}
	}
	if err := r.m.Step(proposal()); err != nil {
		t.Errorf("who leads: %v", err)
	}
	// In one batch with the message that deposes it.
	if err := r.m.Step(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: proto.Uint64(3), To: proto.Uint64(1), Term: proto.Uint64(5)}); err != nil {
		t.Fatal(err)
	}
	r.sent = nil
	if err := r.m.Step(proposal()); err == nil {
		t.Error("it has taken a proposal for the leader")
	}
	r.m.Advance()
	for _, m := range r.sent {
		if m.GetType() == raftpb.MsgProp {
			t.Error("it has passed a proposal on")
		}
	}
	r.writeAll()
	if err := r.m.Propose([]byte("its own")); err != nil {
		t.Errorf("its own: %v", err)
	}
}

// What is not applied cannot be cut from the log, and raft has it in memory.
func TestAFollowerThatAppliesNothingTakesNoMoreThanABound(t *testing.T) {
	r := newRecorder(t)
	r.m.bounds.Unapplied = 10 << 20
	index := uint64(2)
	next := func() *raftpb.Message {
		m := appendOf(index, make([]byte, 1<<20))
		m.From, m.To, m.Commit = proto.Uint64(2), proto.Uint64(1), proto.Uint64(index-1)
		return m
	}
	for ; index < 100; index++ {
		if r.m.Step(next()) != nil {
			break
		}
		r.m.Advance()
		r.writeAll()
	}
	if index != 12 {
		t.Errorf("it has taken %d MiB", index-2)
	}
	for len(r.applying) > 0 {
		w := r.applying[0]
		r.applying = r.applying[1:]
		r.m.Done(w)
		r.m.Advance()
	}
	if err := r.m.Step(next()); err != nil {
		t.Errorf("when it has applied all: %v", err)
	}
}

// Or else it would never hear what takes the place of what it has.
func TestAFollowerTakesMoreAsLongAsThereIsNothingToApply(t *testing.T) {
	r := newRecorder(t)
	r.m.bounds.Unapplied = 2 << 20
	for i := range uint64(10) {
		r.step(t, appendOf(2+i, make([]byte, 1<<20)))
		r.writeAll()
	}
}
