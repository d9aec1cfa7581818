package cache

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"weir/grpcapi/wire"
)

var seed = flag.Uint64("seed", 1, "first seed of the random tests")

// forSeeds runs a random test with n seeds. The name of the one that fails has the seed.
func forSeeds(t *testing.T, n int, run func(t *testing.T, rnd *rand.Rand)) {
	for i := range uint64(n) {
		ok := t.Run(fmt.Sprintf("seed=%d", *seed+i), func(t *testing.T) { run(t, rand.New(rand.NewPCG(*seed+i, 1))) })
		if !ok {
			return
		}
	}
}

// checkTree holds a tree against the contents that it ought to have, and looks for what would break later edits.
func checkTree(t *testing.T, tr tree, want map[string]encoded) {
	t.Helper()
	bytes := 0
	for _, kv := range want {
		bytes += kv.size()
	}
	var all []encoded
	var walk func(k kid, low, high string, root bool) (height int)
	walk = func(k kid, low, high string, root bool) (height int) {
		bytes += k.size()
		if spare := allocated(kidBytes*cap(k.kids)) - allocated(kidBytes*len(k.kids)); spare != 0 {
			t.Fatalf("node of %d children has room for %d", len(k.kids), cap(k.kids))
		}
		if spare := allocated(entryBytes*cap(k.kvs)) - allocated(entryBytes*len(k.kvs)); spare != 0 {
			t.Fatalf("leaf of %d keys has room for %d", len(k.kvs), cap(k.kvs))
		}
		if k.leaf() {
			if len(k.kvs) != k.keys || k.keys > maxLeaf || k.keys == 0 && !root {
				t.Fatalf("leaf of %d keys, %d of them counted", len(k.kvs), k.keys)
			}
			for _, kv := range k.kvs {
				if kv.key() < low || high != "" && kv.key() >= high {
					t.Fatalf("key %q in a leaf from %q to %q", kv.key(), low, high)
				}
			}
			all = append(all, k.kvs...)
			return 0
		}
		if len(k.kids) > maxKids || len(k.kids) == 0 || root && len(k.kids) == 1 {
			t.Fatalf("inner node of %d children", len(k.kids))
		}
		keys := 0
		for i, c := range k.kids {
			keys += c.keys
			from, to := low, high
			if i > 0 {
				from = c.low
			}
			if i+1 < len(k.kids) {
				to = k.kids[i+1].low
			}
			h := walk(c, from, to, false) + 1
			if i > 0 && h != height {
				t.Fatalf("children of heights %d and %d", height, h)
			}
			height = h
		}
		if keys != k.keys {
			t.Fatalf("%d keys below a node, %d counted", keys, k.keys)
		}
		return height
	}
	walk(kid{node: tr.root, keys: tr.keys}, "", "", true)
	if tr.bytes != bytes {
		t.Fatalf("%d bytes, %d counted", bytes, tr.bytes)
	}
	keys := slices.Sorted(maps.Keys(want))
	if len(keys) != len(all) {
		t.Fatalf("%d keys, want %d", len(all), len(keys))
	}
	for i, key := range keys {
		if all[i] != want[key] {
			t.Fatalf("number %d is %q, want %q", i, all[i].key(), key)
		}
	}
}

// randomKey returns one of about n keys, which are prefixes of each other and of all lengths.
func randomKey(rnd *rand.Rand, n int) string {
	i := rnd.IntN(n)
	key := fmt.Sprintf("%c/%d", 'a'+i%3, i)
	switch i % 10 {
	case 0:
		return key + strings.Repeat("\xff", i%200)
	case 1:
		return key + "\x00"
	}
	return key
}

func testKV(key string, value int) encoded {
	kv := wire.KeyValue{Key: []byte(key), Value: fmt.Append(nil, value), CreateRevision: 1, ModRevision: 1, Version: 1}
	return encoded(kv.Append(nil))
}

