//go:build unix

package main

import (
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weir/cmd/internal/process"
)

func TestTheFilesLogLevelCountsAfterSIGHUP(t *testing.T) {
	file := filepath.Join(t.TempDir(), "core.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("data-dir: "+t.TempDir()+"\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log-level: error\n")
	args := []string{"--config-file=" + file}
	o, err := parseOptions(args, nil)
	if err != nil {
		t.Fatal(err)
	}
	log, err := process.OpenLog(process.LogConfig{Level: o.log.Level, Outputs: []string{filepath.Join(t.TempDir(), "log")}})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r := newReload(o, args, nil, log)
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, syscall.SIGHUP) // until the reloader listens, it would end the test
	defer signal.Stop(ignored)
	defer r.start()()
	ask := func(what string, done func(process.Reloads) bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !done(r.Reloads()); {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", what, r.Reloads())
			}
			if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil { // again, since some may be lost
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
	}
	write("log-level: warn\n")
	ask("another level", func(s process.Reloads) bool { return s.LogLevel == "warn" })
	write("log-level: warn\nno-such-key: 1\n")
	ask("a bad file", func(s process.Reloads) bool {
		options := s.Reloads[1]
		return options.Stale && strings.Contains(options.LastRefusal, "core.yaml:3: ") && s.LogLevel == "warn"
	})
}
