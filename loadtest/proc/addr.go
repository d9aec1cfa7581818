package proc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// FreeAddr is an address of 127.0.0.1 on which nobody listens, and which no other call here or in another process that
// calls it is given before this process has ended. So it is still free when its server listens there at last, and again
// while that is down. The kernel does not use its port for outgoing connections either: those are from 32768 on, see
// ip_local_port_range in ip(7).
//
// A port is held by a lock on a file of its name. Rejected: to ask the kernel for a port and give it back, which many
// servers that start at the same time are given twice.
func FreeAddr() (string, error) {
	const lowest, highest = 10000, 32000
	dir := filepath.Join(os.TempDir(), "weir-loadtest-ports")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return "", fmt.Errorf("make a folder for locks of ports: %w", err)
	}
	for range 200 {
		port := strconv.Itoa(lowest + rand.IntN(highest-lowest))
		held, err := hold(filepath.Join(dir, port))
		if err != nil {
			return "", fmt.Errorf("lock port %s: %w", port, err)
		}
		if !held {
			continue
		}
		addr := net.JoinHostPort("127.0.0.1", port)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue // somebody else's
		}
		if err := l.Close(); err != nil {
			return "", fmt.Errorf("give back port %s: %w", addr, err)
		}
		return addr, nil
	}
	return "", errors.New("no free loopback port found")
}

// hold locks a file until this process ends, and tells whether nobody else had.
func hold(path string) (bool, error) {
	fd, err := syscall.Open(path, syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o666)
	if err != nil {
		return false, err
	}
	err = syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return true, nil // the descriptor stays open
	}
	if closeErr := syscall.Close(fd); closeErr != nil || !errors.Is(err, syscall.EWOULDBLOCK) {
		return false, errors.Join(err, closeErr)
	}
	return false, nil
}
