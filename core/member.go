package core

import (
	"crypto/sha1"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
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
// (a hash of peer URLs and token, a hash of member ids), so scripts that know them keep working.
func newMember(peerURLs []string, token string) member {
	sorted := slices.Sorted(slices.Values(peerURLs))
	sum := sha1.Sum([]byte(strings.Join(sorted, "") + token))
	id := binary.BigEndian.Uint64(sum[:8])
	sum = sha1.Sum(binary.BigEndian.AppendUint64(nil, id))
	return member{Format: memberFormat, ID: id, ClusterID: binary.BigEndian.Uint64(sum[:8]), Token: token}
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

// attributes is how the store keeps a member, in etcd's form, so that etcd's tools read it from a snapshot.
type attributes struct {
	ID         uint64   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// idString is an id as etcd writes it.
func idString(id uint64) string { return strconv.FormatUint(id, 16) }
