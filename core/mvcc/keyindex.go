package mvcc

import (
	"slices"
	"sort"
)

// keyIndex is what the index knows of one key: its revisions, oldest first, and what is needed to tell the create
// revision and version of each.
//
// A generation is the life of a key from the put that creates it to the tombstone that ends it. Revisions of all
// generations stand in one list, told apart by their tombstones, because nearly every key has one generation. A
// compaction drops revisions from the front only, so every generation but the first is whole and its create
// revision and versions can be counted; for the newest generation they are kept, and for the first, when it is not
// the newest, they are in first.
//
// A keyIndex never changes. Who looks at it, or at an old copy of the tree, needs no lock. The one writer appends
// to older beyond the length that earlier keyIndexes of the key see.
//
// etcd keeps a slice of generations, each with a slice of revisions: 140 bytes for a key with one revision,
// beside the key; this is 64.
type keyIndex struct {
	last    revision   // the newest
	created int64      // create revision of the newest generation
	version int64      // version at last
	older   []revision // all before last
	first   *origin    // create revision and version of older[0]; nil when there is one generation
}

type origin struct{ created, version int64 }

func (k *keyIndex) len() int { return len(k.older) + 1 }

func (k *keyIndex) rev(i int) revision {
	if i == len(k.older) {
		return k.last
	}
	return k.older[i]
}

// find returns the place of the newest revision that is not above main, or -1.
func (k *keyIndex) find(main int64) int {
	if k.last.main <= main {
		return len(k.older)
	}
	return sort.Search(len(k.older), func(i int) bool { return k.older[i].main > main }) - 1
}

// at returns the revision that main sees. There is none when the key did not exist then.
func (k *keyIndex) at(main int64) (r revision, ok bool) {
	i := k.find(main)
	if i < 0 {
		return revision{}, false
	}
	r = k.rev(i)
	return r, !r.deleted()
}

// origin returns create revision and version of the put at place i. A tombstone counts as one more version of the
// key that it deletes.
func (k *keyIndex) origin(i int) origin {
	end := i // where the generation of i ends, if it is not the newest
	for end < len(k.older) && !k.older[end].deleted() {
		end++
	}
	if end == len(k.older) {
		return origin{k.created, k.version - int64(end-i)}
	}
	start := i
	for start > 0 && !k.older[start-1].deleted() {
		start--
	}
	if start == 0 {
		return origin{k.first.created, k.first.version + int64(i)}
	}
	return origin{k.older[start].main, int64(i-start) + 1}
}

// next returns create revision and version of a change at revision main. A nil k is a key that the index does not have.
func (k *keyIndex) next(main int64) origin {
	if k == nil || k.last.deleted() {
		return origin{main, 1}
	}
	return origin{k.created, k.version + 1}
}

// with returns the index of the key with one more revision, r. o is what next gave for it, or what the file says.
func (k *keyIndex) with(r revision, o origin) *keyIndex {
	if k == nil {
		return &keyIndex{last: r, created: o.created, version: o.version}
	}
	n := &keyIndex{last: r, created: o.created, version: o.version, older: append(k.older, k.last), first: k.first}
	if k.last.deleted() && k.first == nil { // the second generation begins
		f := k.origin(0)
		n.first = &f
	}
	return n
}

// dropped returns how many revisions a compaction at main drops from the front: all that main and later do not
// see. A tombstone at main itself stays, for watchers that start there.
func (k *keyIndex) dropped(main int64) int {
	i := k.find(main)
	if i < 0 {
		return 0
	}
	if r := k.rev(i); r.deleted() && r.main < main {
		return i + 1
	}
	return i
}

// without returns the index of the key without its first n revisions; nil when none is left.
func (k *keyIndex) without(n int) *keyIndex {
	if n == k.len() {
		return nil
	}
	t := &keyIndex{last: k.last, created: k.created, version: k.version}
	if n == len(k.older) {
		return t
	}
	t.older = slices.Clone(k.older[n:]) // a copy, so that the dropped ones are freed
	if slices.ContainsFunc(t.older, revision.deleted) {
		o := k.origin(n)
		t.first = &o
	}
	return t
}
