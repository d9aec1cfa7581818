package core

import (
	"errors"
	"math/rand/v2"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"weir/core/mvcc"
	"weir/core/wal"
)

// forceNewCluster makes this member the only one of its cluster, whatever others there are (--force-new-cluster): for when a majority
// is lost for good. What this member has of the log counts as committed, and behind it come the removals of all others, as if it
// had been elected and they had agreed. It returns the entries with those. The others must not run any more: they would go on as if
// nothing had happened.
//
// etcd throws away what it does not know to be committed. But what is in the log of this member may have been acknowledged by a
// leader that is lost.
func (n *Node) forceNewCluster(recovered *wal.Recovered, applied mvcc.Applied, entries []*raftpb.Entry) ([]*raftpb.Entry, error) {
	last := applied.Index
	if len(entries) > 0 {
		last = entries[len(entries)-1].GetIndex()
	}
	// Who is a member at the end of the log.
	members, err := loadMembers(n.store)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.GetIndex() <= applied.Index || e.GetType() != raftpb.EntryConfChange {
			continue
		}
		c, _, err := decodeConfChange(e.GetData())
		if err != nil {
			return nil, err
		}
		if members.check(c) == nil {
			members.change(c)
		}
	}
	changes, err := n.changesToBeAlone(members)
	if err != nil || len(changes) == 0 {
		return entries, err
	}
	term := recovered.HardState.GetTerm() + 1
	var added []*raftpb.Entry
	for _, c := range changes {
		data, err := c.encode(rand.Uint64())
		if err != nil {
			return nil, err
		}
		last++
		added = append(added, &raftpb.Entry{Type: raftpb.EntryConfChange.Enum(), Term: proto.Uint64(term), Index: proto.Uint64(last), Data: data})
	}
	hs := &raftpb.HardState{Term: proto.Uint64(term), Vote: proto.Uint64(n.member.ID), Commit: proto.Uint64(last)}
	written := make(chan error, 1)
	n.log.Append(hs, added, func(err error) { written <- err })
	if err := <-written; err != nil {
		return nil, err
	}
	n.logger.Warn("forced a new cluster: this member alone", "member-id", idString(n.member.ID), "changes", len(changes), "last-index", last)
	recovered.HardState = hs
	return append(entries, added...), nil
}

// changesToBeAlone are those that leave this member as the only one.
func (n *Node) changesToBeAlone(members *members) (changes []confChange, err error) {
	self, ok := members.get(n.member.ID)
	switch {
	case members.wasRemoved(n.member.ID):
		return nil, ErrRemoved
	case !ok:
		return nil, errors.New("--force-new-cluster: this member has not been sent yet what its cluster has: use another one's data")
	case self.IsLearner:
		changes = append(changes, confChange{Type: raftpb.ConfChangeAddNode, Member: memberRecord{ID: self.ID}, Promote: true})
	}
	for _, r := range members.records() {
		if r.ID != self.ID {
			changes = append(changes, confChange{Type: raftpb.ConfChangeRemoveNode, Member: memberRecord{ID: r.ID}})
		}
	}
	return changes, nil
}
