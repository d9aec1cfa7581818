package wire

import (
	"bytes"
	"cmp"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Holds tells whether the compare c of a transaction is true of every key of its range. kvs are the encoded KeyValues
// of the whole range; they need no value unless that is the target, nor a lease. Of a key that does not exist c is true
// when it is true of zeros, except for values: there is no way to say "no value". The error is that a KeyValue is
// malformed.
func Holds(c *pb.Compare, kvs [][]byte) (bool, error) {
	if len(kvs) == 0 {
		return c.Target != pb.Compare_VALUE && compareHolds(c, &KeyValue{}), nil
	}
	for _, encoded := range kvs {
		var kv KeyValue
		if err := kv.Unmarshal(encoded); err != nil {
			return false, fmt.Errorf("compare: %w", err)
		}
		if !compareHolds(c, &kv) {
			return false, nil
		}
	}
	return true, nil
}

// compareHolds evaluates c on one key. A target without its value compares with zero, an unknown target is equal
// to anything, an unknown result is true: as at etcd, whose servers must all agree.
func compareHolds(c *pb.Compare, kv *KeyValue) bool {
	var order int
	switch c.Target {
	case pb.Compare_VALUE:
		order = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_CREATE:
		order = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		order = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VERSION:
		order = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_LEASE:
		order = cmp.Compare(kv.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_NOT_EQUAL:
		return order != 0
	case pb.Compare_GREATER:
		return order > 0
	case pb.Compare_LESS:
		return order < 0
	}
	return true
}
