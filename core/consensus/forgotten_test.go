package consensus

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// A log that was put back to an earlier state is no reason for a panic of raft's.
func TestALogThatHasForgottenIsNoticed(t *testing.T) {
	r := newRecorder(t)
	r.step(t, appendOf(2, []byte("value")))
	heartbeat := func(term, commit uint64) *raftpb.Message {
		return &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: proto.Uint64(2), To: proto.Uint64(1), Term: proto.Uint64(term), Commit: proto.Uint64(commit)}
	}
	if err := r.m.Step(heartbeat(2, 1)); err != nil {
		t.Errorf("while an append is not acknowledged: %v", err)
	}
	r.writeAll()
	if err := r.m.Step(heartbeat(2, 2)); err != nil {
		t.Errorf("when it is: %v", err)
	}
	if err := r.m.Step(heartbeat(1, 9)); err != nil {
		t.Errorf("from a leader of an earlier term: %v", err)
	}
	if err := r.m.Step(heartbeat(2, 3)); !errors.Is(err, ErrForgotten) {
		t.Errorf("of an entry that it does not have: %v", err)
	}
}
