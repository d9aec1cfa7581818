package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// shell starts a shell script, which is killed when the test ends.
func shell(t *testing.T, script string) *Process {
	t.Helper()
	p, err := Start("script", "/bin/sh", []string{"-c", script}, []string{"GREETING=hello"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestWaitReadyEndsWithTheProcess(t *testing.T) {
	p := shell(t, "echo last words; exit 3")
	err := p.WaitReady(t.Context(), func(context.Context) error { return errors.New("not yet") })
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "last words") {
		t.Errorf("the process ended with status 3 and last words: %v", err)
	}
}

func TestStopReportsAProcessThatEndedByItself(t *testing.T) {
	p := shell(t, "exit 0")
	<-p.Exited()
	if err := p.Stop(); err == nil {
		t.Error("no error")
	}
}

func TestStopTakesSIGTERMForAnEnd(t *testing.T) {
	for _, script := range []string{
		`echo ready; exec sleep 1000`,
		`trap "exit 0" TERM; echo ready; while :; do sleep 0.01; done`,
	} {
		p := shell(t, script)
		waitForLog(t, p, "ready")
		if err := p.Stop(); err != nil {
			t.Errorf("%s: %v", script, err)
		}
	}
	p := shell(t, `trap "exit 4" TERM; echo ready; while :; do sleep 0.01; done`)
	waitForLog(t, p, "ready")
	if err := p.Stop(); err == nil {
		t.Error("a process that ended with status 4 is no error")
	}
}

func TestLogKeepsBothStreamsOverRestarts(t *testing.T) {
	p := shell(t, `echo $GREETING; echo error >&2`)
	<-p.Exited()
	if err := p.Restart(); err != nil {
		t.Fatal(err)
	}
	<-p.Exited()
	if got, want := p.Log(), "hello\nerror\nhello\nerror\n"; got != want {
		t.Errorf("log is %q, want %q", got, want)
	}
}

func TestCPUGrowsWithWork(t *testing.T) {
	p := shell(t, `while :; do :; done`)
	if err := p.WaitReady(t.Context(), func(context.Context) error {
		d, err := p.CPU()
		if err == nil && d == 0 {
			err = errors.New("no processor time yet")
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

func waitForLog(t *testing.T, p *Process, text string) {
	t.Helper()
	if err := p.WaitReady(t.Context(), func(context.Context) error {
		if !strings.Contains(p.Log(), text) {
			return errors.New("it is not in the log")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestPausedProcessGoesOnWhenResumed(t *testing.T) {
	p := shell(t, `while :; do echo tick; sleep 0.01; done`)
	for range 2 {
		waitForLog(t, p, p.Log()+"tick")
		if err := p.Pause(); err != nil {
			t.Fatal(err)
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
		if err != nil {
			t.Fatal(err)
		}
		if _, state, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(state, "T ") { // proc_pid_stat(5)
			t.Errorf("a paused process is in state %.1q", state)
		}
		if err := p.Resume(); err != nil {
			t.Fatal(err)
		}
	}
	waitForLog(t, p, p.Log()+"tick")
}

func TestPauseOfAProcessThatHasEnded(t *testing.T) {
	p := shell(t, `exit 0`)
	<-p.Exited()
	if err := p.Pause(); err != nil {
		t.Error(err)
	}
}

func TestMemoryIsThatOfTheProcess(t *testing.T) {
	p := shell(t, `echo ready; exec sleep 1000`)
	waitForLog(t, p, "ready")
	// While one program takes the other's place there is hardly anything.
	for {
		n, err := p.Memory()
		if err != nil || n > 100<<20 || t.Context().Err() != nil {
			t.Fatalf("it has %d bytes in memory: %v", n, err)
		}
		if n > 100<<10 {
			return
		}
	}
}

func TestFreeAddrIsGivenOnce(t *testing.T) {
	given := map[string]bool{}
	for range 300 {
		addr, err := FreeAddr()
		if err != nil {
			t.Fatal(err)
		}
		if given[addr] {
			t.Fatalf("%s is given twice", addr)
		}
		given[addr] = true
	}
}
