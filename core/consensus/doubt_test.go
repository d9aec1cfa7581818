package consensus

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func say(kind raftpb.MessageType, from, term uint64) *raftpb.Message {
	return &raftpb.Message{Type: kind.Enum(), From: &from, To: proto.Uint64(1), Term: &term}
}

// A stranger is no leader that this member has acknowledged anything to.
func TestAHeartbeatOfWhoIsNoVoterEndsNobody(t *testing.T) {
	r := newRecorder(t)
	r.step(t, appendOf(2, []byte("value")))
	r.writeAll()
	m := say(raftpb.MsgHeartbeat, 9, 1000)
	m.Commit = proto.Uint64(1 << 40)
	if err := r.m.Step(m); !errors.Is(err, ErrUnknownLeader) || errors.Is(err, ErrForgotten) {
		t.Errorf("got %v", err)
	}
	r.step(t, say(raftpb.MsgHeartbeat, 2, 2))
	if role := r.m.Role(); role.Term != 2 || role.Leader != 2 {
		t.Errorf("it is %+v then", role)
	}
}

// What is in the log and is about to be replaced is nothing that raft has.
func TestAHeartbeatThatCommitsWhatIsBeingReplacedIsNotTaken(t *testing.T) {
	r := newRecorder(t)
	for index := range uint64(3) {
		r.step(t, appendOf(2+index, []byte("value")))
	}
	r.writeAll()
	other := say(raftpb.MsgApp, 3, 3)
	other.Index, other.LogTerm = proto.Uint64(1), proto.Uint64(1)
	other.Entries = []*raftpb.Entry{{Index: proto.Uint64(2), Term: proto.Uint64(3)}}
	r.step(t, other) // it is not durable
	m := say(raftpb.MsgHeartbeat, 3, 3)
	m.Commit = proto.Uint64(4)
	if err := r.m.Step(m); err == nil {
		t.Error("it is taken")
	}
}

func TestATermThatNoElectionCanHaveComeToIsNotTaken(t *testing.T) {
	r := newRecorder(t)
	for _, term := range []uint64{1 << 62, 1<<64 - 1, 1<<32 + 2} {
		if err := r.m.Step(say(raftpb.MsgHeartbeat, 2, term)); err == nil {
			t.Errorf("term %d is", term)
		}
	}
	r.step(t, say(raftpb.MsgHeartbeat, 2, 1<<32+1)) // unlikely, but possible
	if got := r.m.Role().Term; got != 1<<32+1 {
		t.Errorf("it is in term %d", got)
	}
}

// Who has joined knows of no election.
func TestWhoHasNoDataTakesEachTerm(t *testing.T) {
	r := newRecorder(t)
	m, err := New(Config{ID: 1, ElectionTicks: 10, MaxMessageBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)}, State{HardState: &raftpb.HardState{}, ConfState: &raftpb.ConfState{AutoLeave: proto.Bool(false)}}, r)
	if err != nil {
		t.Fatal(err)
	}
	r.m = m
	r.step(t, say(raftpb.MsgHeartbeat, 2, 1<<40))
	if got := r.m.Role().Term; got != 1<<40 {
		t.Errorf("it is in term %d", got)
	}
}

func TestAnAnswerToAHeartbeatThatWasNotSentIsNotTaken(t *testing.T) {
	r := newRecorder(t)
	r.lead(t)
	r.writeAll()
	r.acknowledge(t, 2)
	r.sent = nil
	r.m.ReadIndex([]byte("a read"))
	r.m.Advance()
	var asked *raftpb.Message
	for _, m := range r.sent {
		if m.GetType() == raftpb.MsgHeartbeat {
			asked = m
		}
	}
	if len(asked.GetContext()) != 8 {
		t.Fatalf("the heartbeat asks %x", asked.GetContext())
	}
	count := binary.LittleEndian.Uint64(asked.GetContext())
	for _, context := range [][]byte{{1}, make([]byte, 7), binary.LittleEndian.AppendUint64(nil, count+1)} {
		for _, id := range []uint64{2, 3} { // of two raft would believe it
			m := say(raftpb.MsgHeartbeatResp, id, asked.GetTerm())
			m.Context = context
			if err := r.m.Step(m); err == nil {
				t.Errorf("%x is", context)
			}
		}
	}
	m := say(raftpb.MsgHeartbeatResp, 2, asked.GetTerm())
	m.Context = asked.GetContext()
	r.step(t, m)
}

func TestAFollowerPassesOnNoTransfer(t *testing.T) {
	r := newRecorder(t)
	r.step(t, say(raftpb.MsgHeartbeat, 2, 2))
	if err := r.m.Step(say(raftpb.MsgTransferLeader, 3, 2)); !errors.Is(err, errNotLeader) {
		t.Errorf("got %v", err)
	}
}
