package consensus

import (
	"errors"
	"log/slog"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

var defaults = Bounds{}.orDefaults()

// recorder notes what a machine wants done, and does it when the test says so.
type recorder struct {
	m        *Machine
	asked    []Work // of the log
	applying []Work
	sent     []*raftpb.Message
}

func (r *recorder) Append(_ *raftpb.HardState, _ []*raftpb.Entry, w Work) {
	r.asked = append(r.asked, w)
}
func (r *recorder) Apply(_ []*raftpb.Entry, w Work) { r.applying = append(r.applying, w) }
func (r *recorder) Install(_ *raftpb.SnapshotMetadata, _ *raftpb.HardState, w Work) {
	r.asked = append(r.asked, w)
}
func (r *recorder) Send(messages []*raftpb.Message) { r.sent = append(r.sent, messages...) }
func (*recorder) Confirmed([]byte, uint64)          {}
func (*recorder) Became(Role)                       {}

// newRecorder is the machine of member 1 of three, with a log that ends at entry 1 of term 1.
func newRecorder(t *testing.T) *recorder {
	t.Helper()
	r := &recorder{}
	conf := &raftpb.ConfState{Voters: []uint64{1, 2, 3}, AutoLeave: proto.Bool(false)}
	var err error
	r.m, err = New(Config{ID: 1, ElectionTicks: 10, MaxMessageBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)},
		State{HardState: &raftpb.HardState{Term: proto.Uint64(1)}, Applied: 1, AppliedTerm: 1, ConfState: conf}, r)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// step hands over a message, from member 2 if it does not say.
func (r *recorder) step(t *testing.T, m *raftpb.Message) {
	t.Helper()
	m.To = proto.Uint64(1)
	if m.From == nil {
		m.From = proto.Uint64(2)
	}
	if err := r.m.Step(m); err != nil {
		t.Fatalf("%v: %v", m.GetType(), err)
	}
	r.m.Advance()
}

// acknowledge has the others say that they have the log up to an entry.
func (r *recorder) acknowledge(t *testing.T, index uint64) {
	t.Helper()
	for _, id := range []uint64{2, 3} {
		r.step(t, &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), From: proto.Uint64(id), Term: proto.Uint64(2), Index: proto.Uint64(index)})
	}
}

// write has the log do the oldest thing that it was asked for.
func (r *recorder) write() Work {
	w := r.asked[0]
	r.asked = r.asked[1:]
	r.m.Done(w)
	r.m.Advance()
	return w
}

func (r *recorder) writeAll() {
	for len(r.asked) > 0 {
		r.write()
	}
}

func (r *recorder) askedBytes() (sum int) {
	for _, w := range r.asked {
		for _, e := range w.entries {
			sum += len(e.GetData())
		}
	}
	return sum
}

// appendOf is an append in term 2 of one entry.
func appendOf(index uint64, data []byte) *raftpb.Message {
	before := uint64(2)
	if index == 2 {
		before = 1
	}
	return &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), Term: proto.Uint64(2), Index: proto.Uint64(index - 1), LogTerm: proto.Uint64(before), Commit: proto.Uint64(1),
		Entries: []*raftpb.Entry{{Index: proto.Uint64(index), Term: proto.Uint64(2), Data: data}},
	}
}

// lead has the machine win an election, with an empty entry 2 of term 2.
func (r *recorder) lead(t *testing.T) {
	t.Helper()
	if err := r.m.Campaign(); err != nil {
		t.Fatal(err)
	}
	r.m.Advance()
	r.step(t, &raftpb.Message{Type: raftpb.MsgPreVoteResp.Enum(), Term: proto.Uint64(2)})
	r.writeAll()
	r.step(t, &raftpb.Message{Type: raftpb.MsgVoteResp.Enum(), Term: proto.Uint64(2)})
	if !r.m.Role().Leads {
		t.Fatalf("it is %+v", r.m.Role())
	}
	r.writeAll()
}

