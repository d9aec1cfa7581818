package mvcc

import (
	"fmt"

	bolt "go.etcd.io/bbolt"

	"weir/grpcapi/wire"
)

// loadIndex builds the index from all revisions in the file, and returns the newest revision (1 when there is none).
// It runs before anything else knows the tree.
func loadIndex(t *keyTree, keys *bolt.Bucket) (newest int64, err error) {
	newest = 1
	cursor := keys.Cursor()
	for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
		r, err := parseRevKey(k)
		if err != nil {
			return 0, fmt.Errorf("load index: %w", err)
		}
		var kv wire.KeyValue
		if err := kv.Unmarshal(v); err != nil {
			return 0, fmt.Errorf("load index: revision %d.%d: %w", r.main, r.sub, err)
		}
		if kv.Lease != 0 {
			r.flags |= leased
		}
		o := origin{kv.CreateRevision, kv.Version}
		// Most keys have one revision: try that first, it needs one search instead of two.
		key := string(kv.Key)
		if old, had := t.Set(key, (*keyIndex)(nil).with(r, o)); had {
			if r.deleted() {
				o = old.next(r.main)
			}
			t.Set(key, old.with(r, o))
		}
		newest = r.main
	}
	return newest, nil
}

// countKeys tells the metrics how many keys there are. It runs before anything else knows the tree.
func (s *Store) countKeys() {
	n := 0
	s.tree.Scan(func(_ string, k *keyIndex) bool {
		if !k.last.deleted() {
			n++
		}
		return true
	})
	s.metrics.keys.Set(float64(n))
}

// LeasedKeys calls fn with every key that has a lease, in key order.
func (s *Store) LeasedKeys(fn func(key []byte, lease int64)) error {
	v := s.View()
	defer v.Close()
	if v.err != nil {
		return v.err
	}
	values := v.state.reader()
	var err error
	v.state.tree.Scan(func(key string, k *keyIndex) bool {
		r, ok := k.at(v.state.rev)
		if !ok || r.flags&leased == 0 {
			return true
		}
		var b []byte
		if b, _, err = values.get(r); err != nil {
			return false
		}
		var kv wire.KeyValue
		if err = kv.Unmarshal(b); err != nil {
			err = fmt.Errorf("revision %d.%d: %w", r.main, r.sub, err)
			return false
		}
		fn([]byte(key), kv.Lease)
		return true
	})
	return err
}
