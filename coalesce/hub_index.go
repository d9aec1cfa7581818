package coalesce

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"weir/grpcapi/wire"
)

// options are what, besides its range, decides which events a watcher is sent and how they are encoded.
type options struct {
	noPut, noDelete, prevKV bool
}

func (o options) skips(e *wire.Event) bool {
	if e.Delete {
		return o.noDelete
	}
	return o.noPut
}

// group is all watchers that want the same: the same range with the same options. Matching an event and encoding it
// are done once a group, whatever the number of its watchers.
type group struct {
	key, end string // end as in etcd's requests: "" is the single key, noEnd is none
	options  options
	live     int32 // the first so many members are live: the broadcaster serves them
	feed     *Feed
	sibling  *group // the next group of the same range, with other options
	members  []*Watcher
	swaps    int32 // since the live members were sorted

	// Of the goroutine that matches events with the index: deliveries[slot] of the broadcaster is this group's if
	// turn is the broadcaster's turn; parts[slot] of a resyncer, in whose own index turn is 1, is its first.
	turn uint64
	slot int32

	place int32 // where it is in index.all
}

// add makes w a member that is not live.
func (g *group) add(w *Watcher) {
	w.slot = int32(len(g.members))
	g.members = append(g.members, w)
}

// remove takes out a member that is not live.
func (g *group) remove(w *Watcher) {
	last := len(g.members) - 1
	g.swap(w.slot, int32(last))
	g.members[last] = nil
	g.members = g.members[:last]
}

// join makes a member live.
func (g *group) join(w *Watcher) {
	g.swap(w.slot, g.live)
	g.live++
}

// leave undoes join.
func (g *group) leave(w *Watcher) {
	g.live--
	g.swap(w.slot, g.live)
}

// sortLive puts the live members of one stream beside each other, if enough have come and gone to be worth it: what a
// stream takes of memory and locks is then used while it is in the processor's caches.
func (g *group) sortLive() {
	if g.swaps <= g.live/8 {
		return
	}
	g.swaps = 0
	live := g.members[:g.live]
	slices.SortFunc(live, func(a, b *Watcher) int { return cmp.Compare(a.stream.place, b.stream.place) })
	for i, w := range live {
		w.slot = int32(i)
	}
}

func (g *group) swap(i, j int32) {
	g.swaps++
	m := g.members
	m[i], m[j] = m[j], m[i]
	m[i].slot, m[j].slot = i, j
}

// index finds the groups that want a key. Single keys, the most of them, are in a hash map: their number does not
// matter. Ranges are in a tree, where a lookup costs O(log n) for each range that it finds.
type index struct {
	keys   map[string]*group // nil until there is one
	ranges rangeTree
	heads  int      // different ranges
	all    []*group // in no order
}

// group returns the group of a range and options. It is made if there is none.
func (x *index) group(key, end []byte, o options) *group {
	head := x.head(key, end)
	for g := head; g != nil; g = g.sibling {
		if g.options == o {
			return g
		}
	}
	g := &group{key: string(key), end: string(end), options: o, sibling: head}
	g.place = int32(len(x.all))
	x.all = append(x.all, g)
	x.setHead(g, g)
	if head == nil {
		x.heads++
	}
	return g
}

// remove takes out a group that has no watchers.
func (x *index) remove(g *group) {
	last := len(x.all) - 1
	moved := x.all[last]
	x.all[g.place], moved.place = moved, g.place
	x.all[last] = nil
	x.all = x.all[:last]

	head := x.head([]byte(g.key), []byte(g.end))
	if head == g {
		x.setHead(g, g.sibling)
		if g.sibling == nil {
			x.heads--
		}
		return
	}
	for head.sibling != g {
		head = head.sibling
	}
	head.sibling = g.sibling
}

func (x *index) head(key, end []byte) *group {
	if len(end) == 0 {
		return x.keys[string(key)]
	}
	if n := x.ranges.find(string(key), string(end)); n != nil {
		return n.groups
	}
	return nil
}

// setHead makes head the first group of g's range.
func (x *index) setHead(g, head *group) {
	switch {
	case g.end == "" && head == nil:
		delete(x.keys, g.key)
	case g.end == "":
		if x.keys == nil {
			x.keys = map[string]*group{}
		}
		x.keys[g.key] = head
	case head == nil:
		x.ranges.remove(g.key, g.end)
	default:
		x.ranges.insert(g.key, g.end).groups = head
	}
}

