package core

import (
	"fmt"

	"weir/core/mvcc"
	"weir/grpcapi/wire"
)

// reader is what a range is read from: the store (its newest state), a view (one state for many reads) or a
// write transaction (with its own writes).
type reader interface {
	Range(key, end []byte, o mvcc.RangeOptions) (mvcc.RangeResult, error)
}

// rangeAnswer is a RangeResponse before it is encoded.
type rangeAnswer struct {
	kvs  [][]byte
	more bool
	// truncated says that more is because of a bound in bytes
	truncated bool
	count     int64
	revision  int64 // for the header: the newest at the time of reading
}

// readRange answers r with every option applied. The errors are mvcc's.
func readRange(from reader, r *wire.RangeRequest) (rangeAnswer, error) {
	return readPart(from, r, mvcc.RangeOptions{})
}

// readPart is readRange with the bounds of o: NoTotal, which spares counting what a limit leaves out, and MaxBytes.
func readPart(from reader, r *wire.RangeRequest, o mvcc.RangeOptions) (rangeAnswer, error) {
	o.Revision, o.Limit, o.CountOnly = r.Revision, r.FetchLimit(), r.CountOnly
	o.KeysOnly = r.KeysOnly && r.SortTarget != sortByValue
	res, err := from.Range(r.Key, r.RangeEnd, o)
	if err != nil {
		return rangeAnswer{}, err
	}
	kvs, more, err := r.Select(res.KVs)
	if err != nil {
		return rangeAnswer{}, fmt.Errorf("range at revision %d: %w", res.Revision, err)
	}
	return rangeAnswer{kvs: kvs, more: more || res.Truncated, truncated: res.Truncated, count: res.Count, revision: res.Revision}, nil
}

// sortByValue is etcdserverpb.RangeRequest_VALUE: the only sort that needs the values themselves.
const sortByValue = 4