func TestALogThatStandsStillIsNotAskedForMoreThanItTakesWithoutWaiting(t *testing.T) {
	r := newRecorder(t)
	const entries = 40
	for i := range uint64(entries) {
		r.step(t, appendOf(2+i, make([]byte, 1<<20)))
	}
	if got := r.askedBytes(); got > defaults.Asked {
		t.Errorf("the log has been asked for %d bytes", got)
	}
	// A heartbeat is answered, and a vote is not, until it is durable.
	r.sent = nil
	r.step(t, &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), Term: proto.Uint64(2), Commit: proto.Uint64(1)})
	if len(r.sent) != 1 || r.sent[0].GetType() != raftpb.MsgHeartbeatResp {
		t.Errorf("the answer to a heartbeat: %v", r.sent)
	}
	next := uint64(2)
	for len(r.asked) > 0 {
		for _, e := range r.write().entries {
			if e.GetIndex() != next {
				t.Fatalf("entry %d is written after entry %d", e.GetIndex(), next-1)
			}
			next++
		}
		if got := r.askedBytes(); got > defaults.Asked {
			t.Errorf("the log has been asked for %d bytes", got)
		}
	}
	if next != 2+entries {
		t.Errorf("written up to entry %d", next-1)
	}
	if last := r.sent[len(r.sent)-1]; last.GetType() != raftpb.MsgAppResp || last.GetIndex() != 1+entries {
		t.Errorf("the last answer is %v", last)
	}
}

func TestAVoteWaitsBehindWhatTheLogIsToWriteBefore(t *testing.T) {
	r := newRecorder(t)
	for i := range uint64(20) {
		r.step(t, appendOf(2+i, make([]byte, 1<<20)))
	}
	r.sent = nil
	r.step(t, &raftpb.Message{Type: raftpb.MsgVote.Enum(), Term: proto.Uint64(7), Index: proto.Uint64(100), LogTerm: proto.Uint64(6), Context: []byte("CampaignTransfer")})
	voted := func() bool {
		for _, m := range r.sent {
			if m.GetType() == raftpb.MsgVoteResp && !m.GetReject() {
				return true
			}
		}
		return false
	}
	for len(r.asked) > 0 {
		if voted() {
			t.Fatal("it has voted, and that is not durable")
		}
		r.write()
	}
	if !voted() {
		t.Error("it has not voted")
	}
}

func TestASnapshotIsInstalledBehindWhatWaitsForTheLog(t *testing.T) {
	r := newRecorder(t)
	for i := range uint64(20) {
		r.step(t, appendOf(2+i, make([]byte, 1<<20)))
	}
	r.step(t, &raftpb.Message{Type: raftpb.MsgSnap.Enum(), Term: proto.Uint64(2), Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: proto.Uint64(100), Term: proto.Uint64(2), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2, 3}, AutoLeave: proto.Bool(false)},
	}}})
	if !r.m.IsInstalling() {
		t.Error("who has received the snapshot is told that it is not needed")
	}
	r.step(t, appendOf(101, []byte("behind it")))
	written := 0
	for len(r.asked) > 0 {
		installs := r.asked[len(r.asked)-1].snapshot != nil
		if installs && len(r.asked) > 1 {
			r.write()
			written++
			continue
		}
		w := r.write()
		switch {
		case installs && written < 8:
			t.Errorf("installed after %d appends", written)
		case installs && r.m.IsInstalling():
			t.Error("it says that the snapshot is still being installed")
		case len(w.entries) > 0 && w.entries[0].GetIndex() == 101 && r.m.IsInstalling():
			t.Error("what is behind the snapshot is written before it")
		}
		written++
	}
	if last, err := r.m.Storage().LastIndex(); err != nil || last != 101 {
		t.Errorf("the log ends at entry %d, %v", last, err)
	}
}

func TestALeaderThatCannotWriteTakesNoMoreThanABound(t *testing.T) {
	r := newRecorder(t)
	r.lead(t)
	index := uint64(2)
	r.acknowledge(t, index)
	taken := 0
	for r.m.CanPropose() && taken < 1000 {
		if err := r.m.Propose(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
		r.m.Advance()
		taken, index = taken+1, index+1
		r.acknowledge(t, index)
	}
	if taken > defaults.Unsaved>>20+1 {
		t.Fatalf("it has taken %d MiB that it has not written", taken)
	}
	if r.m.Committed() != index {
		t.Errorf("entry %d is committed, and a majority has %d", r.m.Committed(), index)
	}
	proposal := &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: proto.Uint64(2), Entries: []*raftpb.Entry{{Data: []byte("x")}}}
	if err := r.m.Step(proposal); !errors.Is(err, errBehind) {
		t.Errorf("a proposal of another member: %v", err)
	}
	// There is nothing any more that would show whose disk works: an empty entry does.
	for range stayTimeouts * 10 {
		for _, id := range []uint64{2, 3} {
			r.step(t, &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), From: proto.Uint64(id), Term: proto.Uint64(2)})
		}
		r.m.Tick()
		r.m.Advance()
	}
	r.acknowledge(t, index+1)
	r.m.Tick()
	r.m.Advance()
	if r.handedOverTo() == 0 {
		t.Error("it stays, and takes nothing")
	}
	r.writeAll()
	if !r.m.CanPropose() {
		t.Error("it has written all, and takes nothing")
	}
}