// match appends the groups whose range holds the event's key and that do not filter the event out.
func (x *index) match(e *wire.Event, dst []*group) []*group {
	dst = appendMatching(dst, x.keys[string(e.Key)], e)
	return x.ranges.root.match(e, dst)
}

func appendMatching(dst []*group, g *group, e *wire.Event) []*group {
	for ; g != nil; g = g.sibling {
		if !g.options.skips(e) {
			dst = append(dst, g)
		}
	}
	return dst
}

// rangeTree is an interval tree: a search tree by (key, end) whose nodes know the greatest end below them, so that
// a lookup turns away from subtrees which end before the key. It is balanced as a treap, by random priorities: that
// takes two short recursive functions, where a red-black tree with the same bookkeeping takes hundreds of lines.
// A trie of prefixes would be faster for prefixes, but clients may watch any range.
type rangeTree struct{ root *rangeNode }

type rangeNode struct {
	key, end    string
	maxEnd      string // the greatest end in this subtree
	priority    uint32 // not above the parent's
	left, right *rangeNode
	groups      *group
}

// endsAfter tells whether a range that ends at end holds something after s.
func endsAfter(end, s string) bool { return end == noEnd || end > s }

func laterEnd(a, b string) string {
	if a == noEnd || b != noEnd && a > b {
		return a
	}
	return b
}

// compare orders by key, then by end as a string; any fixed order will do for equal keys.
func (n *rangeNode) compare(key, end string) int {
	switch {
	case key < n.key || key == n.key && end < n.end:
		return -1
	case key == n.key && end == n.end:
		return 0
	}
	return 1
}

func (n *rangeNode) update() *rangeNode {
	n.maxEnd = n.end
	if n.left != nil {
		n.maxEnd = laterEnd(n.maxEnd, n.left.maxEnd)
	}
	if n.right != nil {
		n.maxEnd = laterEnd(n.maxEnd, n.right.maxEnd)
	}
	return n
}

func (t *rangeTree) find(key, end string) *rangeNode {
	n := t.root
	for n != nil {
		switch n.compare(key, end) {
		case 0:
			return n
		case -1:
			n = n.left
		default:
			n = n.right
		}
	}
	return nil
}

// insert returns the node of a range, new if there was none.
func (t *rangeTree) insert(key, end string) *rangeNode {
	if n := t.find(key, end); n != nil {
		return n
	}
	n := &rangeNode{key: key, end: end, priority: rand.Uint32()}
	below, above := t.root.split(key, end)
	t.root = merge(merge(below, n.update()), above)
	return n
}

func (t *rangeTree) remove(key, end string) { t.root = t.root.without(key, end) }

// split divides a subtree into the nodes before (key, end) and those after. That range itself is not in it.
func (n *rangeNode) split(key, end string) (before, after *rangeNode) {
	if n == nil {
		return nil, nil
	}
	if n.compare(key, end) < 0 {
		before, n.left = n.left.split(key, end)
		return before, n.update()
	}
	n.right, after = n.right.split(key, end)
	return n.update(), after
}

// merge joins two subtrees, of which a is before b.
func merge(a, b *rangeNode) *rangeNode {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.priority >= b.priority:
		a.right = merge(a.right, b)
		return a.update()
	}
	b.left = merge(a, b.left)
	return b.update()
}

func (n *rangeNode) without(key, end string) *rangeNode {
	switch n.compare(key, end) {
	case 0:
		return merge(n.left, n.right)
	case -1:
		n.left = n.left.without(key, end)
	default:
		n.right = n.right.without(key, end)
	}
	return n.update()
}

func (n *rangeNode) match(e *wire.Event, dst []*group) []*group {
	for n != nil && endsAfter(n.maxEnd, string(e.Key)) {
		dst = n.left.match(e, dst)
		if string(e.Key) < n.key {
			break // all to the right begin later still
		}
		if endsAfter(n.end, string(e.Key)) {
			dst = appendMatching(dst, n.groups, e)
		}
		n = n.right
	}
	return dst
}
