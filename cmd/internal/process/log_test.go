package process

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLogLinesHaveEtcdsKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	logger, closeLog, err := NewLogger("warn", []string{path})
	if err != nil {
		t.Fatal(err)
	}
	logger.Info("not this")
	logger.Warn("hello", "error", errors.New("cause"))
	if err := closeLog(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var line map[string]string
	if err := json.Unmarshal(text, &line); err != nil {
		t.Fatalf("not one JSON line: %v: %s", err, text)
	}
	if line["level"] != "warn" || line["msg"] != "hello" || line["error"] != "cause" ||
		!strings.HasPrefix(line["caller"], "process/log_test.go:") || !strings.HasSuffix(line["ts"], "Z") {
		t.Errorf("got %v", line)
	}
}

func TestUnknownLevelAndUnwritableFileAreRefused(t *testing.T) {
	if _, _, err := NewLogger("loud", []string{"stderr"}); err == nil {
		t.Error("level loud was accepted")
	}
	if _, _, err := NewLogger("info", []string{filepath.Join(t.TempDir(), "missing", "log")}); err == nil {
		t.Error("a file in a missing directory was accepted")
	}
}
