package mvcc

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// Entry is one entry of the raft log being applied. All that is done with it is committed together with its index.
// Until End the store commits nothing, so what waits for a commit (Store.Commit, Snapshot, Hash, ForEach, Defragment)
// waits for it.
type Entry struct {
	s           *Store
	index, term uint64
}

// Begin starts to apply the entry at index of the log, and End or Fail must be called. It waits while Options.BatchBytes are
// gathered and the committer, still busy with as much, has not taken them. An index of 0 is not recorded: for what is
// written before there is a log.
func (s *Store) Begin(index, term uint64) *Entry {
	s.writing.Lock()
	for s.batch.bytes >= s.options.BatchBytes && s.failure == nil && s.ctx.Err() == nil {
		s.room.Wait()
	}
	return &Entry{s: s, index: index, term: term}
}

// Index is the entry's index in the log.
func (e *Entry) Index() uint64 { return e.index }

// End ends the entry. Its changes may be committed from now on.
func (e *Entry) End() {
	b := e.s.batch
	if e.index != 0 {
		b.index, b.term = e.index, e.term
		b.dirty = true
	}
	dirty, full := b.dirty, b.isFull(e.s.options)
	e.s.writing.Unlock()
	if dirty {
		e.s.committer.wake(full)
	}
	e.s = nil // a second End is a mistake, and shows
}

// Fail ends, instead of End, an entry that could not be applied as a whole. Nothing is committed any more: what of it is
// in the batch must not be, and the log has what else is there.
func (e *Entry) Fail(err error) {
	s := e.s
	if s.failure == nil {
		s.failure = fmt.Errorf("entry %d was not applied: %w", e.index, err)
	}
	s.room.Broadcast()
	s.writing.Unlock()
	e.s = nil
}

// Put stores value under key in a bucket.
func (e *Entry) Put(b Bucket, key, value []byte) {
	e.s.batch.addOp(bucketOp{bucket: b, key: bytes.Clone(key), value: bytes.Clone(value)})
}

// Delete removes key from a bucket.
func (e *Entry) Delete(b Bucket, key []byte) {
	e.s.batch.addOp(bucketOp{bucket: b, key: bytes.Clone(key), remove: true})
}

// SetConfState stores the configuration of the raft group as of this entry.
func (e *Entry) SetConfState(cs *raftpb.ConfState) {
	value, err := json.Marshal(cs) // etcd's format; it holds numbers and a bool, so there is nothing to fail
	if err != nil {
		panic(fmt.Sprintf("mvcc: encode ConfState: %v", err))
	}
	e.Put(bucketMeta, []byte(metaConfState), value)
}

// SetStorageVersion stores which version of etcd the layout is of.
func (e *Entry) SetStorageVersion(version string) {
	e.Put(bucketMeta, []byte(metaStorageVersion), []byte(version))
}

// Compact gives up the history before rev. Reads below rev fail from now on, the memory and the file are cleaned in
// the background, after End; done is closed when they are clean, but never if the store is closed or fails before.
// Compact fails with ErrCompacted, and then done is closed when all earlier compactions have ended, or ErrFutureRev.
func (e *Entry) Compact(rev int64) (done <-chan struct{}, err error) {
	s := e.s
	st := s.state.Load()
	c := compaction{rev: rev, previous: st.compact, generation: s.generation, done: make(chan struct{})}
	switch {
	case rev <= st.compact:
		s.compactor.add(compaction{barrier: true, done: c.done})
		return c.done, ErrCompacted
	case rev > st.rev:
		return nil, ErrFutureRev
	}
	s.publish(func(st *state) { st.compact = rev })
	e.Put(bucketMeta, []byte(metaScheduledCompact), compactRevValue(rev))
	c.keepHash = s.compactor.idle()
	s.compactor.add(c)
	return c.done, nil
}

// Txn starts a transaction. The one before it must be committed.
func (e *Entry) Txn() *Txn { return &Txn{e: e, before: e.s.Revision()} }
