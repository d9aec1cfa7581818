package cache

import "fmt"

// Loader makes a Snapshot of the KeyValues of a range at one revision, which it is given one after another. It builds the
// tree's leaves while they come, so that loading takes hardly more memory than the Snapshot. One goroutine uses it.
type Loader struct {
	leaves []kid
	kvs    []encoded // of the next leaf
	low    string    // of the next leaf
	last   string    // key
	edit   edit      // makes the nodes, and counts
}

// NewLoader returns a Loader that has been given nothing yet.
func NewLoader() *Loader { return &Loader{kvs: make([]encoded, 0, maxLeaf)} }

// Add takes the next encoded mvccpb.KeyValue, in ascending order of keys, and copies it once. One that is not canonical
// is kept canonical. The errors are that kv is malformed, has no key, or does not come after the one before; the Loader
// is as it was then.
func (l *Loader) Add(kv []byte) error {
	own, err := encode(kv)
	if err != nil {
		return fmt.Errorf("load snapshot: %w", err)
	}
	if own.key() <= l.last {
		return fmt.Errorf("load snapshot: key %q comes after %q", own.key(), l.last)
	}
	if len(l.kvs) == maxLeaf {
		l.leaves = l.edit.leaves(l.leaves, l.low, l.kvs)
		l.low, l.kvs = between(l.last, own.key()), l.kvs[:0]
	}
	l.kvs, l.last = append(l.kvs, own), own.key()
	l.edit.made += own.size()
	return nil
}

// Bytes returns about the memory that the Loader takes.
func (l *Loader) Bytes() int { return l.edit.made + kidBytes*cap(l.leaves) + entryBytes*cap(l.kvs) }

// Snapshot returns what was loaded, which is the state at revision rev. Past states will take up to historyBytes of memory.
// The Loader is of no use then.
func (l *Loader) Snapshot(rev int64, historyBytes int) *Snapshot {
	leaves := l.edit.leaves(l.leaves, l.low, l.kvs)
	s := &Snapshot{historyLimit: historyBytes}
	s.state.Store(&state{rev: rev, versions: []version{{rev: rev, tree: l.edit.tree(leaves)}}})
	return s
}
