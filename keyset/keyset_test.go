package keyset

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
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

func (iv interval) permission(kind authpb.Permission_Type) *authpb.Permission {
	return &authpb.Permission{PermType: kind, Key: iv.key, RangeEnd: iv.end}
}

func randomInterval(rng *rand.Rand) interval {
	key := func() []byte {
		k := make([]byte, 1+rng.IntN(3))
		for i := range k {
			k[i] = []byte{0, 1, 'a', 0xff}[rng.IntN(4)]
		}
		return k
	}
	switch rng.IntN(4) {
	case 0:
		return interval{key(), nil}
	case 1:
		return interval{key(), []byte{0}}
	}
	return interval{key(), key()}
}

func TestASetHasExactlyTheRangesThatPermissionsOfItsKindCoverTogether(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	yes := 0
	for range 3000 {
		var permissions []*authpb.Permission
		var of [2][]interval // read, write
		for range rng.IntN(8) {
			iv := randomInterval(rng)
			if isOpen(iv.end) && rng.IntN(4) > 0 {
				continue // else there is one nearly always
			}
			kind := authpb.Permission_Type(rng.IntN(3))
			permissions = append(permissions, iv.permission(kind))
			if IsEmpty(iv.key, iv.end) {
				continue
			}
			if kind != authpb.WRITE {
				of[0] = append(of[0], iv)
			}
			if kind != authpb.READ {
				of[1] = append(of[1], iv)
			}
		}
		for i, kind := range []authpb.Permission_Type{authpb.READ, authpb.WRITE} {
			set := Of(permissions, kind)
			for range 10 {
				asked := randomInterval(rng)
				want := modelContains(of[i], asked)
				if got := set.Has(asked.key, asked.end); got != want {
					t.Fatalf("permissions %v: %v of %q is %v, not %v; the set is %q", permissions, kind, asked, got, want, set)
				}
				if want {
					yes++
				}
			}
		}
	}
	if yes < 1000 {
		t.Errorf("only %d were permitted", yes)
	}
}

func TestASetMergesWhatOverlapsOrTouches(t *testing.T) {
	var all []*authpb.Permission
	for _, iv := range []interval{
		{[]byte("x"), []byte{0}}, {[]byte("b"), []byte("c")}, {[]byte("a"), []byte("b")}, {[]byte("y"), []byte("z")}, {[]byte("d"), []byte("e")},
	} {
		all = append(all, iv.permission(authpb.READWRITE))
	}
	if set := Of(all, authpb.READ); len(set) != 3 {
		t.Errorf("got %q", set)
	}
}

func TestPermissionsOnNothingAreNone(t *testing.T) {
	for _, p := range []interval{{nil, nil}, {nil, []byte("a")}, {nil, []byte{0}}, {[]byte("b"), []byte("b")}, {[]byte("b"), []byte("a")}} {
		if !IsEmpty(p.key, p.end) {
			t.Errorf("%q is on keys", p)
		}
		if set := Of([]*authpb.Permission{p.permission(authpb.READ)}, authpb.READ); len(set) != 0 {
			t.Errorf("%q is %q", p, set)
		}
	}
}

func TestARangeWithoutKeysIsThatOfItsKey(t *testing.T) {
	set := Of([]*authpb.Permission{interval{[]byte("b"), []byte("d")}.permission(authpb.READ)}, authpb.READ)
	for _, end := range []string{"b", "a", "c"} {
		if !set.Has([]byte("c"), []byte(end)) {
			t.Errorf("[c, %s) is not in it", end)
		}
		if set.Has([]byte("e"), []byte(end)) {
			t.Errorf("[e, %s) is in it", end)
		}
	}
}

func TestALookAllocatesNothing(t *testing.T) {
	set := Of([]*authpb.Permission{interval{[]byte("b"), []byte("d")}.permission(authpb.READ)}, authpb.READ)
	key, end := []byte("b"), []byte("c")
	if n := testing.AllocsPerRun(100, func() { set.Has(key, end) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
