package main

import (
	"testing"

	"weir/cmd/internal/process"
)

// quietLog writes nothing that a test causes.
func quietLog(t *testing.T) *process.Log {
	t.Helper()
	log, err := process.OpenLog(process.LogConfig{Level: "fatal"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return log
}
