package process

import "testing"

func TestWhatIsCachedCountsForLittleGarbage(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct{ live, cached, want int }{
		{0, 0, gcPercent},
		{4 * mb, 0, 800},
		{10 * mb, 0, gcPercent},
		{10 * mb, -6 * mb, gcPercent}, // less lives than a store's requests may need
		{100 * mb, 100 * mb, cachedPercent},
		{100 * mb, 200 * mb, cachedPercent}, // more has been cached since the last collection
		{200 * mb, 100 * mb, (gcPercent + cachedPercent) / 2},
	} {
		if got := garbagePercent(c.live, c.cached); got != c.want {
			t.Errorf("%d bytes live, %d cached: %d %%, want %d", c.live, c.cached, got, c.want)
		}
	}
}
