package mvcc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"weir/grpcapi/wire"
)

// compaction is one to be done.
type compaction struct {
	rev      int64
	previous int64 // compact revision before it
	keepHash bool  // every earlier compaction is done, so its hash covers all from previous to rev
	barrier  bool  // nothing to do but to close done in its turn
	// generation is that of the contents that are to be compacted.
	generation int
	done       chan struct{}
}

// errReplaced ends a compaction of what is no longer served.
var errReplaced = errors.New("the store was replaced")

// compactor is the goroutine that removes what compactions gave up, one compaction after the other: from the index
// in small steps between those of the writer, then from the file in small transactions.
//
// As in etcd the file is walked in the order of revisions, so that the pages that a transaction changes lie side by
// side; deleting key by key, as the index knows them, would change a page for nearly each revision. What is to be
// deleted is asked of the index for each revision, instead of keeping a set of what stays.
type compactor struct {
	s *Store

	mu    sync.Mutex
	queue []compaction // the first is being done
	added chan struct{}
}

// compactionBytes bounds the values that one step of a compaction walks over, each counted as compactionStep more, so
// that small ones are not too many: steps are short whether there is much to delete or nothing.
const (
	compactionBytes = 8 << 20
	compactionStep  = 256
)

// indexStep is how many keys of the index are compacted while the writer waits.
const indexStep = 256

func newCompactor(s *Store) compactor { return compactor{s: s, added: make(chan struct{}, 1)} }

func (c *compactor) add(what compaction) {
	c.mu.Lock()
	c.queue = append(c.queue, what)
	c.mu.Unlock()
	select {
	case c.added <- struct{}{}:
	default:
	}
}

// idle says whether every compaction is done.
func (c *compactor) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) == 0
}

// restart gives up all compactions for the one that is unfinished in what is served from now on, if there is one. Those who
// wait for another are told when that is done: nothing of what they wanted gone is there then. s.writing is held.
func (c *compactor) restart(unfinished *compaction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var queue []compaction
	if unfinished != nil {
		queue = append(queue, *unfinished)
	}
	for _, given := range c.queue {
		queue = append(queue, compaction{barrier: true, done: given.done})
	}
	c.queue = queue
	select {
	case c.added <- struct{}{}:
	default:
	}
}

func (c *compactor) run() {
	for {
		next, ok := c.first()
		if !ok {
			select {
			case <-c.added:
				continue
			case <-c.s.ctx.Done():
				return
			}
		}
		if !next.barrier {
			err := c.compact(next)
			switch {
			case errors.Is(err, errReplaced):
				continue
			case errors.Is(err, ErrClosed):
				return // it is resumed when the store is opened again
			case err != nil:
				_ = c.s.committer.fail(fmt.Errorf("compact %s: %w", c.s.path, err))
				return
			}
		}
		c.finish(next)
	}
}

// first is the compaction to be done.
func (c *compactor) first() (next compaction, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 {
		return compaction{}, false
	}
	return c.queue[0], true
}

// finish takes what is done from the queue, unless restart has given it another place meanwhile.
func (c *compactor) finish(done compaction) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queue[0].done == done.done {
		c.queue = c.queue[1:]
		close(done.done)
	}
}

func (c *compactor) compact(what compaction) error {
	start := time.Now()
	// Everything up to the compacted revision has to be in the file, and that it is to be compacted.
	if err := c.s.Commit(); err != nil {
		return err
	}
	if err := c.compactIndex(what); err != nil {
		return err
	}
	hash, deleted, err := c.compactFile(what)
	if err != nil {
		return err
	}
	c.s.log.Info("compacted", "revision", what.rev, "deleted", deleted, "hash", hash.Hash, "took", time.Since(start))
	return nil
}

