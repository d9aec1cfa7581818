//go:build linux || darwin

package grpcapi

import "syscall"

// fileLimit is how many files the process may have open; 0 if that is not known.
func fileLimit() uint64 {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return l.Cur
}
