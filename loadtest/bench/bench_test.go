package bench

import (
	"context"
	"fmt"
	"os"
	"testing"

	"weir/loadtest/proc"
	"weir/loadtest/target/targettest"
)

// bin is set by TestMain.
var bin *proc.Bin

// floodArg has the tests' program be a flood, for FairnessOptions.FloodCommand.
const floodArg = "flood"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == floodArg {
		if err := RunFlood(context.Background(), os.Args[2:], os.Stdout); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	targettest.Main(m, &bin)
}
