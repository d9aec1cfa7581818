package main

import (
	"errors"
	"syscall"
)

// reusePort is net.ListenConfig.Control for --socket-reuse-port.
func reusePort(string, string, syscall.RawConn) error {
	return errors.New("--socket-reuse-port is not possible on Windows")
}
