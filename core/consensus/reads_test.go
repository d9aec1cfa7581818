package consensus

import (
	"log/slog"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func question(from uint64) *raftpb.Message {
	return &raftpb.Message{Type: raftpb.MsgReadIndex.Enum(), From: proto.Uint64(from), Entries: []*raftpb.Entry{{Data: []byte("a read")}}}
}

// leaderOf leads with a membership, with member 2 having acknowledged that, and maybe member 3.
func leaderOf(t *testing.T, conf *raftpb.ConfState, others ...uint64) *recorder {
	t.Helper()
	r := &recorder{}
	conf.AutoLeave = proto.Bool(false)
	var err error
	r.m, err = New(Config{ID: 1, ElectionTicks: 10, MaxMessageBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)},
		State{HardState: &raftpb.HardState{Term: proto.Uint64(1)}, Applied: 1, AppliedTerm: 1, ConfState: conf}, r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.m.Campaign(); err != nil {
		t.Fatal(err)
	}
	r.m.Advance()
	for _, kind := range []raftpb.MessageType{raftpb.MsgPreVoteResp, raftpb.MsgVoteResp} {
		r.writeAll()
		for _, id := range others {
			r.step(t, say(kind, id, 2))
		}
	}
	r.writeAll()
	for _, id := range others {
		m := say(raftpb.MsgAppResp, id, 2)
		m.Index = proto.Uint64(2)
		r.step(t, m)
	}
	if !r.m.Role().Leads || r.m.Committed() != 2 {
		t.Fatalf("it is %+v, and entry %d is committed", r.m.Role(), r.m.Committed())
	}
	for r.m.IsPacing() {
		r.m.ReleaseHeld()
	}
	r.sent = nil
	return r
}

// kinds counts what is sent by its type.
func (r *recorder) kinds() map[raftpb.MessageType]int {
	kinds := map[raftpb.MessageType]int{}
	for _, m := range r.sent {
		kinds[m.GetType()]++
	}
	return kinds
}

func TestWhoAsksIsAMajorityWithItsLeaderAndIsAnsweredAtOnce(t *testing.T) {
	for _, voters := range [][]uint64{{1, 2}, {1, 2, 3}} {
		r := leaderOf(t, &raftpb.ConfState{Voters: voters, Learners: []uint64{9}}, 2)
		r.step(t, question(2))
		if len(r.sent) != 1 {
			t.Fatalf("of %v: it is sent %v", voters, r.sent)
		}
		answer := r.sent[0]
		if answer.GetType() != raftpb.MsgReadIndexResp || answer.GetTo() != 2 || answer.GetFrom() != 1 || answer.GetTerm() != 2 || answer.GetIndex() != 2 ||
			len(answer.GetEntries()) != 1 || string(answer.GetEntries()[0].GetData()) != "a read" {
			t.Errorf("of %v: the answer is %v", voters, answer)
		}
	}
}

func TestWhoIsNoMajorityWithItsLeaderIsAnsweredWhenOthersFollow(t *testing.T) {
	for name, c := range map[string]struct {
		conf *raftpb.ConfState
		from uint64
		also []uint64 // who votes, beside member 2
	}{
		"one of four":  {&raftpb.ConfState{Voters: []uint64{1, 2, 3, 4}}, 2, []uint64{3}},
		"one of five":  {&raftpb.ConfState{Voters: []uint64{1, 2, 3, 4, 5}}, 2, []uint64{3}},
		"learner":      {&raftpb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{9}}, 9, nil},
		"nobody known": {&raftpb.ConfState{Voters: []uint64{1, 2, 3}}, 8, nil},
		"between two": {
			&raftpb.ConfState{Voters: []uint64{1, 2, 3}, VotersOutgoing: []uint64{1, 4, 5}}, 2, []uint64{4},
		},
	} {
		r := leaderOf(t, c.conf, append(c.also, 2)...)
		r.step(t, question(c.from))
		if kinds := r.kinds(); kinds[raftpb.MsgReadIndexResp] != 0 || kinds[raftpb.MsgHeartbeat] == 0 {
			t.Errorf("%s: it is sent %v", name, r.sent)
		}
	}
}

// The leader itself is answered by raft, which asks the others.
func TestALeaderAsksWhetherItLeadsBeforeItReads(t *testing.T) {
	r := leaderOf(t, &raftpb.ConfState{Voters: []uint64{1, 2, 3}}, 2)
	r.m.ReadIndex([]byte("a read"))
	r.m.Advance()
	if kinds := r.kinds(); kinds[raftpb.MsgHeartbeat] != 2 || len(kinds) != 1 {
		t.Errorf("it is sent %v", r.sent)
	}
}

func TestWhoLeadsAnswersNobodyBeforeAnEntryOfItsTermIsCommitted(t *testing.T) {
	r := newRecorder(t)
	r.lead(t)
	r.sent = nil
	r.step(t, question(2))
	if n := r.kinds()[raftpb.MsgReadIndexResp]; n != 0 {
		t.Errorf("it is sent %v", r.sent)
	}
}

// What has come before the question may have ended the leadership, though nothing has been made of it yet.
func TestWhoHasCeasedToLeadAnswersNobody(t *testing.T) {
	r := leaderOf(t, &raftpb.ConfState{Voters: []uint64{1, 2, 3}}, 2)
	for _, m := range []*raftpb.Message{say(raftpb.MsgHeartbeat, 3, 3), question(2)} {
		m.To = proto.Uint64(1)
		if err := r.m.Step(m); err != nil {
			t.Fatal(err)
		}
	}
	r.m.Advance()
	if n := r.kinds()[raftpb.MsgReadIndexResp]; n != 0 {
		t.Errorf("it is sent %v", r.sent)
	}
}

// With a third voter more, two are a majority still; with a fourth they are not.
func TestWhoIsAMajorityIsAsThoseVoteWhoAreMembersNow(t *testing.T) {
	r := leaderOf(t, &raftpb.ConfState{Voters: []uint64{1, 2}}, 2)
	for _, added := range []uint64{3, 4} {
		r.m.ApplyChange(&raftpb.ConfChange{Type: raftpb.ConfChangeAddNode.Enum(), NodeId: proto.Uint64(added)})
		r.m.Advance()
		r.sent = nil
		r.step(t, question(2))
		if got, want := r.kinds()[raftpb.MsgReadIndexResp], int(4-added); got != want {
			t.Errorf("with member %d: %d answers", added, got)
		}
	}
}
