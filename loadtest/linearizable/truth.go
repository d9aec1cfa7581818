package linearizable

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Truth is what has happened in the store: every version of every key. It is told once, by one goroutine, and then read.
type Truth struct {
	newest   int64
	keys     []string // in order
	versions map[string][]KV
	written  map[string][]int64 // by value: the revisions in which it was put
	changed  map[int64][]string // by revision: the keys that it changed
}

// NewTruth is of an empty store.
func NewTruth() *Truth {
	return &Truth{versions: map[string][]KV{}, written: map[string][]int64{}, changed: map[int64][]string{}}
}

// Add is told each event, in order of revisions. A deletion has no version.
func (t *Truth) Add(kv KV) {
	if _, known := t.versions[kv.Key]; !known {
		i, _ := slices.BinarySearch(t.keys, kv.Key)
		t.keys = slices.Insert(t.keys, i, kv.Key)
	}
	t.versions[kv.Key] = append(t.versions[kv.Key], kv)
	t.changed[kv.Mod] = append(t.changed[kv.Mod], kv.Key)
	if kv.Version > 0 {
		t.written[kv.Value] = append(t.written[kv.Value], kv.Mod)
	}
	t.newest = max(t.newest, kv.Mod)
}

// Newest is the newest revision that changed something.
func (t *Truth) Newest() int64 { return t.newest }

// At is what there was in [key, end) at a revision, in order of keys.
func (t *Truth) At(rev int64, key, end string) []KV {
	var kvs []KV
	first, _ := slices.BinarySearch(t.keys, key)
	for _, k := range t.keys[first:] {
		if !holds(key, end, k) {
			break
		}
		all := t.versions[k]
		later := sort.Search(len(all), func(i int) bool { return all[i].Mod > rev })
		if later > 0 && all[later-1].Version > 0 {
			kvs = append(kvs, all[later-1])
		}
	}
	return kvs
}

// fits says how an answered request differs from the store as it was at the revision of the answer's header; "" if it does not.
func (t *Truth) fits(o *Op) string {
	if o.changed() {
		return t.fitsWrite(o)
	}
	if want := t.compare(o.Compare, o.Revision); o.Succeeded != want {
		return fmt.Sprintf("compare was %t at revision %d", want, o.Revision)
	}
	return t.fitsSteps(o, o.Revision)
}

// fitsWrite is fits for a request that has made a revision.
func (t *Truth) fitsWrite(o *Op) string {
	if want := t.compare(o.Compare, o.Revision-1); o.Succeeded != want {
		return fmt.Sprintf("compare was %t before revision %d", want, o.Revision)
	}
	var expected []string
	for _, s := range o.branch() {
		switch s.Kind {
		case Put:
			if revs := t.written[s.Value]; len(revs) != 1 || revs[0] != o.Revision {
				return fmt.Sprintf("%s was put at revisions %v", s.Key, revs)
			}
			expected = append(expected, s.Key)
		case DeleteRange:
			for _, kv := range t.At(o.Revision-1, s.Key, s.End) {
				expected = append(expected, kv.Key)
			}
		}
	}
	got := slices.Clone(t.changed[o.Revision])
	slices.Sort(got)
	slices.Sort(expected)
	if !slices.Equal(got, expected) {
		return fmt.Sprintf("revision %d changed %v, not %v", o.Revision, got, expected)
	}
	return t.fitsSteps(o, o.Revision-1)
}

// fitsSteps compares the results. before is the revision in which the request was done: what it deletes is of then, and
// what it reads is of the header's revision, as no request here reads before it writes.
func (t *Truth) fitsSteps(o *Op, before int64) string {
	steps := o.branch()
	if len(o.Results) != len(steps) {
		return fmt.Sprintf("%d results of %d operations", len(o.Results), len(steps))
	}
	for i, s := range steps {
		var want Result
		switch s.Kind {
		case DeleteRange:
			want.Deleted = int64(len(t.At(before, s.Key, s.End)))
		case Range:
			rev := o.Revision
			if s.Read.Revision != 0 {
				rev = s.Read.Revision
			}
			want = s.Read.of(t.At(rev, s.Key, s.End))
		}
		if got := o.Results[i]; !slices.Equal(got.KVs, want.KVs) || got.Count != want.Count || got.More != want.More || got.Deleted != want.Deleted {
			return fmt.Sprintf("%v is not what was there: %v", s, want)
		}
	}
	return ""
}

func (t *Truth) compare(c Compare, rev int64) bool {
	if c.Key == "" {
		return true
	}
	var value string
	if kvs := t.At(rev, c.Key, ""); len(kvs) > 0 {
		value = kvs[0].Value
	}
	return value == c.Value
}

// describe is what happened to some keys.
func (t *Truth) describe(keys []string) string {
	var all []KV
	for _, k := range keys {
		all = append(all, t.versions[k]...)
	}
	slices.SortStableFunc(all, func(a, b KV) int { return cmp.Compare(a.Mod, b.Mod) })
	var b strings.Builder
	for _, kv := range all {
		fmt.Fprintf(&b, "%d: %s=%q version %d\n", kv.Mod, kv.Key, kv.Value, kv.Version)
	}
	return b.String()
}
