package core

import (
	"cmp"
	"crypto/sha1"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// member says who this member is and which cluster it is of. It is written once, into the log's metadata, when
// the member is made, and never changes: not with its name, its URLs or the machine it runs on.
type member struct {
	Format    int    `json:"format"` // of this record
	ID        uint64 `json:"id"`
	ClusterID uint64 `json:"clusterID"`
	Token     string `json:"token"`
	// Founders are the first members of the cluster, for the first state of a founding member's store, which may have to be
	// made by a later start.
	Founders []memberRecord `json:"founders,omitempty"`
	// Joined are the members of the cluster that this one has joined, itself included, as they were then. Until it has a store, which
	// may be at a later start, it knows nothing else of them.
	Joined []memberRecord `json:"joined,omitempty"`
	// Restored says that the store was made by Restore.
	Restored bool `json:"restored,omitempty"`
}

const memberFormat = 1

// newMember makes the identity of one of the first members of a new cluster, which is the one with these peer URLs. The ids
// are computed as etcd computes them (see memberID; the cluster's is a hash of those of its first members), so scripts that know
// them keep working.
func newMember(first []InitialMember, peerURLs []string, token string) member {
	founders := firstMembers(first, token)
	var ids []byte
	for _, r := range founders {
		ids = binary.BigEndian.AppendUint64(ids, r.ID)
	}
	sum := sha1.Sum(ids)
	return member{
		Format: memberFormat, ID: memberID(peerURLs, token), ClusterID: binary.BigEndian.Uint64(sum[:8]), Token: token, Founders: founders,
	}
}

// firstMembers are the members that a new cluster has, in the order of their ids.
func firstMembers(first []InitialMember, token string) []memberRecord {
	records := make([]memberRecord, 0, len(first))
	for _, m := range first {
		records = append(records, memberRecord{ID: memberID(m.PeerURLs, token), PeerURLs: slices.Sorted(slices.Values(m.PeerURLs)), Name: m.Name})
	}
	slices.SortFunc(records, func(a, b memberRecord) int { return cmp.Compare(a.ID, b.ID) })
	return records
}

// memberID is etcd's id of a member: a hash of its peer URLs and a salt, which is the cluster's token for a first
// member, and for one that is added later the time in seconds.
func memberID(peerURLs []string, salt string) uint64 {
	sorted := slices.Sorted(slices.Values(peerURLs))
	sum := sha1.Sum([]byte(strings.Join(sorted, "") + salt))
	return binary.BigEndian.Uint64(sum[:8])
}

func (m member) encode() ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode the member's identity: %w", err)
	}
	return b, nil
}

func decodeMember(b []byte) (member, error) {
	var m member
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("decode the member's identity: %w", err)
	}
	if m.Format != memberFormat {
		return m, fmt.Errorf("the member's identity has format %d, this weir knows %d", m.Format, memberFormat)
	}
	return m, nil
}
