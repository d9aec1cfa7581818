package feed

import (
	"slices"
	"strings"

	"github.com/tidwall/btree"

	"weir/coalesce"
)

// catalog tells which feed serves a range. It has those feeds that are not contained in another, so that of the feeds
// which begin at or before a range only the last can contain it: their ends ascend with their beginnings.
//
// Feeds with previous values are kept apart from those without, since a watcher that wants previous values can only be
// served by the former. Fixed feeds are kept apart from both: they are few, and are never replaced.
//
// It is guarded by Set.mu.
type catalog struct {
	fixed []*feed
	plain *btree.BTreeG[*feed] // by the beginning of the range
	prev  *btree.BTreeG[*feed]
	at    *feed // what is searched for; here to spare allocations
}

func newCatalog() catalog {
	before := func(a, b *feed) bool { return string(a.span.Key) < string(b.span.Key) }
	options := btree.Options{NoLocks: true}
	return catalog{
		plain: btree.NewBTreeGOptions(before, options),
		prev:  btree.NewBTreeGOptions(before, options),
		at:    new(feed),
	}
}

func (c *catalog) tree(prevKV bool) *btree.BTreeG[*feed] {
	if prevKV {
		return c.prev
	}
	return c.plain
}

// find returns a feed that contains r, or nil.
func (c *catalog) find(r coalesce.Range) *feed {
	for _, f := range c.fixed {
		if f.span.Contains(r) {
			return f
		}
	}
	if !r.PrevKV {
		if f := c.findIn(c.plain, r); f != nil {
			return f
		}
	}
	return c.findIn(c.prev, r)
}

func (c *catalog) findIn(tree *btree.BTreeG[*feed], r coalesce.Range) (found *feed) {
	c.at.span = r
	tree.Descend(c.at, func(f *feed) bool {
		if f.span.Contains(r) {
			found = f
		}
		return false
	})
	return found
}

// add adds f, which no feed there contains, and takes out and returns those that f contains.
func (c *catalog) add(f *feed) (contained []*feed) {
	trees := []*btree.BTreeG[*feed]{c.plain}
	if f.span.PrevKV {
		trees = append(trees, c.prev)
	}
	for _, tree := range trees {
		from := len(contained)
		tree.Ascend(f, func(d *feed) bool {
			in := f.span.Contains(d.span)
			if in {
				contained = append(contained, d)
			}
			return in
		})
		for _, d := range contained[from:] {
			tree.Delete(d)
		}
	}
	c.tree(f.span.PrevKV).Set(f)
	return contained
}

// remove takes f out, if it is there.
func (c *catalog) remove(f *feed) {
	tree := c.tree(f.span.PrevKV)
	if there, ok := tree.Get(f); ok && there == f {
		tree.Delete(f)
	}
}

// replaceFixed puts another feed of the same range in the place of a fixed one.
func (c *catalog) replaceFixed(old, f *feed) { c.fixed[slices.Index(c.fixed, old)] = f }

// widenFrom is how many feeds below one prefix become a single one. An upstream watch is cheap for etcd until there are
// many; the events of a wide range that nobody wants are not.
const widenFrom = 8

// wider returns the range over which a feed is to be opened instead of one over r, if there are enough feeds near r. It
// is that of the longest prefix that makes one feed of widenFrom, cut back to a separator so that the next ones are
// likely to be below it too, and of none that isBad.
//
// The feeds that have the longest prefix in common with r are its neighbours in the order of keys, so that only
// these have to be looked at. Because each level of prefixes has at most widenFrom-1 feeds left, their number
// grows with the length of the keys, not with the number of watches.
func (c *catalog) wider(r coalesce.Range, isBad func(prefix string) bool) (wide coalesce.Range, ok bool) {
	near := c.near(r)
	best := ""
	for i := 0; i+widenFrom <= len(near); i++ {
		if p := commonPrefix(near[i : i+widenFrom]); len(p) > len(best) {
			best = p
		}
	}
	if at := strings.LastIndexByte(best, '/'); at > 0 && !isBad(best[:at+1]) {
		best = best[:at+1]
	} else if best == "" || isBad(best) {
		return coalesce.Range{}, false
	}
	wide = prefixRange(best)
	wide.PrevKV = r.PrevKV
	return wide, true
}

// hull returns the smallest range that contains r and its neighbours, whatever they have in common. It is for when
// there are too many feeds: a client can ask for any number of ranges that no prefix holds.
func (c *catalog) hull(r coalesce.Range) coalesce.Range {
	near := c.near(r)
	wide := near[0]
	wide.PrevKV = r.PrevKV
	for _, n := range near {
		end := n.End
		if len(end) == 0 {
			end = append(slices.Clone(n.Key), 0)
		}
		if isNoEnd(end) || !isNoEnd(wide.End) && string(end) > string(wide.End) {
			wide.End = end
		}
	}
	return wide
}

func isNoEnd(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// near returns r among its neighbours, at most widenFrom-1 on each side, sorted.
func (c *catalog) near(r coalesce.Range) []coalesce.Range {
	tree, at := c.tree(r.PrevKV), &feed{span: r}
	var near []coalesce.Range
	tree.Descend(at, func(f *feed) bool {
		near = append(near, f.span)
		return len(near) < widenFrom-1
	})
	slices.Reverse(near)
	near = append(near, r)
	after := 0
	tree.Ascend(at, func(f *feed) bool {
		if string(f.span.Key) != string(r.Key) { // that one is before r already
			near = append(near, f.span)
			after++
		}
		return after < widenFrom-1
	})
	return near
}

// commonPrefix is the longest prefix of which all ranges, which are sorted by their beginnings, are part; "" if
// there is none.
func commonPrefix(ranges []coalesce.Range) string {
	first, last := ranges[0].Key, ranges[len(ranges)-1].Key
	n := 0
	for n < min(len(first), len(last)) && first[n] == last[n] {
		n++
	}
	for ; n > 0; n-- {
		whole := prefixRange(string(first[:n]))
		outside := func(r coalesce.Range) bool { return !whole.Contains(coalesce.Range{Key: r.Key, End: r.End}) }
		if !slices.ContainsFunc(ranges, outside) {
			break
		}
	}
	return string(first[:n])
}

// prefixRange is all keys that begin with prefix.
func prefixRange(prefix string) coalesce.Range {
	if prefix == "" {
		return coalesce.Range{Key: []byte{0}, End: []byte{0}}
	}
	end := []byte(prefix)
	for n := len(end); n > 0; n-- {
		if end[n-1]++; end[n-1] != 0 {
			return coalesce.Range{Key: []byte(prefix), End: end[:n]}
		}
	}
	return coalesce.Range{Key: []byte(prefix), End: []byte{0}} // nothing is behind it
}
