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
	kvs      [][]byte
	more     bool
	count    int64
	revision int64 // for the header: the newest at the time of reading
}

// readRange answers r with every option applied. noTotal spares counting what a limit leaves out. The errors are
// mvcc's.
func readRange(from reader, r *wire.RangeRequest, noTotal bool) (rangeAnswer, error) {
	res, err := from.Range(r.Key, r.RangeEnd, mvcc.RangeOptions{
		Revision:  r.Revision,
		Limit:     r.FetchLimit(),
		CountOnly: r.CountOnly,
		KeysOnly:  r.KeysOnly && r.SortTarget != sortByValue,
		NoTotal:   noTotal,
	})
	if err != nil {
		return rangeAnswer{}, err
	}
	kvs, more, err := r.Select(res.KVs)
	if err != nil {
		return rangeAnswer{}, fmt.Errorf("range at revision %d: %w", res.Revision, err)
	}
	return rangeAnswer{kvs: kvs, more: more, count: res.Count, revision: res.Revision}, nil
}

// sortByValue is etcdserverpb.RangeRequest_VALUE: the only sort that needs the values themselves.
const sortByValue = 4
