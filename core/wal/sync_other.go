//go:build !linux

package wal

import "os"

// datasync is the full sync where there is no cheaper one that is safe (on darwin, F_FULLFSYNC).
func datasync(f *os.File) error { return f.Sync() }
