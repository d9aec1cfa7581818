package transport

import "go.etcd.io/raft/v3/raftpb"

// ofGuests are the types of messages that are taken from a guest, snapshots apart: what raft has to hear of a leader or a candidate who
// is newer than what is applied here, and the answers to what it says itself. Not taken is what asks for something that members alone
// may have: a write, a read, another leader.
//
// Nothing of this is lost to a member for long: who is asked in vain, because it is behind, soon knows who asks.
var ofGuests = map[raftpb.MessageType]bool{
	raftpb.MsgApp:           true,
	raftpb.MsgAppResp:       true,
	raftpb.MsgVote:          true,
	raftpb.MsgVoteResp:      true,
	raftpb.MsgHeartbeat:     true,
	raftpb.MsgHeartbeatResp: true,
	raftpb.MsgPreVote:       true,
	raftpb.MsgPreVoteResp:   true,
}

// mayHear tells whether a message may come from a caller, whoever it is said to be from: a member passes on requests of others.
func (t *Transport) mayHear(m *raftpb.Message, caller uint64) bool {
	return ofGuests[m.GetType()] || t.isMember(caller)
}
