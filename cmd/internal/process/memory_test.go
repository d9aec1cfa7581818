package process

import "testing"

func TestWhatLivesForLongCountsForLittleGarbage(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct{ live, want int }{
		{0, gcPercent},
		{4 * mb, 800},
		{10 * mb, gcPercent},
		{16 * mb, gcPercent},
		{32 * mb, (gcPercent + keptPercent) / 2},
		{1600 * mb, (gcPercent + 99*keptPercent) / 100},
	} {
		if got := garbagePercent(c.live); got != c.want {
			t.Errorf("%d bytes live: %d %%, want %d", c.live, got, c.want)
		}
	}
}
