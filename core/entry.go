package core

import (
	"encoding/binary"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"google.golang.org/protobuf/proto"

	"weir/core/auth"
)

// An entry is the data of one raft entry: a batch of requests.
//
//	offset 0   1 byte    format version
//	offset 1   8 bytes   batch id, little endian
//	then for each request
//	           uvarint   length of the rest of the request
//	           1 byte    kind, plus asUser if somebody is named who asks; then only
//	           uvarint   the auth revision as of which they may ask
//	           uvarint   length of the user's name
//	           n bytes   the user's name; and always
//	           n bytes   the encoded etcd request
//
// An empty entry (raft's own, when a leader starts its term) holds no batch.
const (
	entryVersion    = 1
	entryHeaderSize = 1 + 8
)

// kind says which etcd message a request carries. The numbers are part of the log's format: never reuse one.
type kind byte

const (
	kindPut         kind = 1 // etcdserverpb.PutRequest
	kindDeleteRange kind = 2 // etcdserverpb.DeleteRangeRequest
	kindTxn         kind = 3 // etcdserverpb.TxnRequest
	kindCompact     kind = 4 // etcdserverpb.CompactionRequest
	kindLeaseGrant  kind = 5 // etcdserverpb.LeaseGrantRequest, its ID chosen
	kindLeaseRevoke kind = 6 // etcdserverpb.LeaseRevokeRequest
	kindAlarm       kind = 7 // etcdserverpb.AlarmRequest
	kindLeaseExpire kind = 8 // etcdserverpb.LeaseRevokeRequest, of the leader itself

	kindLeaseCheckpoint kind = 9 // leaseCheckpoints, of the leader itself

	kindAuthEnable           kind = 16 // etcdserverpb.AuthEnableRequest; the others likewise
	kindAuthDisable          kind = 17
	kindAuthenticate         kind = 18 // etcdserverpb.InternalAuthenticateRequest: the password has been checked
	kindUserAdd              kind = 19 // its password hashed
	kindUserDelete           kind = 20
	kindUserChangePassword   kind = 21 // its password hashed
	kindUserGrantRole        kind = 22
	kindUserRevokeRole       kind = 23
	kindRoleAdd              kind = 24
	kindRoleDelete           kind = 25
	kindRoleGrantPermission  kind = 26
	kindRoleRevokePermission kind = 27

	kindClusterVersion kind = 32 // membershippb.ClusterVersionSetRequest
	kindDowngrade      kind = 33 // membershippb.DowngradeInfoSetRequest
	kindMemberAttr     kind = 34 // membershippb.ClusterMemberAttrSetRequest
	kindLevel          kind = 35 // levelRaise, of the leader itself

	// asUser in the byte of the kind says that a user follows. It is set while authentication is on.
	asUser kind = 0x80
)

// kindInfo says of a kind what its name is, what message it carries, and which level has brought it: no member proposes it before
// all have agreed on that level.
type kindInfo struct {
	name  string
	make  func() proto.Message // nil for those that are decoded by hand
	level int
}

// kinds are all that this weir knows.
var kinds = map[kind]kindInfo{
	kindPut:         {"put", nil, 1},
	kindDeleteRange: {"delete-range", nil, 1},
	kindTxn:         {"txn", func() proto.Message { return new(pb.TxnRequest) }, 1},
	kindCompact:     {"compact", func() proto.Message { return new(pb.CompactionRequest) }, 1},
	kindLeaseGrant:  {"lease-grant", func() proto.Message { return new(pb.LeaseGrantRequest) }, 1},
	kindLeaseRevoke: {"lease-revoke", func() proto.Message { return new(pb.LeaseRevokeRequest) }, 1},
	kindAlarm:       {"alarm", func() proto.Message { return new(pb.AlarmRequest) }, 1},
	kindLeaseExpire: {"lease-expire", func() proto.Message { return new(pb.LeaseRevokeRequest) }, 1},

	kindLeaseCheckpoint: {"lease-checkpoint", nil, 1},

	kindClusterVersion: {"cluster-version", func() proto.Message { return new(membershippb.ClusterVersionSetRequest) }, 1},
	kindDowngrade:      {"downgrade", func() proto.Message { return new(membershippb.DowngradeInfoSetRequest) }, 1},
	kindMemberAttr:     {"member-attributes", func() proto.Message { return new(membershippb.ClusterMemberAttrSetRequest) }, 1},
	kindLevel:          {"level", nil, 1},

	kindAuthEnable:           {"auth-enable", func() proto.Message { return new(pb.AuthEnableRequest) }, 1},
	kindAuthDisable:          {"auth-disable", func() proto.Message { return new(pb.AuthDisableRequest) }, 1},
	kindAuthenticate:         {"authenticate", func() proto.Message { return new(pb.InternalAuthenticateRequest) }, 1},
	kindUserAdd:              {"user-add", func() proto.Message { return new(pb.AuthUserAddRequest) }, 1},
	kindUserDelete:           {"user-delete", func() proto.Message { return new(pb.AuthUserDeleteRequest) }, 1},
	kindUserChangePassword:   {"user-change-password", func() proto.Message { return new(pb.AuthUserChangePasswordRequest) }, 1},
	kindUserGrantRole:        {"user-grant-role", func() proto.Message { return new(pb.AuthUserGrantRoleRequest) }, 1},
	kindUserRevokeRole:       {"user-revoke-role", func() proto.Message { return new(pb.AuthUserRevokeRoleRequest) }, 1},
	kindRoleAdd:              {"role-add", func() proto.Message { return new(pb.AuthRoleAddRequest) }, 1},
	kindRoleDelete:           {"role-delete", func() proto.Message { return new(pb.AuthRoleDeleteRequest) }, 1},
	kindRoleGrantPermission:  {"role-grant-permission", func() proto.Message { return new(pb.AuthRoleGrantPermissionRequest) }, 1},
	kindRoleRevokePermission: {"role-revoke-permission", func() proto.Message { return new(pb.AuthRoleRevokePermissionRequest) }, 1},
}