// compactIndex removes from the index what what.rev and later revisions do not see.
func (c *compactor) compactIndex(what compaction) error {
	s, rev := c.s, what.rev
	v := s.View()
	defer v.Close()
	if v.err != nil {
		return v.err
	}
	step := make([]string, 0, indexStep)
	apply := func() error {
		if s.ctx.Err() != nil {
			return ErrClosed
		}
		s.writing.Lock()
		defer s.writing.Unlock()
		if s.generation != what.generation {
			return errReplaced
		}
		defer func(start time.Time) { s.metrics.indexPause.Observe(milliseconds(start)) }(time.Now())
		for _, key := range step {
			k, ok := s.tree.Get(key)
			if !ok {
				continue
			}
			if k = k.without(k.dropped(rev)); k != nil {
				s.tree.Set(key, k)
			} else {
				s.tree.Delete(key)
			}
		}
		step = step[:0]
		s.publish(func(st *state) { st.tree = s.tree.Copy() })
		return nil
	}
	var err error
	v.state.tree.Scan(func(key string, k *keyIndex) bool {
		if k.dropped(rev) > 0 {
			if step = append(step, key); len(step) == cap(step) {
				err = apply()
			}
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	return apply()
}

// compactFile removes from the file what the index does not have any more. It returns the hash of the revisions
// that there were, as HashKV at what.rev would have, and how many it deleted.
func (c *compactor) compactFile(what compaction) (_ KVHash, deleted int, err error) {
	s := c.s
	start := time.Now()
	var hash *hasher
	from := revision{}
	for done := false; !done; {
		v := s.View()
		if v.err != nil {
			return KVHash{}, 0, v.err
		}
		if hash == nil {
			hash = newHasher(what.previous, what.rev, v.state.tree, revision.keptByCompaction)
		}
		var doomed [][]byte
		err = guarded(s.log, func() (err error) {
			doomed, from, done, err = c.sweep(v, from, what.rev, hash)
			return err
		})
		v.Close()
		if err != nil {
			return KVHash{}, 0, fmt.Errorf("compact to revision %d: %w", what.rev, err)
		}
		deleted += len(doomed)
		err = s.committer.do(func() error {
			defer func(start time.Time) { s.metrics.compactionPause.Observe(milliseconds(start)) }(time.Now())
			if s.generation != what.generation { // only this goroutine changes it
				return errReplaced
			}
			err := s.committer.commit(func(tx *bolt.Tx) error { return deleteRevisions(tx, doomed, what.rev, done) })
			if err == nil && done && what.keepHash {
				s.hashes.add(hash.sum())
			}
			return err
		})
		if err != nil {
			return KVHash{}, 0, err
		}
		s.metrics.compacted.Add(float64(len(doomed)))
		if done {
			s.metrics.compaction.Observe(milliseconds(start))
			s.metrics.lastCompaction.SetToCurrentTime()
			return hash.sum(), deleted, nil
		}
		select {
		case <-time.After(s.options.CompactionSleep):
		case <-s.ctx.Done():
			return KVHash{}, 0, ErrClosed
		}
	}
	return hash.sum(), deleted, nil
}

// sweep walks over revisions up to rev in the file, from a place on, until it has found as many to delete as fit
// into one transaction. It returns their keys and where to go on.
func (c *compactor) sweep(v *View, from revision, rev int64, hash *hasher) (doomed [][]byte, next revision, done bool, err error) {
	size := 0
	err = v.state.walk(from, rev, func(k []byte, r revision, kv []byte) error {
		if len(doomed) == c.s.options.CompactionBatch || size > compactionBytes {
			next = r
			return errStop
		}
		key, err := keyOf(kv)
		if err != nil {
			return err
		}
		keep := keeps(v.state.tree, key, r, rev, revision.keptByCompaction)
		hash.write(k, r, kv, keep || !hash.anyKept) // what an earlier compaction left is all there is
		if !keep {
			doomed = append(doomed, append([]byte(nil), k...))
		}
		size += len(kv) + compactionStep
		return nil
	})
	if errors.Is(err, errStop) {
		return doomed, next, false, nil
	}
	return doomed, next, true, err
}

func deleteRevisions(tx *bolt.Tx, keys [][]byte, rev int64, finished bool) error {
	bucket := tx.Bucket(bucketKey.name())
	for _, k := range keys {
		if err := bucket.Delete(k); err != nil {
			return fmt.Errorf("delete revision %d: %w", binary.BigEndian.Uint64(k), err)
		}
	}
	if !finished {
		return nil
	}
	return tx.Bucket(bucketMeta.name()).Put([]byte(metaFinishedCompact), compactRevValue(rev))
}

// keptByCompaction says whether r, the newest revision of its key that a compaction at rev sees, stays in the file.
func (r revision) keptByCompaction(rev int64) bool { return !r.deleted() || r.main == rev }

// keeps says whether r of key stays when everything that rev and later do not see goes: r is above rev, or it is the
// newest up to rev and rule does not except it.
func keeps(t *keyTree, key []byte, r revision, rev int64, rule func(revision, int64) bool) bool {
	if r.main > rev {
		return true
	}
	k, ok := t.Get(borrow(key))
	if !ok {
		return false
	}
	i := k.find(rev)
	if i < 0 {
		return false
	}
	newest := k.rev(i)
	return newest.main == r.main && newest.sub == r.sub && rule(newest, rev)
}

func keyOf(encoded []byte) ([]byte, error) {
	var kv wire.KeyValue
	err := kv.Unmarshal(encoded)
	return kv.Key, err
}
