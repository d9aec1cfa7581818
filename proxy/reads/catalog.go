package reads

import (
	"slices"
	"strings"
	"sync/atomic"
)

// catalog tells which hot range has the keys of a read.
//
// It is asked for every read, by many goroutines, and seldom changed. So it is immutable lists behind an atomic pointer:
// who asks takes no lock and no memory, who changes it makes new ones. A lock, or a tree that is changed in place, would be
// shared by all cores on every read.
//
// No hot range in a list contains another. So their ends ascend with their beginnings, and of those that begin at or
// before a key only the last can contain it. Fixed ones have a list of their own, so that a wider one does not replace
// them and leave a gap when it is dropped.
//
// Keeper.mu guards changes.
type catalog struct{ lists atomic.Pointer[lists] } // nil while they are empty

type lists struct{ fixed, chosen list }

// list is sorted.
type list []entry

type entry struct {
	interval
	hot *hot
}

// find returns the hot range that contains [key, end), by etcd's conventions, or nil.
func (c *catalog) find(key, end []byte) *hot {
	l := c.lists.Load()
	if l == nil {
		return nil
	}
	if h := l.fixed.find(key, end); h != nil {
		return h
	}
	return l.chosen.find(key, end)
}

func (l list) find(key, end []byte) *hot {
	lo, hi := 0, len(l) // those before lo begin at or before key, those from hi on after it
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if l[mid].from <= string(key) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return nil
	}
	e := &l[lo-1]
	switch {
	case e.to == "":
	case len(end) == 0:
		if string(key) >= e.to {
			return nil
		}
	case string(end) == noEnd || string(end) > e.to:
		return nil
	}
	return e.hot
}

// add adds h, and takes out and returns those that h replaces, because it contains them.
func (c *catalog) add(h *hot) (contained []*hot) {
	var next lists
	if l := c.lists.Load(); l != nil {
		next = *l
	}
	next.chosen = slices.DeleteFunc(slices.Clone(next.chosen), func(e entry) bool {
		in := h.contains(e.interval)
		if in {
			contained = append(contained, e.hot)
		}
		return in
	})
	if h.fixed {
		next.fixed = next.fixed.with(h)
	} else {
		next.chosen = next.chosen.with(h)
	}
	c.lists.Store(&next)
	return contained
}

// remove takes h out, if it is there.
func (c *catalog) remove(h *hot) {
	if l := c.lists.Load(); l != nil {
		c.lists.Store(&lists{fixed: l.fixed.without(h), chosen: l.chosen.without(h)})
	}
}

func (l list) with(h *hot) list {
	l = append(slices.Clone(l), entry{h.interval, h})
	slices.SortFunc(l, func(a, b entry) int { return strings.Compare(a.from, b.from) })
	return l
}

func (l list) without(h *hot) list {
	return slices.DeleteFunc(slices.Clone(l), func(e entry) bool { return e.hot == h })
}
