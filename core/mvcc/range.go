package mvcc

import (
	"bytes"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"weir/grpcapi/wire"
)

// RangeOptions of a read.
type RangeOptions struct {
	Revision  int64 // 0 or less: the newest
	Limit     int64 // most keys returned; 0 or less: all
	CountOnly bool  // no KVs
	// KeysOnly returns KeyValues with key, create and mod revision and version alone, from memory. As in etcd 3.7
	// the lease is not there either.
	KeysOnly bool
	// MaxBytes ends the read when the KeyValues would be longer together, but not before the first; 0 is no bound.
	MaxBytes int
	// NoTotal lets the read end at Limit, without counting what is beyond.
	NoTotal bool
}

// RangeResult of a read.
type RangeResult struct {
	KVs      [][]byte // encoded mvccpb.KeyValues in key order, immutable
	Count    int64    // keys in the range, whatever Limit is
	Revision int64    // newest revision of the store then
	// Truncated says that MaxBytes left out keys within Limit.
	Truncated bool
}

// Range reads [key, end): key alone when end is empty, everything from key on when it is "\x00". It fails with
// ErrCompacted or ErrFutureRev, or when the file cannot be read.
func (s *Store) Range(key, end []byte, o RangeOptions) (RangeResult, error) {
	s.metrics.ranges.Inc()
	st, err := s.acquire()
	if err != nil {
		return RangeResult{}, err
	}
	defer st.tx.release()
	return st.rangeKeys(key, end, o)
}

// Prev returns the encoded KeyValue that key had just before revision rev, or nil when there was none or it is
// compacted.
func (s *Store) Prev(key []byte, rev int64) []byte {
	if rev <= 1 {
		return nil
	}
	res, err := s.Range(key, nil, RangeOptions{Revision: rev - 1})
	if err != nil || len(res.KVs) == 0 {
		return nil
	}
	return res.KVs[0]
}

// at returns the revision to read at.
func (st *state) at(o RangeOptions) (int64, error) {
	switch {
	case o.Revision > st.rev:
		return 0, ErrFutureRev
	case o.Revision <= 0:
		return st.rev, nil
	case o.Revision < st.compact:
		return 0, ErrCompacted
	}
	return o.Revision, nil
}

func (st *state) rangeKeys(key, end []byte, o RangeOptions) (RangeResult, error) {
	if len(end) == 0 {
		return st.rangeOne(key, o)
	}
	return st.rangeMany(key, end, o)
}

func (st *state) rangeOne(key []byte, o RangeOptions) (RangeResult, error) {
	at, err := st.at(o)
	if err != nil {
		return RangeResult{}, err
	}
	res := RangeResult{Revision: st.rev}
	k := lookup(st.tree, key)
	if k == nil {
		return res, nil
	}
	i := k.find(at)
	if i < 0 || k.rev(i).deleted() {
		return res, nil
	}
	res.Count = 1
	switch {
	case o.CountOnly:
	case o.KeysOnly:
		res.KVs = [][]byte{keyOnly(key, k, i)}
	default:
		values := st.reader()
		kv, inFile, err := values.get(k.rev(i))
		if err != nil {
			return RangeResult{}, err
		}
		if inFile {
			kv = bytes.Clone(kv)
		}
		res.KVs = [][]byte{kv}
	}
	return res, nil
}

func (st *state) rangeMany(key, end []byte, o RangeOptions) (RangeResult, error) {
	at, err := st.at(o)
	if err != nil {
		return RangeResult{}, err
	}
	res := RangeResult{Revision: st.rev}
	var revs []revision // whose values are to be read
	size := 0
	ascend(st.tree, key, end, func(key string, k *keyIndex) bool {
		i := k.find(at)
		if i < 0 || k.rev(i).deleted() {
			return true
		}
		full := o.Limit > 0 && res.Count >= o.Limit
		switch {
		case o.CountOnly:
		case (full || res.Truncated) && o.NoTotal:
			return false
		case full || res.Truncated:
		case o.KeysOnly:
			kv := keyOnly([]byte(key), k, i)
			if size += len(kv); o.MaxBytes > 0 && size > o.MaxBytes && len(res.KVs) > 0 {
				res.Truncated = true
				break
			}
			res.KVs = append(res.KVs, kv)
		default:
			revs = append(revs, k.rev(i))
		}
		res.Count++
		return true
	})
	if len(revs) > 0 {
		if res.KVs, err = st.values(revs, o.MaxBytes); err != nil {
			return RangeResult{}, err
		}
		res.Truncated = len(res.KVs) < len(revs)
	}
	return res, nil
}

func keyOnly(key []byte, k *keyIndex, i int) []byte {
	o := k.origin(i)
	kv := wire.KeyValue{Key: key, CreateRevision: o.created, ModRevision: k.rev(i).main, Version: o.version}
	return kv.Append(make([]byte, 0, kv.Size()))
}

// values returns the values of revs, in memory that may be given out: all, or the first that have maxBytes together,
// if that is not 0, and at least one.
func (st *state) values(revs []revision, maxBytes int) ([][]byte, error) {
	kvs := make([][]byte, len(revs))
	inFile := make([]bool, len(revs))
	values, size, total := st.reader(), 0, 0
	for i, r := range revs {
		kv, mapped, err := values.get(r)
		if err != nil {
			return nil, err
		}
		if total += len(kv); maxBytes > 0 && total > maxBytes && i > 0 {
			kvs = kvs[:i:i]
			break
		}
		if kvs[i], inFile[i] = kv, mapped; mapped {
			size += len(kv)
		}
	}
	copies := make([]byte, 0, size) // one allocation for all
	for i, kv := range kvs {
		if inFile[i] {
			start := len(copies)
			copies = append(copies, kv...)
			kvs[i] = copies[start:len(copies):len(copies)]
		}
	}
	return kvs, nil
}

// valueReader looks values up by revision. One goroutine may use it, while the state's transaction is open.
type valueReader struct {
	st     *state
	cursor *bolt.Cursor
	key    [maxRevKeyLen]byte
}

func (st *state) reader() valueReader { return valueReader{st: st} }

// get returns the encoded KeyValue of r, and whether it is memory of the file, valid only while the transaction is
// open. That r is not there means that the file or the index is corrupt.
func (v *valueReader) get(r revision) (kv []byte, inFile bool, err error) {
	if kv, ok := valueIn(v.st.pending, r); ok {
		return kv, false, nil
	}
	if kv, ok := valueIn(v.st.flushing, r); ok {
		return kv, false, nil
	}
	if v.cursor == nil {
		v.cursor = v.st.tx.keys.Cursor()
	}
	key := r.appendKey(v.key[:0])
	k, kv := v.cursor.Seek(key)
	if !bytes.Equal(k, key) {
		return nil, false, fmt.Errorf("revision %d.%d is missing from the file", r.main, r.sub)
	}
	return kv, true, nil
}
