package cache

import "weir/grpcapi/wire"

// View is the state of a range at one revision, past or present. It is immutable; anybody may use it, for as long as he
// likes, while the memory that it needs stays there for it.
type View struct {
	revision, changed int64
	tree              tree
}

// Revision returns the revision whose state this is: the one that was asked for, or the newest of the Snapshot then.
func (v View) Revision() int64 { return v.revision }

// Changed returns the revision of the newest change in the View, or that at which the Snapshot was loaded if there has been
// none since. Two Views of one Snapshot with the same Changed are the same state.
func (v View) Changed() int64 { return v.changed }

// Range returns the encoded KeyValues of [key, end) in the order of keys, at most limit of them if it is above 0, and how
// many there are without a limit. As in etcd, no end is key alone, and an end of one zero byte is no end. The
// KeyValues are shared and must not be changed. Counting takes as long as finding a key does.
func (v View) Range(key, end []byte, limit int64) (kvs [][]byte, count int64) {
	if len(end) == 0 {
		kv, ok := v.tree.get(borrow(key))
		if !ok {
			return nil, 0
		}
		return [][]byte{kv.bytes()}, 1
	}
	if count = v.count(key, end); count == 0 {
		return nil, 0
	}
	n := count
	if limit > 0 {
		n = min(n, limit)
	}
	kvs = make([][]byte, n)
	v.tree.root.fill(kvs, borrow(key))
	return kvs, count
}

// count returns how many keys are in [key, end).
func (v View) count(key, end []byte) int64 {
	switch {
	case len(end) == 0:
		if _, ok := v.tree.get(borrow(key)); ok {
			return 1
		}
		return 0
	case len(end) == 1 && end[0] == 0:
		return int64(v.tree.keys - v.tree.rank(borrow(key)))
	}
	return int64(max(0, v.tree.rank(borrow(end))-v.tree.rank(borrow(key))))
}

// Answer is a RangeResponse without its header, before it is encoded.
type Answer struct {
	KVs   [][]byte // encoded, shared
	More  bool     // the limit left some out
	Count int64    // keys in the range, whatever limit and filters are
}

// Answer returns what etcd answers to r in this state: limit, order, keys_only, count_only and the filters by revision are
// applied. What r says about its revision and about being serializable is the caller's to heed. The error is
// that of RangeRequest.Select.
func (v View) Answer(r *wire.RangeRequest) (Answer, error) {
	var a Answer
	if r.CountOnly {
		a.Count = v.count(r.Key, r.RangeEnd)
	} else {
		a.KVs, a.Count = v.Range(r.Key, r.RangeEnd, r.FetchLimit())
	}
	var err error
	if a.KVs, a.More, err = r.Select(a.KVs); err != nil {
		return Answer{}, err
	}
	return a, nil
}
