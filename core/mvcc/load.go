package mvcc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	bolt "go.etcd.io/bbolt"

	"weir/grpcapi/wire"
)

// contents is what a file holds, read and indexed: all that is needed to serve it.
type contents struct {
	db         *file
	mapped     int64 // how much of the file is mapped at least
	tree       *keyTree
	keys       int         // that have a value
	state      *state      // what readers are to see
	unfinished *compaction // the one to be resumed, or nil
}

// readContents reads all of a file that is open, and makes what is missing for it to be a store. It takes db over, and if it
// fails, or ctx ends before, closes it.
func readContents(ctx context.Context, db *file, mapped int64, log *slog.Logger) (*contents, error) {
	c := &contents{db: db, mapped: mapped, tree: newTree(), state: &state{}}
	if err := guarded(log, func() error { return c.read(ctx) }); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *contents) read(ctx context.Context) error {
	if err := prepareFile(c.db); err != nil {
		return err
	}
	tx, err := openReadTx(c.db)
	if err != nil {
		return err
	}
	st := c.state
	st.tx, st.applied = tx, tx.applied
	last, err := loadIndex(ctx, c.tree, tx.keys)
	if err != nil {
		return err
	}
	finished, err := readCompactRev(tx.tx, metaFinishedCompact)
	if err != nil {
		return err
	}
	scheduled, err := readCompactRev(tx.tx, metaScheduledCompact)
	if err != nil {
		return err
	}
	c.tree.Scan(func(_ string, k *keyIndex) bool {
		if !k.last.deleted() {
			c.keys++
		}
		return true
	})
	st.tree = c.tree.Copy()
	// The newest revisions may have been tombstones that the compaction deleted.
	st.rev = max(last, finished, scheduled)
	st.compact = max(finished, scheduled)
	if scheduled > finished {
		c.unfinished = &compaction{rev: scheduled, previous: finished, done: make(chan struct{})}
	}
	return nil
}

// Applied is how far the raft log is in the file.
func (c *contents) Applied() Applied { return c.state.applied }

// Close lets go of the file, which is not served.
func (c *contents) Close() error {
	if c.state.tx != nil {
		c.state.tx.release()
	}
	return c.db.Close()
}

// loadedAtOnce is how many revisions are read before it is looked again whether anybody still wants them.
const loadedAtOnce = 4096

// loadIndex builds the index from all revisions in the file, and returns the newest revision (1 when there is none).
// It runs before anything else knows the tree.
func loadIndex(ctx context.Context, t *keyTree, keys *bolt.Bucket) (newest int64, err error) {
	newest = 1
	cursor, read := keys.Cursor(), 0
	for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
		if read++; read%loadedAtOnce == 1 && ctx.Err() != nil {
			return 0, fmt.Errorf("load index: %w", ctx.Err())
		}
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

// LeasedKeys calls fn with every key that has a lease, in key order, until fn fails.
func (s *Store) LeasedKeys(fn func(key []byte, lease int64) error) error {
	v := s.View()
	defer v.Close()
	if v.err != nil {
		return v.err
	}
	return v.state.leasedKeys(fn)
}

func (st *state) leasedKeys(fn func(key []byte, lease int64) error) (err error) {
	values := st.reader()
	st.tree.Scan(func(key string, k *keyIndex) bool {
		r, ok := k.at(st.rev)
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
		err = fn([]byte(key), kv.Lease)
		return err == nil
	})
	return err
}
