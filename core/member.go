package core

import (
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
}

const memberFormat = 1

// newMember makes the identity of the first member of a new cluster. The ids are computed as etcd computes them
// (see memberID; the cluster's is a hash of those of its first members), so scripts that know them keep working.
func newMember(peerURLs []string, token string) member {
	id := memberID(peerURLs, token)
	sum := sha1.Sum(binary.BigEndian.AppendUint64(nil, id))
	return member{Format: memberFormat, ID: id, ClusterID: binary.BigEndian.Uint64(sum[:8]), Token: token}
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
