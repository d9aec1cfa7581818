package feed

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"weir/coalesce"
)

func span(key, end string) coalesce.Range {
	return coalesce.Range{Key: []byte(key), End: []byte(end)}
}

func withPrev(r coalesce.Range) coalesce.Range {
	r.PrevKV = true
	return r
}

func TestPrefixRangeIsAllKeysWithThePrefix(t *testing.T) {
	for _, c := range []struct{ prefix, key, end string }{
		{"", "\x00", "\x00"},
		{"a", "a", "b"},
		{"a/", "a/", "a0"},
		{"a\xff", "a\xff", "b"},
		{"\xff\xff", "\xff\xff", "\x00"},
	} {
		if r := prefixRange(c.prefix); string(r.Key) != c.key || string(r.End) != c.end {
			t.Errorf("prefix %q: range is %q to %q", c.prefix, r.Key, r.End)
		}
	}
}

// TestCatalogFindsAFeedThatContains adds and removes random feeds, and holds what is found against a list of them.
func TestCatalogFindsAFeedThatContains(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		c := newCatalog()
		var there []*feed
		randomRange := func() coalesce.Range {
			k := fmt.Sprintf("%02d", rnd.IntN(30))
			r := span(k, "")
			switch rnd.IntN(5) {
			case 0, 1:
				r = span(k, fmt.Sprintf("%02d", rnd.IntN(31)+30))
			case 2:
				r = span(k, k+"\x01")
			case 3:
				if rnd.IntN(8) == 0 {
					r = span(k, "\x00")
				}
			}
			r.PrevKV = rnd.IntN(3) == 0
			return r
		}
		contains := func(r coalesce.Range) bool {
			return slices.ContainsFunc(there, func(f *feed) bool { return f.span.Contains(r) })
		}
		for range 60 {
			r := randomRange()
			f := c.find(r)
			if (f != nil) != contains(r) {
				t.Fatalf("seed %d: found %v for %v", seed, f, r)
			}
			switch {
			case f != nil && !f.span.Contains(r):
				t.Fatalf("seed %d: found %v for %v", seed, f.span, r)
			case f == nil:
				f = &feed{span: r}
				gone := c.add(f)
				for _, d := range there {
					if f.span.Contains(d.span) != slices.Contains(gone, d) {
						t.Fatalf("seed %d: %v in the place of %v: %v", seed, r, d.span, slices.Contains(gone, d))
					}
				}
				there = append(slices.DeleteFunc(there, func(d *feed) bool { return slices.Contains(gone, d) }), f)
			case rnd.IntN(3) == 0:
				c.remove(f)
				there = slices.DeleteFunc(there, func(d *feed) bool { return d == f })
			}
		}
	}
}

func never(string) bool { return false }

func widerPrefix(c catalog, r coalesce.Range, isBad func(string) bool) string {
	wide, ok := c.wider(r, isBad)
	switch p := string(wide.Key); {
	case !ok:
		return ""
	case !reflect.DeepEqual(wide, coalesce.Range{Key: wide.Key, End: prefixRange(p).End, PrevKV: r.PrevKV}):
		return "not a prefix"
	default:
		return p
	}
}

func TestManyNarrowFeedsBelowOnePrefixBecomeOne(t *testing.T) {
	c := newCatalog()
	for i := range widenFrom - 1 {
		r := span(fmt.Sprintf("/jobs/%d", i), "")
		if p := widerPrefix(c, r, never); p != "" {
			t.Fatalf("widened to %q after %d feeds", p, i)
		}
		c.add(&feed{span: r})
	}
	for _, r := range []coalesce.Range{withPrev(span("/jobs/8", "")), span("/jobs/8", "z"), span("jobs", "")} {
		if p := widerPrefix(c, r, never); p != "" {
			t.Errorf("%v is widened to %q", r, p)
		}
	}
	if p := widerPrefix(c, span("/jobs/8", ""), never); p != "/jobs/" {
		t.Errorf("widened to %q", p)
	}
	bad := func(p string) bool { return p == "/jobs/" }
	if p := widerPrefix(c, span("/jobs/8", ""), bad); p != "" {
		t.Errorf("widened to %q although it has not paid", p)
	}
}

func TestWideningTakesTheLongestPrefix(t *testing.T) {
	c := newCatalog()
	for i := range widenFrom {
		c.add(&feed{span: span(fmt.Sprintf("a%d", i), "")})
		c.add(&feed{span: span(fmt.Sprintf("abc%d", i), "")})
	}
	if p := widerPrefix(c, span("abcx", ""), never); p != "abc" {
		t.Errorf("widened to %q", p)
	}
}

func TestHullContainsTheNeighbours(t *testing.T) {
	c := newCatalog()
	for _, r := range []coalesce.Range{span("b", ""), span("c", "k"), span("d", "x")} {
		c.add(&feed{span: r})
	}
	if r := c.hull(span("a", "")); string(r.Key) != "a" || string(r.End) != "x" {
		t.Errorf("hull is %v", r)
	}
	if r := c.hull(span("z", "\x00")); string(r.Key) != "b" || string(r.End) != "\x00" {
		t.Errorf("hull is %v", r)
	}
	empty := newCatalog()
	if r := empty.hull(span("a", "")); string(r.Key) != "a" || string(r.End) != "a\x00" {
		t.Errorf("hull is %v", r)
	}
}

// TestFeedsStayFew opens feeds for a hundred thousand single keys, in order and at random.
func TestFeedsStayFew(t *testing.T) {
	for _, random := range []bool{false, true} {
		rnd := rand.New(rand.NewPCG(1, 2))
		c, feeds, most := newCatalog(), 0, 0
		for i := range 100_000 {
			if random {
				i = rnd.IntN(100_000)
			}
			r := span(fmt.Sprintf("node-%05d", i), "") // without a separator, which would make it easy
			if c.find(r) != nil {
				continue
			}
			if wide, ok := c.wider(r, never); ok {
				r = wide
			}
			feeds += 1 - len(c.add(&feed{span: r}))
			most = max(most, feeds)
		}
		if most > 6*widenFrom || feeds > 2*widenFrom {
			t.Errorf("random %v: up to %d feeds, in the end %d", random, most, feeds)
		}
	}
}
