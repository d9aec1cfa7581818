package process

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// NewLogger makes a logger that writes JSON lines with etcd's keys (level, ts, caller, msg) to outputs: "default"
// and "stderr", "stdout", or files, which are appended to. level is debug, info, warn, error, panic or fatal.
// Close the logger's files with the returned function.
func NewLogger(level string, outputs []string) (*slog.Logger, func() error, error) {
	threshold, err := parseLevel(level)
	if err != nil {
		return nil, nil, err
	}
	var (
		writers []io.Writer
		files   []*os.File
	)
	closeFiles := func() error {
		var errs []error
		for _, f := range files {
			errs = append(errs, f.Close())
		}
		return errors.Join(errs...)
	}
	for _, output := range outputs {
		switch output {
		case "default", "stderr":
			writers = append(writers, os.Stderr)
		case "stdout":
			writers = append(writers, os.Stdout)
		default:
			f, err := os.OpenFile(output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				return nil, nil, errors.Join(fmt.Errorf("open log output: %w: give a file that can be written, or stderr", err), closeFiles())
			}
			files, writers = append(files, f), append(writers, f)
		}
	}
	handler := slog.NewJSONHandler(io.MultiWriter(writers...), &slog.HandlerOptions{
		AddSource:   true,
		Level:       threshold,
		ReplaceAttr: etcdKeys,
	})
	return slog.New(handler), closeFiles, nil
}

func parseLevel(level string) (slog.Level, error) {
	switch level {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	case "panic", "fatal":
		return slog.LevelError + 4, nil
	}
	return 0, fmt.Errorf("unknown log level %q: use debug, info, warn, error, panic or fatal", level)
}

// etcdKeys renames slog's own attributes to etcd's.
func etcdKeys(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().String())
	}
	switch a.Key {
	case slog.TimeKey:
		return slog.String("ts", a.Value.Time().UTC().Format("2006-01-02T15:04:05.000000Z0700"))
	case slog.LevelKey:
		return slog.String("level", strings.ToLower(a.Value.String()))
	case slog.SourceKey:
		if src, ok := a.Value.Any().(*slog.Source); ok {
			dir, file := filepath.Split(src.File)
			return slog.String("caller", filepath.Join(filepath.Base(dir), file)+":"+strconv.Itoa(src.Line))
		}
	}
	return a
}
