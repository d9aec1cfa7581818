package mvcc

import "sort"

// change is one revision of one key that was applied and may not be in the file yet.
type change struct {
	rev revision
	kv  []byte // encoded KeyValue, immutable
}

// bucketOp is a change of a bucket other than key.
type bucketOp struct {
	bucket     Bucket
	key, value []byte
	remove     bool
}

// batch is what goes into the file in one transaction: whole raft entries, and where they end in the log.
//
// Changes are appended in the order of their revisions. A reader's copy of the slice header stays true while the
// writer appends, so readers share the batch without copying it and without a lock.
type batch struct {
	changes []change
	ops     []bucketOp
	index   uint64 // of the last entry, 0 when there was none
	term    uint64
	bytes   int
	dirty   bool // something is to be committed, be it only an applied index
}

// itemOverhead is what an item of a batch costs in memory beside its bytes.
const itemOverhead = 64

func (b *batch) addChange(c change) {
	b.changes = append(b.changes, c)
	b.bytes += len(c.kv) + itemOverhead
	b.dirty = true
}

func (b *batch) addOp(o bucketOp) {
	b.ops = append(b.ops, o)
	b.bytes += len(o.key) + len(o.value) + itemOverhead
	b.dirty = true
}

// isFull tells whether the batch should be committed without waiting for more.
func (b *batch) isFull(o Options) bool {
	return b.bytes >= o.BatchBytes || o.BatchChanges > 0 && len(b.changes)+len(b.ops) >= o.BatchChanges
}

// valueIn returns the value of r if it is in changes.
func valueIn(changes []change, r revision) ([]byte, bool) {
	if len(changes) == 0 || r.before(changes[0].rev) {
		return nil, false
	}
	found := after(changes, r)
	if len(found) == 0 || r.before(found[0].rev) {
		return nil, false
	}
	return found[0].kv, true
}

// after returns the changes from r on.
func after(changes []change, r revision) []change {
	return changes[sort.Search(len(changes), func(i int) bool { return !changes[i].rev.before(r) }):]
}