func TestTreeIsWhatItsEditsMakeOfIt(t *testing.T) {
	forSeeds(t, 20, func(t *testing.T, rnd *rand.Rand) {
		space := 1 + rnd.IntN(5000)
		deletes := rnd.IntN(3) // of four
		var e edit
		tr, want := e.tree(nil), map[string]encoded{}
		type past struct {
			tree tree
			want map[string]encoded
		}
		var history []past
		for step := range 60 {
			if step == 40 {
				deletes = 3
			}
			edits := map[string]encoded{}
			for range 1 + rnd.IntN([]int{1, 10, 400}[rnd.IntN(3)]) {
				key := randomKey(rnd, space)
				if edits[key] = ""; rnd.IntN(4) >= deletes {
					edits[key] = testKV(key, rnd.IntN(1_000_000))
				}
			}
			if rnd.IntN(20) == 0 { // a deletion of a range
				for key := range want {
					if strings.HasPrefix(key, "b") {
						edits[key] = ""
					}
				}
			}
			var changes []change
			next := maps.Clone(want)
			for _, key := range slices.Sorted(maps.Keys(edits)) {
				changes = append(changes, change{key: key, kv: edits[key]})
				next[key] = edits[key]
				if edits[key] == "" {
					delete(next, key)
				}
			}
			history = append(history, past{tr, want})
			tr, _ = tr.edit(changes)
			want = next
			checkTree(t, tr, want)
		}
		for _, p := range history {
			checkTree(t, p.tree, p.want)
		}
	})
}

func TestDeletionsLeaveFewSmallNodes(t *testing.T) {
	const keys = 10_000
	tr := loadBench(t, keys, 0).state.Load().newest().tree
	for _, i := range rand.New(rand.NewPCG(*seed, 1)).Perm(keys)[keys/20:] {
		tr, _ = tr.edit([]change{{key: string(benchKey(i))}})
	}
	leaves, small := 0, 0
	var walk func(n *node)
	walk = func(n *node) {
		if n.leaf() {
			leaves++
			if n.small() {
				small++
			}
		}
		for _, k := range n.kids {
			walk(k.node)
		}
	}
	walk(tr.root)
	if tr.keys != keys/20 || leaves > tr.keys/minLeaf || small > leaves/10 {
		t.Errorf("%d keys in %d leaves, %d of them small", tr.keys, leaves, small)
	}
}

func TestReplacedIsWhatATreeDoesNotShareWithTheNext(t *testing.T) {
	s := loadBench(t, 10_000, 0)
	before := s.state.Load().newest().tree
	kv := encoded(benchKV(benchKey(5000), 1, 256))
	after, replaced := before.edit([]change{{key: kv.key(), kv: kv}})
	nodes := map[*node]bool{}
	var walk func(n *node)
	walk = func(n *node) {
		nodes[n] = true
		for _, k := range n.kids {
			walk(k.node)
		}
	}
	walk(after.root)
	want := kv.size()
	for n := before.root; ; n = n.kids[n.route(kv.key())].node {
		if nodes[n] {
			t.Fatal("a node above the change is shared")
		}
		if want += n.size(); n.leaf() {
			break
		}
	}
	if replaced != want || after.bytes != before.bytes {
		t.Errorf("%d bytes replaced, want %d; %d bytes after, %d before", replaced, want, after.bytes, before.bytes)
	}
}

func TestBetweenSeparates(t *testing.T) {
	for _, c := range []struct{ left, right, want string }{
		{"a", "b", "b"},
		{"abc1", "abd2", "abd"},
		{"a", "a\x00", "a\x00"},
		{"", "xyz", "x"},
	} {
		if got := between(c.left, c.right); got != c.want {
			t.Errorf("between %q and %q: %q, want %q", c.left, c.right, got, c.want)
		}
	}
}

func TestKeyOfAnyLengthIsFound(t *testing.T) {
	for _, n := range []int{1, 127, 128, 300, 1 << 14, 1 << 21} {
		key := bytes.Repeat([]byte{'k'}, n)
		kv, err := encode((&wire.KeyValue{Key: key, ModRevision: 3}).Append(nil))
		if err != nil || kv.key() != string(key) {
			t.Errorf("key of %d bytes: got %d, error %v", n, len(kv.key()), err)
		}
	}
}
