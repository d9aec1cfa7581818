package differential

import (
	"flag"
	"math/rand/v2"
	"testing"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

var (
	// bin is set by TestMain.
	bin *proc.Bin

	steps = flag.Int("steps", 4000, "requests of one run")
	seed  = flag.Uint64("seed", 0, "seed of the requests; 0 for a random one")
)

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// Two etcds prove that the comparison is sound: it finds nothing where there is nothing.
func TestAnswersAreThoseOfEtcd(t *testing.T) {
	for _, kind := range []target.Kind{target.Etcd37, target.Core, target.ProxyCore, target.ProxyEtcd37} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			n := *seed
			if n == 0 {
				n = rand.Uint64()
			}
			t.Logf("seed %d, %d steps", n, *steps)
			etcd, other := targettest.Start(t, bin, target.Etcd37), targettest.Start(t, bin, kind)
			report, err := Run(t.Context(), etcd, other, n, *steps)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("compared:\n%s", report)
		})
	}
}
