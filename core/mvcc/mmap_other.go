//go:build !linux && !windows

package mvcc

const mmapFlags = 0

const mapAhead = true
