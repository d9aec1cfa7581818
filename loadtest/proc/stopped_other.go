//go:build !linux

package proc

// awaitStopped is for Linux. Elsewhere a process may go on for a moment after Pause.
func awaitStopped(int) error { return nil }
