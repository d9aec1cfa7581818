package transport

import (
	"maps"
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// ofEachType are messages of a caller of every type there is between members, one each, and a heartbeat with commit 99 behind them. Those
// that a follower passes on are said to be of member 3.
func ofEachType(from, to uint64) []*raftpb.Message {
	var ms []*raftpb.Message
	for _, of := range slices.Sorted(maps.Keys(overNetwork)) {
		m := &raftpb.Message{Type: of.Enum(), From: proto.Uint64(from), To: proto.Uint64(to), Term: proto.Uint64(7)}
		if overNetwork[of] {
			m.From = proto.Uint64(3)
		}
		if of == raftpb.MsgProp || of == raftpb.MsgReadIndex { // which are of no term
			m.Term = nil
		}
		switch of {
		case raftpb.MsgProp, raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
			m.Entries = []*raftpb.Entry{{Data: []byte("12345678")}}
		}
		ms = append(ms, m)
	}
	return append(ms, heartbeat(&member{id: from}, &member{id: to}, 99))
}

func TestOnlyMembersAreHeardWithRequests(t *testing.T) {
	fromMembers := []raftpb.MessageType{raftpb.MsgProp, raftpb.MsgReadIndex, raftpb.MsgReadIndexResp, raftpb.MsgTransferLeader, raftpb.MsgTimeoutNow}
	for caller, mayAsk := range map[uint64]bool{1: true, 9: false} {
		b := start(t, 2)
		b.SetPeers(map[uint64][]string{1: {"http://127.0.0.1:1"}, 2: {b.url}, 3: {"http://127.0.0.1:1"}})
		s := rawStream(rawContext(t, caller, b, keyChannel, "small"), t, b, &messagesDesc)
		if _, err := s.Header(); err != nil {
			t.Fatal(err)
		}
		s.send(frameOf(t, ofEachType(caller, b.id)...))
		heard := map[raftpb.MessageType]bool{}
		for {
			m := next(t, b.received)
			if m.GetCommit() == 99 {
				break
			}
			heard[m.GetType()] = true
		}
		for of := range overNetwork {
			want := mayAsk || !slices.Contains(fromMembers, of)
			if heard[of] != want {
				t.Errorf("%v of caller %d: heard %v, want %v", of, caller, heard[of], want)
			}
		}
	}
}
