package keyset

import (
	"bytes"
	"slices"
	"sort"

	"go.etcd.io/etcd/api/v3/authpb"
)

// Set is a set of keys: spans in order, that neither overlap nor touch. So a range is in the set exactly when one span
// holds all of it, which a binary search finds. (etcd keeps the permissions as they are, in an interval tree, and
// visits all that overlap the range.)
//
// It may be used concurrently. The zero value is empty.
type Set []span

// span is the keys from from on, below to. An empty to is no bound: no key is empty.
type span struct{ from, to []byte }

// Of returns the keys of those permissions that are of a kind, READ or WRITE; READWRITE is of both. The permissions must not be
// changed any more: their keys are kept.
func Of(permissions []*authpb.Permission, kind authpb.Permission_Type) Set {
	var all []span
	for _, p := range permissions {
		if p.PermType != kind && p.PermType != authpb.READWRITE {
			continue
		}
		if s, ok := spanOf(p.Key, p.RangeEnd); ok {
			all = append(all, s)
		}
	}
	return merge(all)
}

// IsEmpty tells whether a permission with this key and end is on no key: it is without a key, or has an end that is not above it.
func IsEmpty(key, end []byte) bool {
	_, ok := spanOf(key, end)
	return !ok
}

// isOpen tells whether the end of a range stands for no bound. It can stand for nothing else: no key is below a zero byte.
func isOpen(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// spanOf is what a permission is on, and false if that is nothing.
func spanOf(key, end []byte) (s span, ok bool) {
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

// merge returns the set of the keys of all spans, which it takes over.
func merge(spans []span) Set {
	slices.SortFunc(spans, func(a, b span) int { return bytes.Compare(a.from, b.from) })
	merged := spans[:0]
	for _, s := range spans {
		if n := len(merged); n == 0 || merged[n-1].endsBefore(s.from) {
			merged = append(merged, s)
		} else if last := &merged[n-1]; !last.reaches(s) {
			last.to = s.to
		}
	}
	return slices.Clip(Set(merged))
}

// endsBefore tells whether there may be keys between s and from.
func (s span) endsBefore(from []byte) bool { return len(s.to) > 0 && bytes.Compare(s.to, from) < 0 }

// reaches tells whether s goes at least as far as o.
func (s span) reaches(o span) bool {
	return len(s.to) == 0 || len(o.to) > 0 && bytes.Compare(o.to, s.to) <= 0
}

// Has tells whether all keys of a range are in the set. Key and end are as in a request: an empty end is key alone, and, as at
// etcd, so is one that is not above key. It allocates nothing.
func (set Set) Has(key, end []byte) bool {
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

// Size is the memory of the set in bytes, about.
func (set Set) Size() (bytes int) {
	for _, s := range set {
		bytes += 48 + len(s.from) + len(s.to)
	}
	return bytes
}
