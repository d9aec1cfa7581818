package coalesce

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"weir/grpcapi/wire"
)

// TestIndexFindsWhatALoopOverAllGroupsFinds adds and removes random groups.
func TestIndexFindsWhatALoopOverAllGroupsFinds(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		var x index
		groups := map[*group]bool{}
		some := func() string { return fmt.Sprintf("%02x", rnd.IntN(40)) }
		for range 300 {
			if rnd.IntN(3) > 0 {
				end := []string{"", "\x00", some(), some()}[rnd.IntN(4)]
				o := options{noPut: rnd.IntN(4) == 0, noDelete: rnd.IntN(4) == 0, prevKV: rnd.IntN(4) == 0}
				key := some()
				g := x.group([]byte(key), []byte(end), o)
				if g.key != key || g.end != end || g.options != o || g != x.group([]byte(key), []byte(end), o) {
					t.Fatalf("seed %d: wrong group %+v", seed, g)
				}
				groups[g] = true
			} else {
				for g := range groups {
					x.remove(g)
					delete(groups, g)
					break
				}
			}
			checkTree(t, x.ranges.root)
			e := &wire.Event{Key: []byte(some()), Delete: rnd.IntN(2) == 0}
			got := x.match(e, nil)
			want := 0
			for g := range groups {
				if (Range{Key: []byte(g.key), End: []byte(g.end)}).Contains(Range{Key: e.Key}) && !g.options.skips(e) {
					want++
					if !slices.Contains(got, g) {
						t.Fatalf("seed %d: [%q, %q) is not found for %q", seed, g.key, g.end, e.Key)
					}
				}
			}
			if len(got) != want {
				t.Fatalf("seed %d: found %d groups for %q, want %d", seed, len(got), e.Key, want)
			}
		}
	}
}

// checkTree fails if the order, the priorities or the greatest ends of a subtree are wrong.
func checkTree(t *testing.T, n *rangeNode) (maxEnd string) {
	if n == nil {
		return ""
	}
	for _, c := range []*rangeNode{n.left, n.right} {
		if c != nil && c.priority > n.priority {
			t.Fatal("a node is above one of higher priority")
		}
	}
	if n.left != nil && n.compare(n.left.key, n.left.end) != -1 || n.right != nil && n.compare(n.right.key, n.right.end) != 1 {
		t.Fatal("nodes are out of order")
	}
	maxEnd = laterEnd(n.end, laterEnd(checkTree(t, n.left), checkTree(t, n.right)))
	if n.maxEnd != maxEnd {
		t.Fatalf("the greatest end is %q, want %q", n.maxEnd, maxEnd)
	}
	return maxEnd
}
