package cluster

import (
	"flag"
	"testing"

	"weir/loadtest/proc"
	"weir/loadtest/target/targettest"
)

var (
	// bin is set by TestMain.
	bin *proc.Bin

	seed  = flag.Uint64("seed", 0, "seed of who is harmed, and when; 0 for a random one")
	kills = flag.Int("kills", 12, "how often weir's members are killed")

	partitions = flag.Int("partitions", 13, "how often the network between weir's members is harmed")
)

func TestMain(m *testing.M) { targettest.Main(m, &bin) }
