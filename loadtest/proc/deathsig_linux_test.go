package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// parentEnv tells a run of this test binary how it shall end after it has started a process.
const parentEnv = "PARENT_ENDS_BY"

// TestParent is no test by itself: it is the parent in TestNoProcessIsLeftBehind.
func TestParent(t *testing.T) {
	end := os.Getenv(parentEnv)
	if end == "" {
		return
	}
	child, err := Start("child", "/bin/sh", []string{"-c", `exec 3>"$FIFO"; echo ready; exec sleep 1000`}, []string{"FIFO=" + os.Getenv("FIFO")})
	if err != nil {
		t.Fatal(err)
	}
	waitForLog(t, child, "ready")
	switch end {
	case "exit":
		os.Exit(0)
	case "panic":
		panic("as asked for")
	case "timeout", "kill":
		select {}
	}
}

// However a test binary ends, what it started ends with it.
func TestNoProcessIsLeftBehind(t *testing.T) {
	for _, end := range []string{"exit", "panic", "timeout", "kill"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			fifo := filepath.Join(t.TempDir(), "fifo")
			if err := unix.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			timeout := "1m"
			if end == "timeout" {
				timeout = "1s"
			}
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			parent, err := Start("parent", self, []string{"-test.run=^TestParent$", "-test.timeout=" + timeout},
				[]string{parentEnv + "=" + end, "FIFO=" + fifo})
			if err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(fifo) // waits until the child has it open too
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if end == "kill" {
				if err := parent.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			<-parent.Exited()
			// Nobody ever writes: it is read to its end when the child is gone.
			if err := f.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, f); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The signal comes when the thread ends, so a process must not be started from one that ends earlier.
func TestProcessOutlivesTheThreadOfItsStarter(t *testing.T) {
	thread, started := make(chan int, 1), make(chan error, 1)
	var p *Process
	var start func()
	start = func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if unix.Gettid() == unix.Getpid() {
			go start() // but not the main thread
			return
		}
		thread <- unix.Gettid()
		var err error
		p, err = Start("script", "/bin/sh", []string{"-c", `while :; do echo tick; sleep 0.01; done`}, nil)
		started <- err
	}
	go start()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	task := fmt.Sprintf("/proc/self/task/%d", <-thread)
	if err := p.WaitReady(t.Context(), func(context.Context) error {
		if _, err := os.Stat(task); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is still there: %w", task, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	waitForLog(t, p, p.Log()+"tick")
}
