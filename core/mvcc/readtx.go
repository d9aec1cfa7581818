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
	file    *file
	tx      *bolt.Tx
	keys    *bolt.Bucket
	applied Applied
	refs    atomic.Int64
}

func openReadTx(db *file) (*readTx, error) {
	tx, err := db.Begin(false)
	if err != nil {
		return nil, fmt.Errorf("begin read transaction: %w", err)
	}
	t := &readTx{file: db, tx: tx, keys: tx.Bucket(bucketKey.name())}
	if t.applied, err = readApplied(tx); err != nil {
		_ = tx.Rollback()
		return nil, err
	}
	t.refs.Store(1)
	db.reads.Add(1)
	return t, nil
}

// acquire takes a reference, unless the transaction is closed.
func (t *readTx) acquire() bool {
	for {
		n := t.refs.Load()
		if n == 0 {
			return false
		}
		if t.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (t *readTx) release() {
	if t.refs.Add(-1) == 0 {
		t.close()
	}
}

// closeIfLast gives up the only reference; if there are more it does nothing.
func (t *readTx) closeIfLast() bool {
	if !t.refs.CompareAndSwap(1, 0) {
		return false
	}
	t.close()
	return true
}

func (t *readTx) close() {
	_ = t.tx.Rollback() // the only error is that it is closed already
	t.file.reads.Done()
}
