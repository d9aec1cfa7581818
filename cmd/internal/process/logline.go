package process

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"fmt"
)

// format is how a log line looks.
type format uint8

const (
	formatJSON    format = iota // {"level":"info","ts":"…","caller":"…","msg":"…","key":"value"}
	formatConsole               // ts, level, caller, msg and {"key":"value"}, with tabs between
)

func parseFormat(name string) (format, error) {
	switch name {
	case "", "json":
		return formatJSON, nil
	case "console":
		return formatConsole, nil
	}
	return 0, fmt.Errorf("unknown log format %q for --log-format: use json or console", name)
}

// lineHandler writes a line for each record as etcd's logger does: level, time, caller and message, in that order, then
// the attributes. slog's own JSONHandler begins with the time and has no console format, so it is left only the
// attributes, which it does with all their groups.
type lineHandler struct {
	level  slog.Leveler
	format format
	line   *line
	attrs  slog.Handler // writes the attributes into line as one JSON object
}

// line is what is being written. A handler and those derived from it share one.
type line struct {
	mu  sync.Mutex // guards buf, and keeps lines whole
	buf bytes.Buffer
	out *outputs
}

func newLineHandler(level slog.Leveler, f format, out *outputs) *lineHandler {
	l := &line{out: out}
	return &lineHandler{level: level, format: f, line: l, attrs: slog.NewJSONHandler(&l.buf, &slog.HandlerOptions{
		Level: level, ReplaceAttr: onlyAttributes,
	})}
}

// Enabled is slog.Handler's.
func (h *lineHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.level.Level()
}

// WithAttrs is slog.Handler's.
func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	derived := *h
	derived.attrs = h.attrs.WithAttrs(attrs)
	return &derived
}

// WithGroup is slog.Handler's.
func (h *lineHandler) WithGroup(name string) slog.Handler {
	derived := *h
	derived.attrs = h.attrs.WithGroup(name)
	return &derived
}

// Handle is slog.Handler's.
func (h *lineHandler) Handle(ctx context.Context, r slog.Record) error {
	l := h.line
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
	level, ts, caller := strings.ToLower(r.Level.String()), r.Time.Format("2006-01-02T15:04:05.000000Z0700"), callerOf(r)
	if h.format == formatConsole {
		l.buf.WriteString(ts + "\t" + level + "\t" + caller + "\t" + r.Message + "\t")
	} else {
		l.buf.WriteString(`{"level":` + quote(level) + `,"ts":` + quote(ts) + `,"caller":` + quote(caller) + `,"msg":` + quote(r.Message) + `,`)
	}
	head := l.buf.Len()
	bare := slog.NewRecord(time.Time{}, r.Level, "", 0)
	r.Attrs(func(a slog.Attr) bool { bare.AddAttrs(a); return true })
	if err := h.attrs.Handle(ctx, bare); err != nil {
		return err
	}
	text := l.buf.Bytes()
	switch {
	case string(text[head:]) != "{}\n":
		if h.format == formatJSON {
			text = append(text[:head], text[head+1:]...) // the head has opened the object
		}
	case h.format == formatJSON:
		text = append(text[:head-1], "}\n"...)
	default:
		text = append(text[:head-1], '\n')
	}
	l.out.write(r.Level, text)
	return nil
}

// onlyAttributes drops what slog itself puts into every line, and writes durations for people.
func onlyAttributes(groups []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().String())
	}
	if len(groups) > 0 {
		return a
	}
	_, isLevel := a.Value.Any().(slog.Level)
	if a.Key == slog.LevelKey && isLevel || a.Key == slog.MessageKey && a.Value.Equal(slog.StringValue("")) {
		return slog.Attr{}
	}
	return a
}

// callerOf is the file, with its folder, and the line that logged.
func callerOf(r slog.Record) string {
	src := r.Source()
	if src == nil {
		return "undefined" // as zap says it
	}
	dir, file := filepath.Split(src.File)
	return filepath.Join(filepath.Base(dir), file) + ":" + strconv.Itoa(src.Line)
}

// quote is s as a JSON string.
func quote(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string can be encoded
	return strings.TrimSuffix(b.String(), "\n")
}
