package process

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
)

// journalSocket is where journald takes records (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).
const journalSocket = "/run/systemd/journal/socket"

// journalWriter sends lines to journald, one datagram each. What is longer than a datagram may be (some 200 KiB) is lost.
type journalWriter struct {
	conn       *net.UnixConn
	identifier string
}

func dialJournal(socket string) (*journalWriter, error) {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: socket})
	if err != nil {
		return nil, fmt.Errorf("open log output %s: %w: use stderr where no journald runs", journal, err)
	}
	return &journalWriter{conn: conn, identifier: filepath.Base(os.Args[0])}, nil
}

func (w *journalWriter) write(level slog.Level, line []byte) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "PRIORITY=%s\nSYSLOG_IDENTIFIER=%s\nMESSAGE\n", strconv.Itoa(priority(level)), w.identifier)
	line = bytes.TrimSuffix(line, []byte("\n"))
	_ = binary.Write(&b, binary.LittleEndian, uint64(len(line))) // a buffer takes everything
	b.Write(line)
	b.WriteByte('\n')
	_, _ = w.conn.Write(b.Bytes())
}

func (w *journalWriter) Close() error { return w.conn.Close() }

// priority is syslog's number for a level.
func priority(level slog.Level) int {
	switch {
	case level < slog.LevelInfo:
		return 7
	case level < slog.LevelWarn:
		return 6
	case level < slog.LevelError:
		return 4
	}
	return 3
}
