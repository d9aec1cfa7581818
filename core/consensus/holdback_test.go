package consensus

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// quietLeader leads, and nothing has been committed lately.
func quietLeader(t *testing.T) *recorder {
	t.Helper()
	r := newRecorder(t)
	r.lead(t)
	r.acknowledge(t, 2)
	for r.m.IsPacing() {
		r.m.ReleaseHeld()
	}
	r.sent = nil
	return r
}

// busyLeader has committed entry 3 a moment ago.
func busyLeader(t *testing.T) *recorder {
	t.Helper()
	r := quietLeader(t)
	r.commit(t, 3)
	r.sent = nil
	return r
}

// commit proposes an entry, which all acknowledge.
func (r *recorder) commit(t *testing.T, index uint64) {
	t.Helper()
	r.propose(t, "value")
	r.writeAll()
	r.acknowledge(t, index)
}

// told is up to where a member has been told that the log is committed, by an append.
func (r *recorder) told(id uint64) (commit uint64) {
	for _, m := range r.sent {
		if m.GetType() == raftpb.MsgApp && m.GetTo() == id {
			commit = max(commit, m.GetCommit())
		}
	}
	return commit
}

// empty is how many appends without entries a member has been sent.
func (r *recorder) empty(id uint64) (n int) {
	for _, m := range r.sent {
		if m.GetType() == raftpb.MsgApp && m.GetTo() == id && len(m.GetEntries()) == 0 {
			n++
		}
	}
	return n
}

func TestFollowersAreToldAtOnceThatALoneWriteIsCommitted(t *testing.T) {
	r := quietLeader(t)
	r.commit(t, 3)
	if r.told(2) != 3 || r.told(3) != 3 {
		t.Errorf("they are told of entries %d and %d", r.told(2), r.told(3))
	}
}

func TestTheNextAppendTellsThatTheOneBeforeIsCommitted(t *testing.T) {
	r := busyLeader(t)
	for index := uint64(4); index < 20; index++ {
		r.sent = nil
		r.commit(t, index)
		for _, id := range []uint64{2, 3} {
			if r.empty(id) != 0 || r.told(id) != index-1 {
				t.Errorf("entry %d: member %d is told of entry %d, in %d messages that say nothing else", index, id, r.told(id), r.empty(id))
			}
		}
		r.m.ReleaseHeld()
	}
}

func TestWhatIsHeldBackIsSentAfterTwoIntervals(t *testing.T) {
	r := busyLeader(t)
	r.commit(t, 4)
	for n := 0; r.told(2) < 4 || r.told(3) < 4; n++ {
		if !r.m.IsPacing() || n == 2 {
			t.Fatalf("after %d intervals they are told of entries %d and %d", n, r.told(2), r.told(3))
		}
		r.m.ReleaseHeld()
	}
	if r.empty(2) != 1 || r.empty(3) != 1 {
		t.Errorf("%d and %d messages", r.empty(2), r.empty(3))
	}
	for n := 0; r.m.IsPacing(); n++ {
		if n == 2 {
			t.Fatal("it wants to be asked for ever")
		}
		r.m.ReleaseHeld()
	}
}

func TestAFollowerWhoseClientWaitsIsToldAtOnce(t *testing.T) {
	r := busyLeader(t)
	proposal := &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: proto.Uint64(3), Entries: []*raftpb.Entry{{Data: []byte("value")}}}
	for range 2 { // the first is committed, and the second is waited for
		r.step(t, proto.Clone(proposal).(*raftpb.Message))
	}
	r.writeAll()
	for index := uint64(4); index <= 5; index++ {
		r.sent = nil
		r.acknowledge(t, index)
		if r.told(3) != index || r.told(2) != 0 {
			t.Errorf("who waits is told of entry %d, the other of %d", r.told(3), r.told(2))
		}
	}
	r.sent = nil
	if r.commit(t, 6); r.told(3) != 5 {
		t.Errorf("who waits no more is told of entry %d", r.told(3))
	}
}

// A proposal that raft does not take is in no entry.
func TestWhoseProposalIsNotTakenDoesNotWait(t *testing.T) {
	r := busyLeader(t)
	r.m.TransferLeadership(2)
	m := &raftpb.Message{Type: raftpb.MsgProp.Enum(), From: proto.Uint64(3), To: proto.Uint64(1), Entries: []*raftpb.Entry{{Data: []byte("value")}}}
	if err := r.m.Step(m); err == nil {
		t.Fatal("it is taken")
	}
	if f := r.m.follower(3); f.waitsFor != 0 {
		t.Errorf("it waits for entry %d", f.waitsFor)
	}
}

func TestAFollowerIsToldWhatIsCommittedBeforeItMayReadIt(t *testing.T) {
	r := busyLeader(t)
	r.commit(t, 4)
	r.sent = nil
	r.step(t, question(2))
	if len(r.sent) != 2 || r.sent[0].GetCommit() != 4 || r.sent[1].GetType() != raftpb.MsgReadIndexResp || r.sent[1].GetIndex() != 4 {
		t.Errorf("it is sent %v", r.sent)
	}
}

// raft asks by an append without entries what a follower has that may not have been reached, and waits for the answer.
func TestAQuestionWhatAFollowerHasIsNotHeldBack(t *testing.T) {
	r := busyLeader(t)
	r.propose(t, "value")
	r.writeAll()
	r.m.Unreachable(2)
	r.sent = nil
	r.step(t, &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), From: proto.Uint64(2), Term: proto.Uint64(2)})
	if r.told(2) != 3 {
		t.Errorf("it is sent %v", r.sent)
	}
	r.step(t, &raftpb.Message{Type: raftpb.MsgAppResp.Enum(), From: proto.Uint64(3), Term: proto.Uint64(2), Index: proto.Uint64(4)})
	r.m.Unreachable(2)
	r.sent = nil
	r.step(t, &raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), From: proto.Uint64(2), Term: proto.Uint64(2)})
	if r.told(2) != 4 {
		t.Errorf("with more that is committed it is sent %v", r.sent)
	}
}

func TestWhoIsRemovedIsToldBeforeItIsNotReachedAnyMore(t *testing.T) {
	r := busyLeader(t)
	change, err := proto.Marshal(&raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: proto.Uint64(3)})
	if err != nil {
		t.Fatal(err)
	}
	if taken, err := r.m.ProposeChange(change); !taken || err != nil {
		t.Fatal(taken, err)
	}
	r.m.Advance()
	r.writeAll()
	r.acknowledge(t, 4)
	if r.told(3) != 4 {
		t.Errorf("it is told of entry %d", r.told(3))
	}
}

func TestWhatALeaderHasHeldBackEndsWithItsLeadership(t *testing.T) {
	r := busyLeader(t)
	r.commit(t, 4)
	r.step(t, say(raftpb.MsgHeartbeat, 2, 3))
	r.sent = nil
	for range 3 {
		r.m.ReleaseHeld()
	}
	if len(r.sent) > 0 || r.m.IsPacing() {
		t.Errorf("it is sent %v", r.sent)
	}
}
