package process

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// logged returns what log writes with a logger of c into a file.
func logged(t *testing.T, c LogConfig, log func(*slog.Logger)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	c.Outputs = []string{path}
	logger, err := OpenLog(c)
	if err != nil {
		t.Fatal(err)
	}
	log(logger.Logger)
	if err := logger.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestJSONLinesHaveEtcdsKeysInEtcdsOrder(t *testing.T) {
	text := logged(t, LogConfig{Level: "warn"}, func(l *slog.Logger) {
		l.Info("not this")
		l.Warn(`say "<hello>"`, "error", errors.New("cause"), "took", 1500*time.Millisecond)
		l.With("a", 1).WithGroup("g").Error("no attributes")
		l.Error("")
	})
	at := `"ts":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d{4})","caller":"process/log_test.go:\d+"`
	want := regexp.MustCompile(`^\{"level":"warn",` + at + `,"msg":"say \\"<hello>\\"","error":"cause","took":"1\.5s"\}
\{"level":"error",` + at + `,"msg":"no attributes","a":1\}
\{"level":"error",` + at + `,"msg":""\}
$`)
	if !want.MatchString(text) {
		t.Errorf("got %s", text)
	}
	for line := range strings.Lines(text) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not JSON: %s", line)
		}
	}
}

func TestConsoleLinesAreEtcds(t *testing.T) {
	text := logged(t, LogConfig{Format: "console"}, func(l *slog.Logger) {
		l.Info("hello", "name", "m1", slog.Group("g", "level", "own"))
		l.Warn("alone")
		l.Debug("not this")
	})
	want := regexp.MustCompile(`^\S+\tinfo\tprocess/log_test.go:\d+\thello\t\{"name":"m1","g":\{"level":"own"\}\}
\S+\twarn\tprocess/log_test.go:\d+\talone
$`)
	if !want.MatchString(text) {
		t.Errorf("got %s", text)
	}
}

func TestAttributesMayBeNamedLikeEtcdsKeys(t *testing.T) {
	text := logged(t, LogConfig{}, func(l *slog.Logger) { l.Info("hello", "msg", "own", "level", "own", "time", "own") })
	if !strings.HasSuffix(text, `"msg":"hello","msg":"own","level":"own","time":"own"}`+"\n") {
		t.Errorf("got %s", text)
	}
}

func TestWhatCannotBeLoggedToIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		config LogConfig
		want   string
	}{
		{LogConfig{Level: "loud"}, `unknown log level "loud"`},
		{LogConfig{Format: "xml"}, `unknown log format "xml"`},
		{LogConfig{Outputs: []string{filepath.Join(dir, "missing", "log")}}, "give a file that can be written"},
		{LogConfig{Outputs: []string{"default", "stdout"}}, "give it alone"},
		{LogConfig{Outputs: []string{"stdout", ""}}, "an empty output"},
		{LogConfig{Rotation: &Rotation{}}, "needs one file"},
		{LogConfig{Outputs: []string{"stderr"}, Rotation: &Rotation{}}, "needs one file"},
		{LogConfig{Outputs: []string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}, Rotation: &Rotation{}}, "which has 2"},
	} {
		_, err := OpenLog(c.config)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: got %v, want a line with %q", c.config, err, c.want)
		}
	}
}

func TestALineGoesToEveryOutputOnce(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	logger, err := OpenLog(LogConfig{Outputs: []string{a, b, a}})
	if err != nil {
		t.Fatal(err)
	}
	logger.Info("hello")
	if err := logger.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{a, b} {
		text, err := os.ReadFile(path)
		if err != nil || strings.Count(string(text), "hello") != 1 {
			t.Errorf("%s: %v %s", path, err, text)
		}
	}
}
