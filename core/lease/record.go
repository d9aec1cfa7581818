package lease

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// Record is a lease as it is stored: the message leasepb.Lease of etcd's server, so that each reads what the other wrote.
// It is written here because that package lives in a module that also brings the whole server.
type Record struct {
	ID  int64
	TTL int64 // seconds
	// RemainingTTL is what was left, in seconds, at the last checkpoint of the lease; 0 is none.
	RemainingTTL int64
	// Granted is the index of the log's entry that has granted it. It tells leases apart that have had the same id, and is ours:
	// etcd skips it, and a lease that etcd has stored has 0.
	Granted int64
}

// The numbers of the fields, all of them varints. The last one is far from those that leasepb.Lease might get.
const (
	fieldID           = 1
	fieldTTL          = 2
	fieldRemainingTTL = 3
	fieldGranted      = 1000
)

var errWireType = errors.New("field is not a varint")

// AppendRecord appends the encoded record to b.
func AppendRecord(b []byte, r Record) []byte {
	b = appendField(b, fieldID, r.ID)
	b = appendField(b, fieldTTL, r.TTL)
	b = appendField(b, fieldRemainingTTL, r.RemainingTTL)
	return appendField(b, fieldGranted, r.Granted)
}

// appendField leaves out a zero, as proto3 does.
func appendField(b []byte, num protowire.Number, v int64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, num, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(v))
}

// ParseRecord decodes a record. Fields it does not know are skipped. The error says which byte is wrong.
func ParseRecord(b []byte) (Record, error) {
	var r Record
	for at := 0; at < len(b); {
		num, typ, n := protowire.ConsumeTag(b[at:])
		if n < 0 {
			return Record{}, parseError(at, protowire.ParseError(n))
		}
		at += n
		var field *int64
		switch num {
		case fieldID:
			field = &r.ID
		case fieldTTL:
			field = &r.TTL
		case fieldRemainingTTL:
			field = &r.RemainingTTL
		case fieldGranted:
			field = &r.Granted
		}
		if field == nil {
			n = protowire.ConsumeFieldValue(num, typ, b[at:])
		} else if typ != protowire.VarintType {
			return Record{}, parseError(at, errWireType)
		} else {
			var v uint64
			v, n = protowire.ConsumeVarint(b[at:])
			*field = int64(v)
		}
		if n < 0 {
			return Record{}, parseError(at, protowire.ParseError(n))
		}
		at += n
	}
	return r, nil
}

func parseError(at int, err error) error {
	return fmt.Errorf("parse lease record at byte %d: %w", at, err)
}
