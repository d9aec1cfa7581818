package auth

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// interval is a permission, or what is asked for, as in a request.
type interval struct{ key, end []byte }

// bounds makes "from on, below to" of it; to is nil for no bound.
func (iv interval) bounds() (from, to []byte) {
	switch {
	case len(iv.end) == 0 || !isOpen(iv.end) && bytes.Compare(iv.end, iv.key) <= 0:
		return iv.key, slices.Concat(iv.key, []byte{0})
	case isOpen(iv.end):
		return iv.key, nil
	}
	return iv.key, iv.end
}

// modelContains cuts what is asked for at every bound of a permission, and looks for a permission for each piece.
func modelContains(permissions []interval, asked interval) bool {
	from, to := asked.bounds()
	cuts := [][]byte{from}
	for _, p := range permissions {
		pFrom, pTo := p.bounds()
		for _, cut := range [2][]byte{pFrom, pTo} {
			if bytes.Compare(cut, from) > 0 && (to == nil || bytes.Compare(cut, to) < 0) {
				cuts = append(cuts, cut)
			}
		}
	}
	slices.SortFunc(cuts, bytes.Compare)
	for i, cut := range cuts {
		end := to
		if i+1 < len(cuts) {
			end = cuts[i+1]
		}
		if !slices.ContainsFunc(permissions, func(p interval) bool {
			pFrom, pTo := p.bounds()
			return bytes.Compare(pFrom, cut) <= 0 && (pTo == nil || end != nil && bytes.Compare(end, pTo) <= 0)
		}) {
			return false
		}
	}
	return true
}

func TestKeySetMatchesTheIntervalModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	key := func() []byte {
		k := make([]byte, 1+rng.IntN(3))
		for i := range k {
			k[i] = []byte{0, 1, 'a', 0xff}[rng.IntN(4)]
		}
		return k
	}
	random := func() interval {
		switch rng.IntN(4) {
		case 0:
			return interval{key(), nil}
		case 1:
			return interval{key(), []byte{0}}
		}
		return interval{key(), key()}
	}
	yes := 0
	for range 3000 {
		var permissions []interval
		var spans []span
		for range rng.IntN(8) {
			p := random()
			if isOpen(p.end) && rng.IntN(4) > 0 {
				continue // else there is one nearly always
			}
			if s, ok := permissionSpan(p.key, p.end); ok {
				permissions, spans = append(permissions, p), append(spans, s)
			}
		}
		set := newKeySet(spans)
		for range 20 {
			asked := random()
			want := modelContains(permissions, asked)
			if got := set.contains(asked.key, asked.end); got != want {
				t.Fatalf("permissions %q: %q is %v, not %v; the set is %q", permissions, asked, got, want, set)
			}
			if want {
				yes++
			}
		}
	}
	if yes < 1000 {
		t.Errorf("only %d were permitted", yes)
	}
}

func TestKeySetMergesWhatOverlapsOrTouches(t *testing.T) {
	set := newKeySet([]span{{[]byte("x"), nil}, {[]byte("b"), []byte("c")}, {[]byte("a"), []byte("b")}, {[]byte("y"), []byte("z")}, {[]byte("d"), []byte("e")}})
	if len(set) != 3 {
		t.Errorf("got %q", set)
	}
}

func TestPermissionsOnNothingAreNone(t *testing.T) {
	for _, p := range []interval{{nil, nil}, {nil, []byte("a")}, {nil, []byte{0}}, {[]byte("b"), []byte("b")}, {[]byte("b"), []byte("a")}} {
		if s, ok := permissionSpan(p.key, p.end); ok {
			t.Errorf("%q is %q", p, s)
		}
	}
}
