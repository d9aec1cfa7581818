package linearizable

import (
	"flag"
	"testing"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/target/targettest"
)

var (
	// bin is set by TestMain.
	bin *proc.Bin

	seed      = flag.Uint64("seed", 0, "seed of what is random; 0 for a random one")
	duration  = flag.Duration("duration", 45*time.Second, "for how long clients send requests at each site")
	histories = flag.Int64("histories", 0, "how many histories end a site's run before its time; 0 for any number")
)

func TestMain(m *testing.M) { targettest.Main(m, &bin) }
