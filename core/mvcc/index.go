package mvcc

import (
	"unsafe"

	"github.com/tidwall/btree"
)

// keyTree is the ordered map from key to keyIndex. A copy costs nothing until the original is written to, which
// then copies the nodes that it touches.
type keyTree = btree.Map[string, *keyIndex]

// treeDegree is a compromise: twice as large, the copies that a writer makes after each snapshot cost half as much
// again; half as large, a lookup and the memory of a key do.
const treeDegree = 16

// index is the tree that the writer changes, and the copy of it that readers of ranges share until it changes.
// A reader of one key looks it up in the tree itself.
//
// A copy for every revision, published like the rest of the state, was tried: the path copied at each put (4 KiB)
// cost more than the rest of the put. A reader ignores revisions above its own, so one tree can serve readers of
// many revisions, and copies are made only for those who ask for a range.
//
// Store.mu guards it; what snapshot returns needs no lock.
type index struct {
	tree *keyTree
	snap *keyTree // nil when the tree has changed since the last snapshot
}

func newIndex() index { return index{tree: btree.NewMap[string, *keyIndex](treeDegree)} }

func (x *index) get(key []byte) *keyIndex {
	k, _ := x.tree.Get(borrow(key))
	return k
}

// set makes k the index of key; nil removes it.
func (x *index) set(key string, k *keyIndex) {
	x.snap = nil
	if k == nil {
		x.tree.Delete(key)
		return
	}
	x.tree.Set(key, k)
}

func (x *index) snapshot() *keyTree {
	if x.snap == nil {
		x.snap = x.tree.Copy()
	}
	return x.snap
}

// borrow views b as a string, for comparisons that do not keep it.
func borrow(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// ascend calls fn with every key in [key, end), in order, until it returns false. end is as in a request: none
// for key alone, "\x00" for all keys from key on.
func ascend(t *keyTree, key, end []byte, fn func(key string, k *keyIndex) bool) {
	switch {
	case len(end) == 0:
		if k, ok := t.Get(borrow(key)); ok {
			fn(borrow(key), k)
		}
	case isFromKey(end):
		t.Ascend(borrow(key), fn)
	default:
		last := borrow(end)
		t.Ascend(borrow(key), func(s string, k *keyIndex) bool { return s < last && fn(s, k) })
	}
}

func isFromKey(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// inRange says whether key is in [start, end), end being as in a request.
func inRange(key, start, end []byte) bool {
	switch {
	case len(end) == 0:
		return borrow(key) == borrow(start)
	case isFromKey(end):
		return borrow(key) >= borrow(start)
	}
	return borrow(key) >= borrow(start) && borrow(key) < borrow(end)
}
