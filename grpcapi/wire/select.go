package wire

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// FetchLimit is how many KeyValues of the range, the first in key order, Select needs; 0 means all of them.
//
// As in etcd, a sort target without an order is sorted ascending, but only after the limit has cut in key order.
func (r *RangeRequest) FetchLimit() int64 {
	inKeyOrder := r.SortOrder == sortNone || r.SortOrder == sortAscend && r.SortTarget == sortByKey
	if r.Limit <= 0 || r.Limit == math.MaxInt64 || !inKeyOrder || r.filters() {
		return 0
	}
	return r.Limit + 1 // one more than is returned tells that there is more
}

// Select applies to the encoded KeyValues of a range what r asks for beyond the range: the revision filters, the
// order, limit and keys_only, with the result of etcd 3.7. kvs are in ascending key order: all of the range, or at
// least its first FetchLimit. They are not changed; selected may share them. The error is that a KeyValue is
// malformed, or that r's sort order or target is none of etcd's.
//
// KeyValues that are equal in what they are sorted by come as etcd happens to give them, which clients can see:
// in the order of Go's sort.Sort, which is not stable, but the same for the same sequence.
//
// With keys_only, etcd 3.7 leaves out the lease as well as the value, unless it sorts by value; 3.6 did not, which
// KeepLease asks for.
func (r *RangeRequest) Select(kvs [][]byte) (selected [][]byte, more bool, err error) {
	if uint32(r.SortOrder) > uint32(sortDescend) || uint32(r.SortTarget) > uint32(sortByValue) {
		return nil, false, fmt.Errorf("select from range: unknown sort order %d or target %d", r.SortOrder, r.SortTarget)
	}
	if n := r.FetchLimit(); n > 0 && int64(len(kvs)) > n {
		kvs = kvs[:n]
	}
	if r.filters() || r.SortTarget != sortByKey {
		if kvs, err = r.filterAndSort(kvs); err != nil {
			return nil, false, err
		}
	}
	if r.SortTarget == sortByKey && r.SortOrder == sortDescend {
		kvs = slices.Clone(kvs)
		slices.Reverse(kvs)
	}
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, more = kvs[:r.Limit], true
	}
	if r.KeysOnly {
		if kvs, err = keysOnly(kvs, r.KeepLease || r.SortTarget == sortByValue); err != nil {
			return nil, false, err
		}
	}
	return kvs, more, nil
}

// The values of RangeRequest.SortOrder and SortTarget.
const (
	sortNone    = int32(pb.RangeRequest_NONE)
	sortAscend  = int32(pb.RangeRequest_ASCEND)
	sortDescend = int32(pb.RangeRequest_DESCEND)

	sortByKey     = int32(pb.RangeRequest_KEY)
	sortByVersion = int32(pb.RangeRequest_VERSION)
	sortByCreate  = int32(pb.RangeRequest_CREATE)
	sortByMod     = int32(pb.RangeRequest_MOD)
	sortByValue   = int32(pb.RangeRequest_VALUE)
)

// filters says whether r has a revision filter.
func (r *RangeRequest) filters() bool {
	return r.MinModRevision|r.MaxModRevision|r.MinCreateRevision|r.MaxCreateRevision != 0
}

// excludes says whether a revision filter of r is against kv.
func (r *RangeRequest) excludes(kv *KeyValue) bool {
	return r.MaxModRevision != 0 && kv.ModRevision > r.MaxModRevision ||
		r.MinModRevision != 0 && kv.ModRevision < r.MinModRevision ||
		r.MaxCreateRevision != 0 && kv.CreateRevision > r.MaxCreateRevision ||
		r.MinCreateRevision != 0 && kv.CreateRevision < r.MinCreateRevision
}

// sortable is an encoded KeyValue and what it is sorted by: a number or bytes, the other being zero.
type sortable struct {
	encoded []byte
	number  int64
	bytes   []byte
}

func (a sortable) compare(b sortable) int {
	if c := cmp.Compare(a.number, b.number); c != 0 {
		return c
	}
	return bytes.Compare(a.bytes, b.bytes)
}

// filterAndSort returns those of kvs that pass the filters, sorted unless the target is the key.
func (r *RangeRequest) filterAndSort(kvs [][]byte) ([][]byte, error) {
	list := make([]sortable, 0, len(kvs))
	for _, b := range kvs {
		var kv KeyValue
		if err := kv.Unmarshal(b); err != nil {
			return nil, fmt.Errorf("select from range: %w", err)
		}
		if r.excludes(&kv) {
			continue
		}
		s := sortable{encoded: b}
		switch r.SortTarget {
		case sortByVersion:
			s.number = kv.Version
		case sortByCreate:
			s.number = kv.CreateRevision
		case sortByMod:
			s.number = kv.ModRevision
		case sortByValue:
			s.bytes = kv.Value
		}
		list = append(list, s)
	}
	if r.SortTarget != sortByKey {
		if r.SortOrder == sortDescend {
			slices.SortFunc(list, func(a, b sortable) int { return b.compare(a) })
		} else {
			slices.SortFunc(list, sortable.compare)
		}
	}
	out := make([][]byte, len(list))
	for i := range list {
		out[i] = list[i].encoded
	}
	return out, nil
}

// keysOnly returns kvs encoded again without value, and without lease unless withLease.
func keysOnly(kvs [][]byte, withLease bool) ([][]byte, error) {
	out := make([][]byte, len(kvs))
	var buf []byte // one allocation for many
	for i, b := range kvs {
		var kv KeyValue
		if err := kv.Unmarshal(b); err != nil {
			return nil, fmt.Errorf("select from range: %w", err)
		}
		if len(kv.Value) == 0 && (kv.Lease == 0 || withLease) {
			out[i] = b
			continue
		}
		kv.Value = nil
		if !withLease {
			kv.Lease = 0
		}
		if n := kv.Size(); cap(buf)-len(buf) < n {
			buf = make([]byte, 0, n*min(len(kvs)-i, 64))
		}
		start := len(buf)
		buf = kv.Append(buf)
		out[i] = buf[start:len(buf):len(buf)]
	}
	return out, nil
}
