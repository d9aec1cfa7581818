package auth

import (
	"bytes"
	"slices"
	"sort"
)

// keySet is a set of keys: spans in order, that neither overlap nor touch. So a range is in the set exactly when one
// span holds all of it, which a binary search finds. (etcd keeps the permissions as they are, in an interval tree, and
// visits all that overlap the range.)
type keySet []span

// span is the keys from from on, below to. An empty to is no bound: no key is empty.
type span struct{ from, to []byte }

// isOpen tells whether the end of a range stands for no bound. It can stand for nothing else: no key is below a zero byte.
func isOpen(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// permissionSpan is what a permission is on, and false for one that is on nothing: without a key, or with an end that
// is not above it.
func permissionSpan(key, end []byte) (s span, ok bool) {
	switch {
	case len(key) == 0:
		return span{}, false
	case len(end) == 0:
		return span{key, append(bytes.Clone(key), 0)}, true
	case isOpen(end):
		return span{from: key}, true
	}
	return span{key, end}, bytes.Compare(key, end) < 0
}

// newKeySet returns the set of the keys of all spans, which it takes over.
func newKeySet(spans []span) keySet {
	slices.SortFunc(spans, func(a, b span) int { return bytes.Compare(a.from, b.from) })
	var set keySet
	for _, s := range spans {
		if len(set) == 0 || set[len(set)-1].endsBefore(s.from) {
			set = append(set, s)
			continue
		}
		last := &set[len(set)-1]
		if len(last.to) > 0 && (len(s.to) == 0 || bytes.Compare(last.to, s.to) < 0) {
			last.to = s.to
		}
	}
	return set
}

// endsBefore tells whether there may be keys between s and from.
func (s span) endsBefore(from []byte) bool { return len(s.to) > 0 && bytes.Compare(s.to, from) < 0 }

// contains tells whether all keys of a range are in the set. Key and end are as in a request: an empty end is key
// alone, and so is one that is not above key.
func (set keySet) contains(key, end []byte) bool {
	i := sort.Search(len(set), func(i int) bool { return bytes.Compare(set[i].from, key) > 0 })
	if i == 0 {
		return false
	}
	s := set[i-1] // the only one that may hold key
	switch {
	case len(s.to) == 0:
		return true
	case bytes.Compare(key, s.to) >= 0 || isOpen(end):
		return false
	}
	return bytes.Compare(end, s.to) <= 0
}
