//go:build unix

package process

import (
	"log/slog"
	"syscall"
	"testing"
	"time"
)

func TestASecondSignalEndsTheWait(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	g := Drain{Delay: time.Hour, Timeout: 2 * time.Hour}.Begin(slog.New(slog.DiscardHandler))
	defer g.Close()
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g.WaitDelay()
	<-g.Over().Done()
}
