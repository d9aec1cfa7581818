package process

import (
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// listenDatagrams returns a socket and what reads its next datagram.
func listenDatagrams(t *testing.T) (path string, next func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return path, func() string {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1<<16)
		n, err := conn.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func TestTheServiceManagerIsToldOfStartAndEnd(t *testing.T) {
	path, next := listenDatagrams(t)
	for want, notify := range map[string]func() error{"READY=1": NotifyReady, "STOPPING=1": NotifyStopping} {
		t.Setenv("NOTIFY_SOCKET", "")
		if err := notify(); err != nil {
			t.Errorf("without a service manager: %v", err)
		}
		t.Setenv("NOTIFY_SOCKET", path)
		if err := notify(); err != nil {
			t.Fatal(err)
		}
		if got := next(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		t.Setenv("NOTIFY_SOCKET", path+"-gone")
		if err := notify(); err == nil {
			t.Error("a socket that is not there was taken")
		}
	}
}

func TestJournaldIsGivenLinesWithTheirPriority(t *testing.T) {
	path, next := listenDatagrams(t)
	w, err := dialJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(newLineHandler(slog.LevelDebug, formatConsole, &outputs{journal: w}))
	for _, c := range []struct {
		level    slog.Level
		priority string
	}{{slog.LevelDebug, "7"}, {slog.LevelInfo, "6"}, {slog.LevelWarn, "4"}, {slog.LevelError, "3"}} {
		logger.Log(t.Context(), c.level, "two\nlines")
		got := next()
		fields, message, ok := strings.Cut(got, "MESSAGE\n")
		if !ok || !strings.HasPrefix(fields, "PRIORITY="+c.priority+"\nSYSLOG_IDENTIFIER=") {
			t.Errorf("%v: got %q", c.level, got)
			continue
		}
		if len(message) < 9 || int(message[0]) != len(message)-9 || !strings.HasSuffix(message, "\ttwo\nlines\n") {
			t.Errorf("%v: message %q", c.level, message)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := dialJournal(path + "-gone"); err == nil || !strings.Contains(err.Error(), "use stderr") {
		t.Errorf("got %v", err)
	}
}
