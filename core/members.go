package core

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"

	"weir/core/mvcc"
)

// members is the membership: who is in the cluster, and whose ids were and are never used again. The applier changes
// it, anyone reads.
//
// It says where members are; who of them votes is raft's ConfState, which changes in the same entries.
type members struct {
	mu      sync.Mutex // guards all below
	byID    map[uint64]memberRecord
	removed map[uint64]bool
}

// memberRecord is how the store keeps a member, in etcd's form, so that etcd's tools read it from a snapshot. The
// slices are never changed.
type memberRecord struct {
	ID         uint64   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	IsLearner  bool     `json:"isLearner,omitempty"`
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// idString is an id as etcd writes it.
func idString(id uint64) string { return strconv.FormatUint(id, 16) }

func memberKey(id uint64) []byte { return []byte(idString(id)) }

// loadMembers reads the members that the store holds.
func loadMembers(store *mvcc.Store) (*members, error) {
	m := &members{byID: map[uint64]memberRecord{}, removed: map[uint64]bool{}}
	err := store.ForEach(mvcc.BucketMembers, func(_, v []byte) error {
		var r memberRecord
		if err := json.Unmarshal(v, &r); err != nil {
			return err
		}
		m.byID[r.ID] = r
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the members: %w", err)
	}
	err = store.ForEach(mvcc.BucketMembersRemoved, func(k, _ []byte) error {
		id, err := strconv.ParseUint(string(k), 16, 64)
		m.removed[id] = true
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the ids of removed members: %w", err)
	}
	return m, nil
}

// get returns a member.
func (m *members) get(id uint64) (memberRecord, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.byID[id]
	return r, ok
}

// list returns the members in the order of their ids.
func (m *members) list() []*pb.Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*pb.Member
	for r := range maps.Values(m.byID) {
		list = append(list, &pb.Member{
			ID: r.ID, Name: r.Name, PeerURLs: r.PeerURLs, ClientURLs: r.ClientURLs, IsLearner: r.IsLearner,
		})
	}
	slices.SortFunc(list, func(a, b *pb.Member) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// known tells whether the id is, or was, a member's.
func (m *members) known(id uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.byID[id]
	return ok || m.removed[id]
}

// check refuses a change that does not fit the membership, with etcd's errors, in etcd's order.
func (m *members) check(c confChange) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := c.Member.ID
	old, ok := m.byID[id]
	if c.adds() {
		switch {
		case m.removed[id]:
			return rpctypes.ErrGRPCMemberNotFound
		case ok:
			return rpctypes.ErrGRPCMemberExist
		case m.usesURL(c.Member.PeerURLs, id):
			return rpctypes.ErrGRPCPeerURLExist
		case c.Member.IsLearner && m.count(isLearner) >= c.MaxLearners:
			return rpctypes.ErrGRPCTooManyLearners
		}
		return nil
	}
	if !ok {
		return rpctypes.ErrGRPCMemberNotFound
	}
	switch {
	case c.Promote && !old.IsLearner:
		return rpctypes.ErrGRPCMemberNotLearner
	case c.Type == raftpb.ConfChangeRemoveNode && !old.IsLearner && m.count(isVoter) == 1:
		return errNotEnoughStarted // a cluster without a voter cannot do anything, not even get one
	case c.Type == raftpb.ConfChangeUpdateNode && len(c.Member.PeerURLs) == 0:
		return rpctypes.ErrGRPCMemberBadURLs
	case c.Type == raftpb.ConfChangeUpdateNode && m.usesURL(c.Member.PeerURLs, id):
		return rpctypes.ErrGRPCPeerURLExist
	}
	return nil
}

func isLearner(r memberRecord) bool { return r.IsLearner }

func isVoter(r memberRecord) bool { return !r.IsLearner }

// count is how many members are as asked. Called with mu held.
func (m *members) count(is func(memberRecord) bool) (n int) {
	for _, r := range m.byID {
		if is(r) {
			n++
		}
	}
	return n
}

// usesURL tells whether a member other than id has one of the peer URLs. Called with mu held.
func (m *members) usesURL(urls []string, id uint64) bool {
	for _, r := range m.byID {
		if r.ID != id && slices.ContainsFunc(urls, func(u string) bool { return slices.Contains(r.PeerURLs, u) }) {
			return true
		}
	}
	return false
}

// apply carries out a change that check has let pass, here and in the store.
func (m *members) apply(tx *mvcc.Entry, c confChange) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := c.Member.ID
	if c.Type == raftpb.ConfChangeRemoveNode {
		delete(m.byID, id)
		m.removed[id] = true
		tx.Delete(mvcc.BucketMembers, memberKey(id))
		tx.Put(mvcc.BucketMembersRemoved, memberKey(id), []byte("removed"))
		return nil
	}
	r := m.byID[id]
	switch {
	case c.adds():
		r = c.Member
	case c.Promote:
		r.IsLearner = false
	default:
		r.PeerURLs = c.Member.PeerURLs
	}
	m.byID[id] = r
	return r.put(tx)
}

// put writes the record into the store.
func (r memberRecord) put(tx *mvcc.Entry) error {
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode member %s: %w", idString(r.ID), err)
	}
	tx.Put(mvcc.BucketMembers, memberKey(r.ID), value)
	return nil
}
