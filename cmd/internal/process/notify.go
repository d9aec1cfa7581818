package process

import (
	"fmt"
	"net"
	"os"
)

// NotifyReady tells the service manager that started this process that it is ready (sd_notify(3)): a systemd unit with
// Type=notify, as etcd's is, waits for that. Without a service manager it does nothing.
func NotifyReady() error { return notify("READY=1", "this is ready") }

// NotifyStopping tells it that the process is about to end, by a signal of whomever.
func NotifyStopping() error { return notify("STOPPING=1", "this is stopping") }

func notify(state, what string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: socket})
	if err != nil {
		return fmt.Errorf("tell the service manager that %s: %w", what, err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("tell the service manager that %s: %w", what, err)
	}
	return nil
}
