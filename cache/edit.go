package cache

import (
	"slices"
	"strings"
)

// edit makes a tree out of another by the changes of one revision. Each node above a change is written once, whatever
// the number of changes, because all changes go down the tree together.
type edit struct {
	made     int // bytes that the new tree has and the old one has not
	replaced int // and the other way round
}

// edit returns t with changes, which are sorted by key and have no key twice, and how many bytes of t the new tree does
// not share.
func (t tree) edit(changes []change) (next tree, replaced int) {
	var e edit
	next = e.tree(e.apply(nil, kid{node: t.root, keys: t.keys}, changes))
	next.bytes = t.bytes + e.made - e.replaced
	return next, e.replaced
}

// tree puts inner nodes above kids until there is one root.
func (e *edit) tree(kids []kid) tree {
	if len(kids) == 0 {
		kids = append(kids, e.kid("", &node{}))
	}
	for len(kids) > 1 {
		kids = e.inners(nil, "", kids)
	}
	root := kids[0]
	for len(root.kids) == 1 {
		e.drop(root.node)
		root = root.kids[0]
	}
	return tree{root: root.node, keys: root.keys, bytes: e.made}
}

// apply appends to dst what k becomes: nothing if its last key is deleted, several nodes if it gets too large.
func (e *edit) apply(dst []kid, k kid, changes []change) []kid {
	e.drop(k.node)
	if k.leaf() {
		var room [2 * maxLeaf]encoded // on the stack
		return e.leaves(dst, k.low, e.merge(room[:0], k.kvs, changes))
	}
	kids := make([]kid, 0, len(k.kids))
	done, small := 0, false
	for len(changes) > 0 {
		at := k.route(changes[0].key)
		n := k.until(at, changes)
		kids = append(kids, k.kids[done:at]...)
		kids = e.apply(kids, k.kids[at], changes[:n])
		small = small || len(kids) > 0 && kids[len(kids)-1].small()
		changes, done = changes[n:], at+1
	}
	kids = append(kids, k.kids[done:]...)
	if small {
		kids = e.mend(kids)
	}
	return e.inners(dst, k.low, kids)
}

// until returns how many of changes, the first of which belongs to kid at, belong to it.
func (n *node) until(at int, changes []change) int {
	if at+1 == len(n.kids) {
		return len(changes)
	}
	i, _ := slices.BinarySearchFunc(changes, n.kids[at+1].low, func(c change, low string) int {
		return strings.Compare(c.key, low)
	})
	return i
}

// merge appends kvs with changes to dst.
func (e *edit) merge(dst, kvs []encoded, changes []change) []encoded {
	for _, c := range changes {
		i, found := search(kvs, c.key)
		dst = append(dst, kvs[:i]...)
		kvs = kvs[i:]
		if found {
			e.replaced += kvs[0].size()
			kvs = kvs[1:]
		}
		if c.kv != "" {
			e.made += c.kv.size()
			dst = append(dst, c.kv)
		}
	}
	return append(dst, kvs...)
}

// mend joins the small ones of siblings with a neighbour, and divides what is too large then. It changes kids.
//
// What a join takes apart may be of this edit, and is counted as replaced all the same: the window of past states
// is then a little smaller than it looks, until these are gone.
func (e *edit) mend(kids []kid) []kid {
	for i := 0; i < len(kids) && len(kids) > 1; {
		if !kids[i].small() {
			i++
			continue
		}
		if i > 0 {
			i--
		}
		left, right := kids[i], kids[i+1]
		e.drop(left.node)
		e.drop(right.node)
		var joined []kid
		if left.leaf() {
			joined = e.leaves(nil, left.low, slices.Concat(left.kvs, right.kvs))
		} else {
			all := slices.Concat(left.kids, right.kids)
			all[len(left.kids)].low = right.low
			joined = e.inners(nil, left.low, all)
		}
		kids = slices.Replace(kids, i, i+2, joined...)
	}
	return kids
}

// leaves appends to dst as many leaves as kvs need. It copies kvs. low is the low of the first.
func (e *edit) leaves(dst []kid, low string, kvs []encoded) []kid {
	parts := (len(kvs) + maxLeaf - 1) / maxLeaf
	for i := range parts {
		from, to := len(kvs)*i/parts, len(kvs)*(i+1)/parts
		if i > 0 {
			low = between(kvs[from-1].key(), kvs[from].key())
		}
		dst = append(dst, e.kid(low, &node{kvs: slices.Clone(kvs[from:to])}))
	}
	return dst
}

// inners appends to dst as many inner nodes as kids need. It keeps kids if they fit one node exactly. low is the low of
// the first.
func (e *edit) inners(dst []kid, low string, kids []kid) []kid {
	parts := (len(kids) + maxKids - 1) / maxKids
	for i := range parts {
		from, to := len(kids)*i/parts, len(kids)*(i+1)/parts
		if i > 0 {
			low = kids[from].low
		}
		part := kids[from:to]
		if len(part) < cap(kids) {
			part = slices.Clone(part)
		}
		dst = append(dst, e.kid(low, &node{kids: part}))
	}
	return dst
}

// kid makes n, which is new, a child.
func (e *edit) kid(low string, n *node) kid {
	e.made += n.size()
	keys := len(n.kvs)
	for i := range n.kids {
		keys += n.kids[i].keys
	}
	return kid{node: n, low: low, keys: keys}
}

// drop says that the new tree does not have n.
func (e *edit) drop(n *node) { e.replaced += n.size() }

// between returns the shortest string that is after left and not after right, in memory of its own: as a slice of
// a key it would keep the whole KeyValue in memory.
func between(left, right string) string {
	n := 0
	for n < len(left) && left[n] == right[n] {
		n++
	}
	return strings.Clone(right[:n+1])
}
