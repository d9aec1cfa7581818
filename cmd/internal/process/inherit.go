package process

import (
	"fmt"
	"net"
	"os"
	"strconv"
)

// firstInherited is the first descriptor that a service manager passes on.
const firstInherited = 3

// Inherit returns the listener that a service manager has opened for this process (sd_listen_fds(3), a systemd socket unit); nil
// without one. There may be one, which takes the place of what a flag says.
//
// The socket outlives the process: clients who come while none has it wait in its queue, and no connection is refused or reset
// when one process ends and the next begins, or when both serve for a while. Rejected for that: SO_REUSEPORT, where each process
// has a queue of its own, and Linux resets what waits in that of a process that ends (but for net.ipv4.tcp_migrate_req).
func Inherit(flag string) (net.Listener, error) {
	pid, n := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	if n == "" || pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	if n != "1" {
		return nil, fmt.Errorf("the service manager passes %s sockets on: give it one, for --%s", n, flag)
	}
	f := os.NewFile(firstInherited, "inherited socket")
	defer f.Close() // the listener has a descriptor of its own
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listen on the socket that the service manager passes on, for --%s: %w", flag, err)
	}
	return l, nil
}
