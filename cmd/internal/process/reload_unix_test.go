//go:build unix

package process

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"testing"
)

func TestAPipeIsNotWaitedFor(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, filepath.Dir(pipe)} {
		if _, err := ReadRegular(path); !errors.Is(err, errNotRegular) {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

func TestSignalsThatNobodyObeysYetDoNothing(t *testing.T) {
	defer SurviveSignals()()
	for s := range orders {
		if err := syscall.Kill(syscall.Getpid(), s.(syscall.Signal)); err != nil { // by itself it would end the test
			t.Fatal(err)
		}
	}
}

func TestSignalsAreObeyed(t *testing.T) {
	log, _ := logTo(t, "info")
	r := NewReloader(log)
	looked := make(chan bool, 1)
	r.Add("file", func(forced bool) error {
		if forced {
			looked <- true
		}
		return nil
	})
	started := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		signals, stop := notifySignals() // or the first signal could end the test
		_ = signals
		defer stop()
		close(started)
		r.Run(ctx)
	}()
	<-started
	for _, s := range []struct {
		signal syscall.Signal
		done   func() bool
	}{
		{syscall.SIGUSR1, func() bool { return log.Level() == "debug" }},
		{syscall.SIGUSR2, func() bool { return log.Level() == "info" }},
		{syscall.SIGHUP, func() bool {
			select {
			case <-looked:
				return true
			default:
				return false
			}
		}},
	} {
		for !s.done() { // Run may not listen yet
			if err := syscall.Kill(syscall.Getpid(), s.signal); err != nil {
				t.Fatal(err)
			}
			if err := t.Context().Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	go func() {
		for range looked { // signals that came twice
		}
	}()
	cancel()
	<-ended
	close(looked)
}
