package mvcc

import (
	"fmt"

	"weir/grpcapi/wire"
)

// Txn is one request of an entry: all that it changes is one new revision. Its reads see its own changes, other
// readers see them after Commit. It cannot be undone, so it must be committed. As in etcd a key is changed at most once
// in a transaction, which is for the caller to check.
type Txn struct {
	e      *Entry
	before int64 // the revision that the transaction started from
	events []wire.Event
	leases []LeaseChange

	ranges, puts, deletes, putBytes int // done, for the metrics
}

// LeaseChange says that a key was moved from one lease to another; 0 is no lease.
type LeaseChange struct {
	Key      []byte
	Old, New int64
}

// Revision is the newest revision that the transaction sees: one more than before as soon as it has changed something.
func (t *Txn) Revision() int64 {
	if len(t.events) > 0 {
		return t.before + 1
	}
	return t.before
}

// Range is as Store.Range, but sees the transaction's changes. Its Revision is that of the transaction.
func (t *Txn) Range(key, end []byte, o RangeOptions) (RangeResult, error) {
	t.ranges++
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
	t.puts++
	t.putBytes += len(key) + len(value)
	if old == nil || old.last.deleted() {
		s.metrics.keys.Inc()
	}
	return rev
}

// DeleteRange deletes the keys in [key, end), end being as in Range. rev is that of the transaction, with the
// deletions.
func (t *Txn) DeleteRange(key, end []byte) (deleted, rev int64) {
	t.deletes++
	if len(end) == 0 {
		if k := lookup(t.e.s.tree, key); k != nil && !k.last.deleted() {
			t.delete(string(key), k)
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
		t.delete(f.key, f.index)
	}
	return int64(len(found)), t.Revision()
}

func (t *Txn) delete(key string, old *keyIndex) {
	s := t.e.s
	r := revision{main: t.before + 1, sub: uint32(len(t.events)), flags: tombstone}
	event := wire.NewDeleteEvent([]byte(key), r.main)
	kv := wire.KeyValue{Key: event.Key}
	t.moveLease(event.Key, old, 0)
	s.tree.Set(key, old.with(r, old.next(r.main)))
	s.batch.addChange(change{r, kv.Append(make([]byte, 0, kv.Size()))})
	t.events = append(t.events, event)
	s.metrics.keys.Dec()
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
// changes, which have no previous values (Store.Prev has).
func (t *Txn) Commit() (rev int64, events []wire.Event) {
	t.e.s.metrics.transaction(t.ranges, t.puts, t.deletes, t.putBytes)
	if len(t.events) == 0 {
		return t.before, nil
	}
	s := t.e.s
	rev = t.before + 1
	s.publish(func(st *state) { st.rev, st.tree, st.pending = rev, s.tree.Copy(), s.batch.changes })
	return rev, t.events
}
