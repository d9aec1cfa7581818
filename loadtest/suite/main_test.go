package suite

import (
	"testing"

	"go.uber.org/goleak"

	"weir/loadtest/proc"
	"weir/loadtest/target/targettest"
)

// bin is set by TestMain.
var bin *proc.Bin

func TestMain(m *testing.M) {
	targettest.Prepare(&bin)
	goleak.VerifyTestMain(m)
}
