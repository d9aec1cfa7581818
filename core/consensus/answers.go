package consensus

import "go.etcd.io/raft/v3/raftpb"

// answers are what a follower says to its leader of its log, and what it leaves out: the answer to an append that only tells how far
// the log is committed. It says nothing new, and would wake the leader.
//
// A leader that takes this member for unreachable sends such an append to be answered. If it is not, because more is committed than was
// told before, the leader asks again after the next heartbeat, which has told that by then.
type answers struct {
	term   uint64 // of the leader
	given  uint64 // the last entry that it has acknowledged
	spared uint64 // the entry behind which the last append came, if that need not be answered; else 0
}

// heard notes an append that is about to be stepped.
func (a *answers) heard(message *raftpb.Message, committed uint64) {
	if message.GetTerm() != a.term {
		*a = answers{term: message.GetTerm()}
	}
	a.spared = 0
	if len(message.GetEntries()) == 0 && message.GetCommit() > committed {
		a.spared = message.GetIndex()
	}
}

// isSpared notes a message that is about to be sent, and tells whether it is to be left out.
func (a *answers) isSpared(message *raftpb.Message) bool {
	if message.GetType() != raftpb.MsgAppResp || message.GetReject() || message.GetTerm() != a.term {
		return false
	}
	index := message.GetIndex()
	isNew := index > a.given
	a.given = max(a.given, index)
	return !isNew && index == a.spared
}
