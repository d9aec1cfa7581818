package process

import (
	"fmt"
	"net"
	"os"
)

// NotifyReady tells the service manager that started this process that it is ready (sd_notify(3)): a systemd unit with
// Type=notify, as etcd's is, waits for that. Without a service manager it does nothing.
func NotifyReady() error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: socket})
	if err != nil {
		return fmt.Errorf("tell the service manager that this is ready: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("tell the service manager that this is ready: %w", err)
	}
	return nil
}
