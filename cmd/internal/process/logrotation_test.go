package process

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRotationIsReadAsEtcdWritesIt(t *testing.T) {
	for text, want := range map[string]Rotation{
		DefaultRotation: {MaxSize: 100},
		`{}`:            {},
		`{"MaxSize": 1, "maxage": 2, "maxbackups": 3, "localtime": true, "compress": true}`: {1, 2, 3, true, true},
	} {
		got, err := ParseRotation(text)
		if err != nil || *got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{``, `{`, `[]`, `{"maxsize": "1"}`, `{"maxsise": 1}`, `{"maxage": -1}`, `{} {}`} {
		if _, err := ParseRotation(text); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

func TestAFullFileIsPutAsideAndKept(t *testing.T) {
	dir := t.TempDir()
	logger, err := OpenLog(LogConfig{Outputs: []string{filepath.Join(dir, "weir.log")}, Rotation: &Rotation{MaxSize: 1}})
	if err != nil {
		t.Fatal(err)
	}
	const lines = 30
	for i := range lines {
		logger.LogAttrs(t.Context(), slog.LevelInfo, fmt.Sprint("long ", i), slog.String("text", strings.Repeat("x", 100<<10)))
	}
	if err := logger.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "weir*.log"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > 1<<20 {
			t.Errorf("%s has %d bytes", f, len(text))
		}
		found += strings.Count(string(text), "\n")
	}
	if len(files) < 3 || found != lines {
		t.Errorf("%d files with %d lines, want %d", len(files), found, lines)
	}
}
