package coretest

import (
	"flag"
	"math/rand/v2"
	"testing"
	"testing/cryptotest"
	"time"
)

var (
	duration = flag.Duration("duration", 20*time.Second, "for how long storms are played, one after another")
	seed     = flag.Uint64("seed", 0, "of the only storm to be played; 0: of many")
)

// stormLength is how long a storm lasts, on its cluster's clock.
const stormLength = 4 * time.Second

func TestNothingIsLostInAnyStorm(t *testing.T) {
	if *seed != 0 {
		playOne(t, *seed)
		return
	}
	first, begun, played := rand.Uint64(), time.Now(), uint64(0)
	for ; time.Since(begun) < *duration; played++ {
		playOne(t, first+played)
	}
	t.Logf("%d storms, with seeds from %d", played, first)
}

func playOne(t *testing.T, seed uint64) *Cluster {
	t.Helper()
	cryptotest.SetGlobalRandom(t, seed)
	c := Storm(seed, stormLength)
	if testing.Verbose() {
		t.Logf("seed %d: %s", seed, c.Summary())
	}
	if err := c.Err(); err != nil {
		t.Fatalf("go test ./core/coretest -run NothingIsLost -seed=%d: %v\n%s", seed, err, c.Trace())
	}
	return c
}

// TestStormsBringAllThatTheyShould: with these seeds there is each kind of crash, and enough else for a storm to be one.
func TestStormsBringAllThatTheyShould(t *testing.T) {
	crashed := map[step]int{}
	var sum counts
	for seed := range uint64(80) {
		c := playOne(t, seed)
		for step, n := range c.crashedAt {
			crashed[step] += n
		}
		k := c.checks.counts
		sum.elections += k.elections
		sum.writes += k.writes
		sum.reads += k.reads
		sum.snapshots += k.snapshots
		sum.changes += k.changes
		sum.held += k.held
		sum.refused += k.refused
		sum.dropped += k.dropped
	}
	t.Logf("%+v, %v", sum, crashed)
	for _, step := range steps {
		if crashed[step] == 0 {
			t.Errorf("nobody has crashed at step %s", step)
		}
	}
	if sum.elections < 30 || sum.writes < 3000 || sum.reads < 3000 || sum.snapshots < 10 || sum.changes < 10 || sum.held < 100 || sum.refused < 100 || sum.dropped < 10 {
		t.Errorf("too little has happened: %+v", sum)
	}
}

func TestTheSameSeedMakesTheSameStorm(t *testing.T) {
	for seed := range uint64(3) {
		var traces [2]uint64
		for i := range traces {
			cryptotest.SetGlobalRandom(t, seed)
			traces[i] = Storm(seed, stormLength).traced
		}
		if traces[0] != traces[1] {
			t.Errorf("seed %d: two runs differ", seed)
		}
	}
}
