package mvcc

import (
	"encoding/json"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// Entry is one entry of the raft log being applied. All that is done with it is committed together with its index.
// Until End the store commits nothing, so what waits for a commit (Store.Commit, Snapshot, Hash, ForEach, Defragment)
// waits for it.
type Entry struct {
	s           *Store
	index, term uint64
}

// Begin starts to apply the entry at index of the log. It waits while more than twice Options.BatchBytes is not in
// the file yet. End must be called. An index of 0 is not recorded: for what is written before there is a log.
func (s *Store) Begin(index, term uint64) *Entry {
	s.writing.Lock()
	for s.batch.bytes >= s.options.BatchBytes && s.failure == nil && s.ctx.Err() == nil {
		s.room.Wait()
	}
	return &Entry{s: s, index: index, term: term}
}

// End ends the entry. Its changes may be committed from now on.
func (e *Entry) End() {
	b := e.s.batch
	if e.index != 0 {
		b.applied.Index, b.applied.Term = e.index, e.term
		b.dirty = true
	}
	dirty, full := b.dirty, b.bytes >= e.s.options.BatchBytes
	e.s.writing.Unlock()
	if dirty {
		e.s.committer.wake(full)
	}
	e.s = nil // a second End is a mistake, and shows
}

// Put stores value under key in a bucket.
func (e *Entry) Put(b Bucket, key, value []byte) {
	e.s.batch.addOp(bucketOp{bucket: b, key: append([]byte(nil), key...), value: append([]byte{}, value...)})
}

// Delete removes key from a bucket.
func (e *Entry) Delete(b Bucket, key []byte) {
	e.s.batch.addOp(bucketOp{bucket: b, key: append([]byte(nil), key...), remove: true})
}

// SetConfState stores the configuration of the raft group as of this entry.
func (e *Entry) SetConfState(cs *raftpb.ConfState) {
	value, err := json.Marshal(cs) // etcd's format; it holds numbers and a bool, so there is nothing to fail
	if err != nil {
		panic(fmt.Sprintf("mvcc: encode ConfState: %v", err))
	}
	e.Put(bucketMeta, []byte(metaConfState), value)
	e.s.batch.applied.ConfState = proto.CloneOf(cs)
}

// Compact gives up the history before rev. Reads below rev fail from now on, the memory and the file are cleaned in
// the background; done is closed when they are, but never if the store is closed or fails before. It fails with
// ErrCompacted, and then done is closed when all earlier compactions have ended, or with ErrFutureRev.
func (e *Entry) Compact(rev int64) (done <-chan struct{}, err error) {
	s := e.s
	st := s.state.Load()
	c := compaction{rev: rev, previous: st.compact, done: make(chan struct{})}
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

// Txn is one request of an entry: all that it changes is one new revision. Its reads see its own changes, other
// readers see them after Commit. It cannot be undone, so it must be committed. As in etcd a key is changed at most once
// in a transaction, which is for the caller to check.
type Txn struct {
	e      *Entry
	before int64 // the revision that the transaction started from
	events []wire.Event
	leases []LeaseChange
}

// LeaseChange says that a key was moved from one lease to another; 0 is no lease.
type LeaseChange struct {
	Key      []byte
	Old, New int64
}

// Txn starts a transaction. The one before it must be committed.
func (e *Entry) Txn() *Txn { return &Txn{e: e, before: e.s.Revision()} }

// Revision is the newest revision that the transaction sees: one more than before as soon as it has changed something.
func (t *Txn) Revision() int64 {
	if len(t.events) > 0 {
		return t.before + 1
	}
	return t.before
}

// Range is as Store.Range, but sees the transaction's changes. Its Revision is that of the transaction.
func (t *Txn) Range(key, end []byte, o RangeOptions) (RangeResult, error) {
	st, err := t.acquire()
	if err != nil {
		return RangeResult{}, err
	}
	defer st.tx.release()
	return st.rangeKeys(key, end, o)
}

// acquire is Store.acquire, but returns the state of the transaction. It is valid until the next change.
func (t *Txn) acquire() (*state, error) {
	st, err := t.e.s.acquire()
	if err != nil {
		return nil, err
	}
	own := *st
	own.rev, own.tree, own.pending = t.Revision(), t.e.s.tree, t.e.s.batch.changes
	return &own, nil
}

// Put stores value under key. A lease of 0 is none; whether it exists is for the caller to know.
func (t *Txn) Put(key, value []byte, lease int64) (rev int64) {
	s := t.e.s
	rev = t.before + 1
	r := revision{main: rev, sub: uint32(len(t.events))}
	if lease != 0 {
		r.flags = leased
	}
	old := lookup(s.tree, key)
	o := old.next(rev)
	kv := wire.KeyValue{
		Key: key, Value: value, Lease: lease,
		CreateRevision: o.created, ModRevision: rev, Version: o.version,
	}
	size := kv.Size()
	event, err := wire.NewPutEvent(kv.Append(make([]byte, 0, size)))
	if err != nil {
		panic(fmt.Sprintf("mvcc: event of a put: %v", err)) // it was encoded in the line above
	}
	encoded := event.Data[len(event.Data)-size:] // the event ends with the KeyValue: one copy serves both
	t.moveLease(event.Key, old, lease)
	s.tree.Set(string(key), old.with(r, o))
	s.batch.addChange(change{r, encoded})
	t.events = append(t.events, event)
	return rev
}

// DeleteRange deletes the keys in [key, end), end being as in Range. rev is that of the transaction, with the
// deletions.
func (t *Txn) DeleteRange(key, end []byte) (deleted, rev int64) {
	if len(end) == 0 {
		if k := lookup(t.e.s.tree, key); k != nil && !k.last.deleted() {
			t.delete(key, k)
			deleted = 1
		}
		return deleted, t.Revision()
	}
	type item struct {
		key   string
		index *keyIndex
	}
	var found []item
	ascend(t.e.s.tree, key, end, func(key string, k *keyIndex) bool {
		if !k.last.deleted() {
			found = append(found, item{key, k})
		}
		return true
	})
	for _, f := range found {
		t.delete([]byte(f.key), f.index)
	}
	return int64(len(found)), t.Revision()
}

func (t *Txn) delete(key []byte, old *keyIndex) {
	s := t.e.s
	r := revision{main: t.before + 1, sub: uint32(len(t.events)), flags: tombstone}
	kv := wire.KeyValue{Key: key}
	event := wire.NewDeleteEvent(key, r.main)
	t.moveLease(event.Key, old, 0)
	s.tree.Set(string(key), old.with(r, old.next(r.main)))
	s.batch.addChange(change{r, kv.Append(make([]byte, 0, kv.Size()))})
	t.events = append(t.events, event)
}

// moveLease notes that key, which has the index old, is changed to have a lease, or none.
func (t *Txn) moveLease(key []byte, old *keyIndex, lease int64) {
	was := t.leaseOf(old)
	if was != lease {
		t.leases = append(t.leases, LeaseChange{Key: key, Old: was, New: lease})
	}
}

// leaseOf reads the lease that a key has.
func (t *Txn) leaseOf(k *keyIndex) int64 {
	if k == nil || k.last.deleted() || k.last.flags&leased == 0 {
		return 0
	}
	st, err := t.acquire()
	if err != nil {
		return 0 // the store is closed: nothing of this will be kept
	}
	defer st.tx.release()
	values := st.reader()
	b, _, err := values.get(k.last)
	if err == nil {
		var kv wire.KeyValue
		if err = kv.Unmarshal(b); err == nil {
			return kv.Lease
		}
	}
	panic(fmt.Sprintf("mvcc: read lease of a key: %v", err)) // to go on would make this member differ from the others
}

// LeaseChanges are the moves of keys between leases so far, in order.
func (t *Txn) LeaseChanges() []LeaseChange { return t.leases }

// Commit makes the changes visible to all readers at once. It returns the newest revision, and the events of the
// changes, which has no previous values (Store.Prev has).
func (t *Txn) Commit() (rev int64, events []wire.Event) {
	if len(t.events) == 0 {
		return t.before, nil
	}
	s := t.e.s
	rev = t.before + 1
	s.publish(func(st *state) { st.rev, st.tree, st.pending = rev, s.tree.Copy(), s.batch.changes })
	return rev, t.events
}
