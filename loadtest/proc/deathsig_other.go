//go:build !linux

package proc

import "syscall"

// endWithParent is for Linux. Elsewhere a process stays behind when this one is killed.
func endWithParent() *syscall.SysProcAttr { return nil }
