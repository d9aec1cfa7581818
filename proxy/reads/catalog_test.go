package reads

import (
	"bytes"
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
)

// someKeys are few, so that ranges of them often touch.
var someKeys = []string{"\x00", "a", "a\x00", "a/", "a/b", "a/b\x00", "a0", "b", "\xff", "\xff\xff"}

// holds tells whether key is in [from, end), by etcd's conventions.
func holds(from, end []byte, key string) bool {
	k := []byte(key)
	switch {
	case len(end) == 0:
		return bytes.Equal(k, from)
	case bytes.Equal(end, []byte{0}):
		return bytes.Compare(k, from) >= 0
	}
	return bytes.Compare(k, from) >= 0 && bytes.Compare(k, end) < 0
}

// someRanges are all that can be made of someKeys.
func someRanges() (all [][2][]byte) {
	for _, from := range someKeys {
		for _, end := range append([]string{""}, someKeys...) {
			all = append(all, [2][]byte{[]byte(from), []byte(end)})
		}
	}
	return all
}

func TestIntervalHasTheKeysOfItsRange(t *testing.T) {
	for _, r := range someRanges() {
		i := intervalOf(r[0], r[1])
		span := i.span()
		for _, key := range someKeys {
			want := holds(r[0], r[1], key)
			if got := holds(span.Key, span.End, key); got != want {
				t.Errorf("[%q, %q) has %q: %v; as an interval %v", r[0], r[1], key, want, got)
			}
			if got := i.contains(intervalOf([]byte(key), nil)); got != want {
				t.Errorf("%q contains %q: %v, want %v", i, key, got, want)
			}
		}
		if single := len(r[1]) == 0 || string(r[1]) == string(r[0])+"\x00"; i.isKey() != single || len(span.End) == 0 != single {
			t.Errorf("[%q, %q) is a single key: %v, want %v", r[0], r[1], i.isKey(), single)
		}
	}
}

func TestPrefixHasAllKeysThatBeginWithIt(t *testing.T) {
	for _, prefix := range append([]string{""}, someKeys...) {
		for _, key := range someKeys {
			want := bytes.HasPrefix([]byte(key), []byte(prefix))
			if got := ofPrefix(prefix).contains(intervalOf([]byte(key), nil)); got != want {
				t.Errorf("prefix %q has %q: %v, want %v", prefix, key, got, want)
			}
		}
	}
}

// Whatever is added and removed, a range is found exactly when one that is there contains it.
func TestCatalogFindsWhatContainsARange(t *testing.T) {
	const seed = 1
	rnd := rand.New(rand.NewPCG(seed, 0))
	ranges := someRanges()
	for round := range 200 {
		var c catalog
		there := map[*hot]bool{}
		for range 12 {
			r := ranges[rnd.IntN(len(ranges))]
			i := intervalOf(r[0], r[1])
			h := &hot{interval: i, span: i.span(), fixed: rnd.IntN(4) == 0}
			nested := func(o *hot) bool { return o.fixed && (o.contains(i) || i.contains(o.interval)) }
			switch {
			case i.to != "" && i.to <= i.from: // there is nothing in it
			case h.fixed && slices.ContainsFunc(keys(there), nested): // Config's prefixes are not
			case h.fixed || c.find(r[0], r[1]) == nil:
				for _, o := range c.add(h) {
					if !there[o] || o.fixed || !i.contains(o.interval) {
						t.Fatalf("round %d: %s replaces %s", round, h, o)
					}
					delete(there, o)
				}
				there[h] = true
			}
			if gone := keys(there); len(gone) > 0 && rnd.IntN(3) == 0 {
				c.remove(gone[0])
				delete(there, gone[0])
			}
			for _, r := range ranges {
				want := slices.ContainsFunc(keys(there), func(h *hot) bool { return h.contains(intervalOf(r[0], r[1])) })
				got := c.find(r[0], r[1])
				if got != nil && (!there[got] || !got.contains(intervalOf(r[0], r[1]))) {
					t.Fatalf("round %d: [%q, %q) is found in %s", round, r[0], r[1], got)
				}
				if i := intervalOf(r[0], r[1]); (got != nil) != want && (i.to == "" || i.from < i.to) {
					t.Fatalf("round %d: [%q, %q) is found: %v, want %v; seed %d", round, r[0], r[1], got != nil, want, seed)
				}
			}
		}
	}
}

// keys are in the order of intervals, so that a seed means the same each time.
func keys(there map[*hot]bool) []*hot {
	var all []*hot
	for h := range there {
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b *hot) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to))
	})
	return all
}

func TestFindTakesNoMemory(t *testing.T) {
	var c catalog
	long := bytes.Repeat([]byte("k"), 100)
	c.add(&hot{interval: ofPrefix(string(long))})
	c.add(&hot{interval: ofPrefix("b/"), fixed: true})
	key := append(slices.Clone(long), "/key"...)
	end := append(slices.Clone(long), "/z"...)
	if n := testing.AllocsPerRun(100, func() {
		if c.find(key, end) == nil || c.find(key, nil) == nil || c.find(key[:2], end) != nil {
			t.Fatal("not found")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func BenchmarkFind(b *testing.B) {
	var c catalog
	for i := range maxHots {
		c.add(&hot{interval: ofPrefix("/registry/" + string(rune('a'+i%26)) + string(rune('a'+i/26)) + "/")})
	}
	key := []byte("/registry/mm/some-key-of-usual-length")
	b.ReportAllocs()
	for b.Loop() {
		c.find(key, nil)
	}
}
