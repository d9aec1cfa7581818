package transport

import (
	"math"
	"strings"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func TestMessageThatRaftMustNotGetIsRefused(t *testing.T) {
	n := proto.Uint64
	entry := func(index, term uint64) *raftpb.Entry { return &raftpb.Entry{Index: n(index), Term: n(term)} }
	read := []*raftpb.Entry{{Data: []byte("a read")}}
	for _, c := range []struct {
		name string
		kind raftpb.MessageType
		m    *raftpb.Message // from 2 to 1 if it does not say
		want string
	}{
		{"good", raftpb.MsgHeartbeat, &raftpb.Message{Term: n(1)}, ""},
		{"good, and asks", raftpb.MsgHeartbeat, &raftpb.Message{Term: n(1), Context: make([]byte, 8)}, ""},
		{"passed on", raftpb.MsgReadIndex, &raftpb.Message{From: n(3), Entries: read}, ""},
		{"own, passed on", raftpb.MsgReadIndex, &raftpb.Message{From: n(1), Entries: read}, ""},
		{"entries", raftpb.MsgApp, &raftpb.Message{Term: n(4), LogTerm: n(2), Index: n(7), Entries: []*raftpb.Entry{entry(8, 2), entry(9, 4)}}, ""},
		{"no entries", raftpb.MsgApp, &raftpb.Message{Term: n(4), LogTerm: n(4), Index: n(7)}, ""},
		{"the first entries", raftpb.MsgApp, &raftpb.Message{Term: n(4), Entries: []*raftpb.Entry{entry(1, 1)}}, ""},
		{"to another", raftpb.MsgHeartbeat, &raftpb.Message{Term: n(1), To: n(3)}, "not"},
		{"from another", raftpb.MsgVote, &raftpb.Message{Term: n(1), From: n(3)}, "not from"},
		{"of nobody", raftpb.MsgReadIndex, &raftpb.Message{From: n(0), Entries: read}, "nobody"},
		{"local", raftpb.MsgHup, &raftpb.Message{}, "not sent between"},
		{"storage", raftpb.MsgStorageAppendResp, &raftpb.Message{}, "not sent between"},
		{"snapshot", raftpb.MsgSnap, &raftpb.Message{Term: n(1)}, "not sent between"},
		{"unknown", 99, &raftpb.Message{}, "99"},
		{"empty proposal", raftpb.MsgProp, &raftpb.Message{}, "nothing"},
		{"responses", raftpb.MsgHeartbeat, &raftpb.Message{Term: n(1), Responses: []*raftpb.Message{{}}}, "responses"},
		{"no term", raftpb.MsgVote, &raftpb.Message{}, "term 0"},
		{"a term of what has none", raftpb.MsgProp, &raftpb.Message{Term: n(1), Entries: read}, "term 1"},
		{"the last term", raftpb.MsgHeartbeat, &raftpb.Message{Term: n(math.MaxUint64)}, "no raft comes to"},
		{"the last index", raftpb.MsgAppResp, &raftpb.Message{Term: n(1), Index: n(math.MaxUint64)}, "no raft comes to"},
		{"a hint at the last index", raftpb.MsgAppResp, &raftpb.Message{Term: n(1), RejectHint: n(math.MaxUint64)}, "no raft comes to"},
		{"an entry of elsewhere", raftpb.MsgApp, &raftpb.Message{Term: n(4), LogTerm: n(2), Index: n(7), Entries: []*raftpb.Entry{entry(1, 4)}}, "in place of entry 8"},
		{"a gap", raftpb.MsgApp, &raftpb.Message{Term: n(4), LogTerm: n(2), Index: n(7), Entries: []*raftpb.Entry{entry(8, 4), entry(10, 4)}}, "in place of entry 9"},
		{"an earlier term", raftpb.MsgApp, &raftpb.Message{Term: n(4), LogTerm: n(2), Index: n(7), Entries: []*raftpb.Entry{entry(8, 3), entry(9, 2)}}, "of term 3 or later"},
		{"a term before the previous", raftpb.MsgApp, &raftpb.Message{Term: n(4), LogTerm: n(3), Index: n(7), Entries: []*raftpb.Entry{entry(8, 2)}}, "of term 3 or later"},
		{"a term to come", raftpb.MsgApp, &raftpb.Message{Term: n(4), LogTerm: n(2), Index: n(7), Entries: []*raftpb.Entry{entry(8, 5)}}, "with an entry of term 5"},
		{"no read", raftpb.MsgReadIndex, &raftpb.Message{}, "names no read"},
		{"two reads", raftpb.MsgReadIndex, &raftpb.Message{Entries: []*raftpb.Entry{read[0], read[0]}}, "names no read"},
		{"a read without a name", raftpb.MsgReadIndexResp, &raftpb.Message{Term: n(1), Entries: []*raftpb.Entry{{}}}, "names no read"},
		{"a read with a long name", raftpb.MsgReadIndex, &raftpb.Message{Entries: []*raftpb.Entry{{Data: make([]byte, 1000)}}}, "names no read"},
		{"an answer to what was not asked", raftpb.MsgHeartbeatResp, &raftpb.Message{Term: n(1), Context: []byte{1}}, "context of 1 byte"},
	} {
		c.m.Type = c.kind.Enum()
		if c.m.From == nil {
			c.m.From = n(2)
		}
		if c.m.To == nil {
			c.m.To = n(1)
		}
		err := checkMessage(c.m, 1, 2)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestSnapshotThatRaftMustNotGetIsRefused(t *testing.T) {
	two, many := []uint64{1, 2}, make([]uint64, maxVoters+1)
	for i := range many {
		many[i] = uint64(i) + 1
	}
	for _, c := range []struct {
		name   string
		change func(m *raftpb.Message, at *raftpb.SnapshotMetadata)
		want   string
	}{
		{"good", func(*raftpb.Message, *raftpb.SnapshotMetadata) {}, ""},
		{"a learner", func(_ *raftpb.Message, at *raftpb.SnapshotMetadata) { at.ConfState.Learners = []uint64{3} }, ""},
		{"another type", func(m *raftpb.Message, _ *raftpb.SnapshotMetadata) { m.Type = raftpb.MsgApp.Enum() }, "in place of MsgSnap"},
		{"to another", func(m *raftpb.Message, _ *raftpb.SnapshotMetadata) { m.To = proto.Uint64(3) }, "to member 3"},
		{"of another", func(m *raftpb.Message, _ *raftpb.SnapshotMetadata) { m.From = proto.Uint64(3) }, "of member 3"},
		{"of no entry", func(_ *raftpb.Message, at *raftpb.SnapshotMetadata) { at.Index = nil }, "without the metadata"},
		{"of no term", func(_ *raftpb.Message, at *raftpb.SnapshotMetadata) { at.Term = nil }, "of term 0"},
		{"of a term to come", func(_ *raftpb.Message, at *raftpb.SnapshotMetadata) { at.Term = proto.Uint64(8) }, "of term 8"},
		{"of the last index", func(_ *raftpb.Message, at *raftpb.SnapshotMetadata) { at.Index = proto.Uint64(math.MaxUint64) }, "of entry 18446744073709551615"},
		{"by nobody's election", func(m *raftpb.Message, at *raftpb.SnapshotMetadata) {
			m.Term, at.Term = proto.Uint64(math.MaxUint64), proto.Uint64(1)
		}, "no raft comes to"},
		{"with entries", func(m *raftpb.Message, _ *raftpb.SnapshotMetadata) { m.Entries = []*raftpb.Entry{{}} }, "does not belong"},
		{"with data", func(m *raftpb.Message, _ *raftpb.SnapshotMetadata) { m.Snapshot.Data = []byte{1} }, "does not belong"},
		{"nobody votes", func(_ *raftpb.Message, at *raftpb.SnapshotMetadata) { at.ConfState = nil }, "without the metadata"},
		{"somebody votes twice", func(_ *raftpb.Message, at *raftpb.SnapshotMetadata) { at.ConfState.Voters = []uint64{1, 2, 2} }, "configuration"},
		{"nobody's vote", func(_ *raftpb.Message, at *raftpb.SnapshotMetadata) { at.ConfState.Voters = []uint64{0, 1} }, "configuration"},
		{"a voter learns", func(_ *raftpb.Message, at *raftpb.SnapshotMetadata) { at.ConfState.Learners = two }, "configuration"},
		{"who is to learn next does not vote", func(_ *raftpb.Message, at *raftpb.SnapshotMetadata) { at.ConfState.LearnersNext = []uint64{3} }, "configuration"},
		{"too many vote", func(_ *raftpb.Message, at *raftpb.SnapshotMetadata) { at.ConfState.Voters = many }, "1001 members"},
	} {
		m := snapshotMsg(&member{id: 2}, &member{id: 1})
		c.change(m, m.GetSnapshot().GetMetadata())
		err := checkSnapshot(m, 1, 2)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// A newer raft may have new types: whether members send them is to be decided, not forgotten.
func TestEveryTypeOfMessageIsSentOrLocal(t *testing.T) {
	for number, name := range raftpb.MessageType_name {
		m := raftpb.MessageType(number)
		_, sent := overNetwork[m]
		local := raft.IsLocalMsg(m) || m == raftpb.MsgForgetLeader // which RawNode.ForgetLeader makes for itself
		if n := count(sent, local, m == raftpb.MsgSnap); n != 1 {
			t.Errorf("%s is of %d kinds, want one of: sent, local, a snapshot", name, n)
		}
	}
}

func count(of ...bool) (n int) {
	for _, b := range of {
		if b {
			n++
		}
	}
	return n
}
