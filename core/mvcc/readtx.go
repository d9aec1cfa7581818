package mvcc

import (
	"fmt"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
)

// readTx is a bbolt read transaction that any number of readers share. The store holds one reference to the newest;
// the last one to be released closes it. Many goroutines may read with it, each with a cursor of its own: bbolt only
// reads memory then, and counts cursors atomically.
type readTx struct {
	tx      *bolt.Tx
	keys    *bolt.Bucket
	applied Applied
	refs    atomic.Int64
}

func openReadTx(db *bolt.DB) (*readTx, error) {
	tx, err := db.Begin(false)
	if err != nil {
		return nil, fmt.Errorf("begin read transaction: %w", err)
	}
	t := &readTx{tx: tx, keys: tx.Bucket(bucketKey.name())}
	if t.applied, err = readApplied(tx); err != nil {
		_ = tx.Rollback()
		return nil, err
	}
	t.refs.Store(1)
	return t, nil
}

// acquire may be called only while somebody else holds a reference.
func (t *readTx) acquire() { t.refs.Add(1) }

func (t *readTx) release() {
	if t.refs.Add(-1) == 0 {
		_ = t.tx.Rollback() // the only error is that it is closed already
	}
}
