package process

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// formatted counts how often it is written.
type formatted int

func (f *formatted) String() string { *f++; return "told" }

func TestWhatGRPCSaysIsFormattedOnlyToBeLogged(t *testing.T) {
	for level, want := range map[slog.Level]int{slog.LevelInfo: 0, slog.LevelDebug: 6} {
		var out bytes.Buffer
		var n formatted
		l := grpcLogger{logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level}))}
		l.Warning(&n)
		l.Warningln(&n)
		l.Warningf("it %s", &n)
		l.Error(&n)
		l.Errorln(&n)
		l.Errorf("it %s", &n)
		if lines := strings.Count(out.String(), "told"); lines != want || int(n) != want {
			t.Errorf("%v: formatted %d times and logged %d, want %d: %s", level, n, lines, want, out.String())
		}
	}
}
