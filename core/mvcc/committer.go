package mvcc

import (
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

// committer is the goroutine that writes to the file, the only one. It gathers what the writer applies, and commits
// it in one bbolt transaction when BatchInterval has passed since the first of it, when there is much, or on request.
type committer struct {
	s      *Store
	dirty  chan struct{} // the first entry of a batch has ended
	full   chan struct{} // the batch is large
	jobs   chan job
	ended  chan struct{} // closed when run has returned
	db     *file         // used by run alone, and by close after it
	mapped int64         // how much of the file is mapped at least
}

// job is a request to the committer, which sends one answer.
type job struct {
	run  func() error
	done chan error
}

func newCommitter(s *Store, db *file, mapped int64) committer {
	return committer{
		s: s, db: db, mapped: mapped,
		dirty: make(chan struct{}, 1), full: make(chan struct{}, 1),
		jobs: make(chan job), ended: make(chan struct{}),
	}
}

// wake tells that the batch has something in it, or so much that it should not wait.
func (c *committer) wake(full bool) {
	to := c.dirty
	if full {
		to = c.full
	}
	select {
	case to <- struct{}{}:
	default: // it knows already
	}
}

// do has the committer run fn and waits.
func (c *committer) do(fn func() error) error {
	j := job{run: fn, done: make(chan error, 1)}
	select {
	case c.jobs <- j:
		return <-j.done
	case <-c.ended:
		return ErrClosed
	}
}

func (c *committer) run() {
	defer close(c.ended)
	var due <-chan time.Time // nil while nothing waits to be committed
	for {
		select {
		case <-c.dirty:
			if due == nil {
				due = time.After(c.s.options.BatchInterval)
			}
		case <-due:
			due = nil
			_ = c.commit(nil) // reported by Failed
		case <-c.full:
			_ = c.commit(nil)
		case j := <-c.jobs:
			j.done <- j.run()
		case <-c.s.ctx.Done():
			_ = c.commit(nil)
			// Whoever waits for room is not to wait for ever.
			c.s.writing.Lock()
			c.s.room.Broadcast()
			c.s.writing.Unlock()
			return
		}
	}
}

// commit puts the batch into the file, and with it, in the same transaction, what extra does, if it is not nil.
func (c *committer) commit(extra func(*bolt.Tx) error) error {
	s := c.s
	s.writing.Lock()
	if s.failure != nil || !s.batch.dirty && extra == nil {
		defer s.writing.Unlock()
		return s.failure
	}
	b := s.batch
	s.batch = &batch{index: b.index, term: b.term}
	s.publish(func(st *state) { st.flushing, st.pending = b.changes, nil })
	s.room.Broadcast()
	s.writing.Unlock()

	if err := c.write(b, extra); err != nil {
		return c.fail(fmt.Errorf("commit to %s: %w", s.path, err))
	}
	return nil
}

// write commits b and extra, and gives readers a transaction that sees them. An error of it is final, see fail.
func (c *committer) write(b *batch, extra func(*bolt.Tx) error) error {
	s := c.s
	if c.mayRemap(b, extra != nil) {
		gate := c.shutOut()
		defer close(gate) // by then there is a transaction again, or none will be
	}
	var committing *bolt.Tx
	var start time.Time
	err := c.db.Update(func(tx *bolt.Tx) error {
		err := writeBatch(tx, b)
		if err == nil && extra != nil {
			err = extra(tx)
		}
		committing, start = tx, time.Now()
		return err
	})
	if err == nil {
		s.metrics.committed(start, committing.Stats())
	}
	tx, txErr := openReadTx(c.db)
	if err = errors.Join(err, txErr); err != nil {
		// What is in the file can still be read, and the batch stays where readers find it.
		s.publish(func(st *state) {
			if st.gate != nil {
				st.tx, st.gate, tx = tx, nil, nil
			}
		})
		if tx != nil {
			tx.release()
		}
		return err
	}
	s.measure(tx)
	c.mapped = max(c.mapped, leastMapping(s.Size()))
	if old := s.install(tx); old != nil {
		old.release()
	}
	return nil
}

// mayRemap says whether committing b may make bbolt map more of the file, for which it waits until no transaction is
// open. It has to be right when it says no: the store's own transaction is always open. So it counts high: the values
// several times over, since pages are copied and split, and pagesPerOp for each change elsewhere.
func (c *committer) mayRemap(b *batch, compacting bool) bool {
	const pagesPerOp, copies, more = 8, 4, 64 << 20
	size, ops := int64(b.bytes), int64(len(b.ops))
	if compacting {
		size, ops = size+compactionBytes, ops+int64(c.s.options.CompactionBatch)
	}
	need := copies*size + ops*pagesPerOp*int64(c.db.Info().PageSize) + more
	return c.s.Size()+need > c.mapped
}

// leastMapping is the least that bbolt maps of a file of the size: a power of two up to 1 GiB, then whole GiB.
func leastMapping(size int64) int64 {
	const gib = 1 << 30
	if size > gib {
		return (size + gib - 1) / gib * gib
	}
	n := int64(32 << 10)
	for n < size {
		n *= 2
	}
	return n
}

// shutOut returns when no transaction is open; who wants to read waits for gate. While it waits for the open ones to
// end, it lets new reads in from time to time: a reader may need a second read to end its first one.
func (c *committer) shutOut() (gate chan struct{}) {
	const patience, tick, longest = 20 * time.Millisecond, 100 * time.Microsecond, time.Second
	s := c.s
	tx := s.state.Load().tx
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, longest) {
		gate = make(chan struct{})
		s.publish(func(st *state) { st.tx, st.gate = nil, gate })
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(tick) {
			if tx.closeIfLast() {
				return gate
			}
		}
		s.publish(func(st *state) { st.tx, st.gate = tx, nil })
		close(gate)
		time.Sleep(pause)
	}
}

// fail notes that the file cannot be written. What was being written stays where readers find it.
func (c *committer) fail(err error) error {
	s := c.s
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.failure != nil {
		return s.failure
	}
	s.failure = err
	s.room.Broadcast() // the writer waits no more: the process is about to end
	s.failed <- err    // there is room: it fails once
	s.log.Error("the store cannot be written", "err", err)
	return err
}

// close closes the file after run has returned. It waits for open transactions.
func (c *committer) close() error {
	if err := c.db.closeUnread(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	c.s.writing.Lock()
	defer c.s.writing.Unlock()
	return c.s.failure
}

// Commit puts all entries that have ended into the file and waits until they are there.
func (s *Store) Commit() error {
	return s.committer.do(func() error { return s.committer.commit(nil) })
}

// measure takes note of the size of the file, as tx sees it.
func (s *Store) measure(tx *readTx) {
	size, db := tx.tx.Size(), tx.tx.DB()
	s.size.Store(size)
	s.sizeInUse.Store(size - int64(db.Stats().FreePageN)*int64(db.Info().PageSize))
}
