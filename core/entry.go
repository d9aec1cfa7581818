package core

import (
	"encoding/binary"
	"fmt"
)

// An entry is the data of one raft entry: a batch of requests.
//
//	offset 0   1 byte    format version
//	offset 1   8 bytes   batch id, little endian
//	then for each request
//	           uvarint   length of the rest of the request
//	           1 byte    kind
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
)

func (k kind) String() string {
	switch k {
	case kindPut:
		return "put"
	case kindDeleteRange:
		return "delete-range"
	case kindTxn:
		return "txn"
	case kindCompact:
		return "compact"
	case kindLeaseGrant:
		return "lease-grant"
	case kindLeaseRevoke:
		return "lease-revoke"
	case kindAlarm:
		return "alarm"
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// appendEntryHeader starts an entry.
func appendEntryHeader(dst []byte, batchID uint64) []byte {
	dst = append(dst, entryVersion)
	return binary.LittleEndian.AppendUint64(dst, batchID)
}

// appendEntryRequest adds one request to an entry.
func appendEntryRequest(dst []byte, k kind, payload []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(payload)+1))
	dst = append(dst, byte(k))
	return append(dst, payload...)
}

// entryRequestSize is an upper bound of what appendEntryRequest adds.
func entryRequestSize(payload []byte) int { return binary.MaxVarintLen32 + 1 + len(payload) }

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
func readEntryRequest(requests []byte) (k kind, payload, rest []byte, err error) {
	n, w := binary.Uvarint(requests)
	if w <= 0 || n == 0 || n > uint64(len(requests)-w) {
		return 0, nil, nil, fmt.Errorf("entry has a request of wrong length, %d bytes before its end", len(requests))
	}
	end := w + int(n)
	return kind(requests[w]), requests[w+1 : end], requests[end:], nil
}
