package consensus

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// tells is an append without entries behind an entry.
func tells(index, commit uint64) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), Term: proto.Uint64(2), Index: proto.Uint64(index), LogTerm: proto.Uint64(2), Commit: proto.Uint64(commit),
	}
}

// answersTo are those that a follower gives to an append, once its log has done what it was asked for.
func (r *recorder) answersTo(t *testing.T, append *raftpb.Message) (n int) {
	t.Helper()
	r.sent = nil
	r.step(t, append)
	r.writeAll()
	return r.kinds()[raftpb.MsgAppResp]
}

func TestAFollowerDoesNotAnswerWhatOnlyTellsWhatIsCommitted(t *testing.T) {
	r := newRecorder(t)
	if n := r.answersTo(t, appendOf(2, []byte("value"))); n != 1 {
		t.Errorf("%d answers to an entry", n)
	}
	if n := r.answersTo(t, tells(2, 2)); n != 0 || r.m.Committed() != 2 {
		t.Errorf("%d answers to what tells that it is committed, which is up to entry %d now", n, r.m.Committed())
	}
}

// A leader asks so whether a follower has what it was sent, and goes on when that has answered.
func TestAFollowerAnswersWhatTellsItNothingNew(t *testing.T) {
	r := newRecorder(t)
	r.answersTo(t, appendOf(2, []byte("value")))
	r.answersTo(t, tells(2, 2))
	for range 2 {
		if n := r.answersTo(t, tells(2, 2)); n != 1 {
			t.Errorf("%d answers", n)
		}
	}
}

func TestAFollowerAnswersWhatItHasNotAnsweredYet(t *testing.T) {
	r := newRecorder(t)
	r.answersTo(t, appendOf(2, []byte("value")))
	if n := r.answersTo(t, tells(7, 7)); n != 1 || !r.sent[0].GetReject() {
		t.Errorf("behind an entry that it does not have: it is sent %v", r.sent)
	}
	// A leader of another term has not been answered anything.
	m := tells(2, 2)
	m.Term = proto.Uint64(3)
	if n := r.answersTo(t, m); n != 1 {
		t.Errorf("to another leader: %d answers", n)
	}
}

// An answer that waits for the log is not left out because of one that comes behind it.
func TestWhatTellsWhatIsCommittedDoesNotReplaceAnAnswerThatWaits(t *testing.T) {
	r := newRecorder(t)
	r.step(t, appendOf(2, []byte("value")))
	r.step(t, tells(2, 2))
	r.sent = nil
	r.writeAll()
	if n := r.kinds()[raftpb.MsgAppResp]; n != 1 {
		t.Errorf("%d answers", n)
	}
}
