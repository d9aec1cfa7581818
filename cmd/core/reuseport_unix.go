//go:build unix

package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// reusePort is net.ListenConfig.Control for --socket-reuse-port.
func reusePort(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	if err != nil {
		return err
	}
	return set
}