func (k kind) String() string {
	if info, ok := kinds[k]; ok {
		return info.name
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// isLeaders tells whether a kind is proposed by the leader alone, for the term in which it leads.
func (k kind) isLeaders() bool {
	return k == kindLeaseExpire || k == kindLeaseCheckpoint || k == kindLevel
}

// appendEntryHeader starts an entry.
func appendEntryHeader(dst []byte, batchID uint64) []byte {
	dst = append(dst, entryVersion)
	return binary.LittleEndian.AppendUint64(dst, batchID)
}

// appendEntryRequest adds one request to an entry. The zero identity is nobody.
func appendEntryRequest(dst []byte, k kind, as auth.Identity, payload []byte) []byte {
	if as == (auth.Identity{}) {
		dst = binary.AppendUvarint(dst, uint64(1+len(payload)))
		dst = append(dst, byte(k))
		return append(dst, payload...)
	}
	user := binary.AppendUvarint(nil, as.Revision)
	user = binary.AppendUvarint(user, uint64(len(as.User)))
	user = append(user, as.User...)
	dst = binary.AppendUvarint(dst, uint64(1+len(user)+len(payload)))
	dst = append(dst, byte(k|asUser))
	dst = append(dst, user...)
	return append(dst, payload...)
}

// entryRequestSize is an upper bound of what appendEntryRequest adds.
func entryRequestSize(as auth.Identity, payload []byte) int {
	return binary.MaxVarintLen32 + 1 + 2*binary.MaxVarintLen64 + len(as.User) + len(payload)
}

// readEntryHeader returns the batch id of an entry and its requests, still encoded.
//
// An entry comes from the log, whose checksums have been verified, so an error means that another version of
// weir wrote it (or a bug), and the caller must not go on.
func readEntryHeader(data []byte) (batchID uint64, requests []byte, err error) {
	if len(data) < entryHeaderSize {
		return 0, nil, fmt.Errorf("entry of %d bytes is shorter than its header", len(data))
	}
	if data[0] != entryVersion {
		return 0, nil, fmt.Errorf("entry has format version %d, this weir knows %d: run the weir that wrote it", data[0], entryVersion)
	}
	return binary.LittleEndian.Uint64(data[1:]), data[entryHeaderSize:], nil
}

// readEntryRequest splits the first request off. The payload points into requests.
func readEntryRequest(requests []byte) (k kind, as auth.Identity, payload, rest []byte, err error) {
	n, w := binary.Uvarint(requests)
	if w <= 0 || n == 0 || n > uint64(len(requests)-w) {
		return 0, as, nil, nil, fmt.Errorf("entry has a request of wrong length, %d bytes before its end", len(requests))
	}
	end := w + int(n)
	k, payload, rest = kind(requests[w]), requests[w+1:end], requests[end:]
	if k&asUser == 0 {
		return k, as, payload, rest, nil
	}
	revision, w := binary.Uvarint(payload)
	if w > 0 {
		payload = payload[w:]
		n, w = binary.Uvarint(payload)
	}
	if w <= 0 || n > uint64(len(payload)-w) {
		return 0, as, nil, nil, fmt.Errorf("entry has a request without its user, %d bytes before its end", len(requests))
	}
	end = w + int(n)
	return k &^ asUser, auth.Identity{User: string(payload[w:end]), Revision: revision}, payload[end:], rest, nil
}
