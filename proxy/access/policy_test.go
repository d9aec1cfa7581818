package access

import (
	"math/rand/v2"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
)

// seedOf prints the seed of a random test.
func seedOf(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

var someKeys = []string{"a", "a\x00", "aa", "ab", "b", "b\x00", "c", "cc", "\x00", "\xff", "\xff\xff"}

// randomRange may name no keys, one, some, or all from one on.
func randomRange(rng *rand.Rand) (key, end string) {
	key = someKeys[rng.IntN(len(someKeys))]
	switch rng.IntN(4) {
	case 0:
		return key, ""
	case 1:
		return key, "\x00"
	}
	return key, someKeys[rng.IntN(len(someKeys))]
}

func randomPermissions(rng *rand.Rand) (all []*authpb.Permission) {
	for range rng.IntN(6) {
		key, end := randomRange(rng)
		all = append(all, permission(authpb.Permission_Type(rng.IntN(3)), key, end))
	}
	return all
}

func TestAUserMayReadAndWriteExactlyWhatPermissionsCoverTogether(t *testing.T) {
	rng := seedOf(t)
	for range 5_000 {
		all := randomPermissions(rng)
		u := newUser(nil, all)
		for range 10 {
			key, end := randomRange(rng)
			if end != "" && end != "\x00" && end <= key {
				end = "" // as the key alone
			}
			if got, want := u.read.Has([]byte(key), []byte(end)), covered(all, false, key, end); got != want {
				t.Fatalf("%v: read [%q, %q) permitted: %v, want %v", all, key, end, got, want)
			}
			if got, want := u.write.Has([]byte(key), []byte(end)), covered(all, true, key, end); got != want {
				t.Fatalf("%v: write [%q, %q) permitted: %v, want %v", all, key, end, got, want)
			}
		}
	}
}
