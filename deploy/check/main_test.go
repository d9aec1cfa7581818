package check

import (
	"log/slog"
	"os"
	"testing"
)

// TestMain silences Helm, which logs each link in the chart.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}
