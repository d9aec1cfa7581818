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
func loadMembers(store stored) (*members, error) {
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

// replace makes the members those of by, which nobody else knows.
func (m *members) replace(by *members) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byID, m.removed = by.byID, by.removed
}

// get returns a member.
func (m *members) get(id uint64) (memberRecord, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.byID[id]
	return r, ok
}

// peerURLs returns those of all members.
func (m *members) peerURLs() map[uint64][]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return peerURLsOf(slices.Collect(maps.Values(m.byID)))
}

func peerURLsOf(records []memberRecord) map[uint64][]string {
	urls := map[uint64][]string{}
	for _, r := range records {
		urls[r.ID] = r.PeerURLs
	}
	return urls
}

// wasRemoved tells whether a member was removed.
func (m *members) wasRemoved(id uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.removed[id]
}

// isAlone tells whether there is no other member.
func (m *members) isAlone(id uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.byID[id]
	return ok && len(m.byID) == 1
}

// isAlone tells whether this is the only member, as far as it has applied the log.
func (n *Node) isAlone() bool { return n.members.isAlone(n.member.ID) }

// records returns the members in the order of their ids.
func (m *members) records() []memberRecord {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.byID), func(a, b memberRecord) int { return cmp.Compare(a.ID, b.ID) })
}

// list is records in the form of the Cluster service.
func (m *members) list() []*pb.Member {
	var list []*pb.Member
	for _, r := range m.records() {
		list = append(list, &pb.Member{
			ID: r.ID, Name: r.Name, PeerURLs: r.PeerURLs, ClientURLs: r.ClientURLs, IsLearner: r.IsLearner,
		})
	}
	return list
}

// voters returns the members that vote.
func (m *members) voters() []memberRecord {
	return slices.DeleteFunc(m.records(), isLearner)
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
	id := c.Member.ID
	r, ok := m.change(c)
	if !ok {
		tx.Delete(mvcc.BucketMembers, memberKey(id))
		tx.Put(mvcc.BucketMembersRemoved, memberKey(id), []byte("removed"))
		return nil
	}
	return r.put(tx)
}

// change carries out a change here alone. It returns what the member is then, if it still is one.
func (m *members) change(c confChange) (r memberRecord, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := c.Member.ID
	r = m.byID[id]
	switch {
	case c.removes(id):
		delete(m.byID, id)
		m.removed[id] = true
		return r, false
	case c.adds():
		r = c.Member
	case c.Promote:
		r.IsLearner = false
	default:
		r.PeerURLs = c.Member.PeerURLs
	}
	m.byID[id] = r
	return r, true
}

// describe carries out what a member says of itself: its name, and its clients' URLs.
func (m *members) describe(tx *mvcc.Entry, id uint64, name string, clientURLs []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.byID[id]
	if !ok { // it was removed meanwhile
		return nil
	}
	r.Name, r.ClientURLs = name, clientURLs
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
