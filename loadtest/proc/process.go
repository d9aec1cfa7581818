package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopGrace is how long a process may take to end after SIGTERM before it is killed.
const stopGrace = 15 * time.Second

// Process is one started program. Its methods may be called concurrently, except Restart.
type Process struct {
	name string
	path string
	args []string
	env  []string

	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended; err is set before
	err    error
	log    *logBuffer
}

// Start starts the program at path. Its environment is empty but for env and what a program needs to find its files, so
// that a variable of the caller's cannot configure it. name is for error messages.
func Start(name, path string, args, env []string) (*Process, error) {
	p := &Process{name: name, path: path, args: args, env: env, log: &logBuffer{}}
	if err := p.start(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Process) start() error {
	cmd := exec.Command(p.path, p.args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, p.env...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.SysProcAttr = endWithParent()
	started, exited := make(chan error), make(chan struct{})
	go func() {
		// The process is killed when the thread that started it ends, and Go ends threads as it likes, but not one that a
		// goroutine is locked to.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(exited)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.cmd, p.exited = cmd, exited
	return nil
}

// Name is the name that Start was given.
func (p *Process) Name() string { return p.name }

// Pid is the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// ExitError says how the process ended, which it must have; nil for success.
func (p *Process) ExitError() error { return p.err }

// Log is what the process printed, on both streams and over all its restarts.
func (p *Process) Log() string { return p.log.String() }

// Kill ends the process with SIGKILL and waits for its end.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.exited
	return nil
}

// Stop asks the process to end with SIGTERM and waits for it. A process that has ended already, has to be killed, or ends
// with anything but success or that signal is an error.
func (p *Process) Stop() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s had ended by itself: %w\n%s", p.name, p.exitError(), p.tail())
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-p.exited:
	case <-time.After(stopGrace):
		return errors.Join(fmt.Errorf("%s did not end within %v of SIGTERM\n%s", p.name, stopGrace, p.tail()), p.Kill())
	}
	// etcd ends by the signal it was given, weir with status 0.
	if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGTERM {
		return nil
	}
	if p.err != nil {
		return fmt.Errorf("%s ended badly after SIGTERM: %w\n%s", p.name, p.err, p.tail())
	}
	return nil
}

// Restart starts the program again with the same arguments. The process must have ended.
func (p *Process) Restart() error { return p.start() }

// WaitReady calls ready again and again until it returns nil, the process ends, or ctx does.
func (p *Process) WaitReady(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	exited := p.exited
	go func() {
		select {
		case <-exited:
			cancel(fmt.Errorf("it ended: %w", p.exitError()))
		case <-ctx.Done():
		}
	}()
	// There is no signal for "serves now", so this asks, often enough that tests do not wait for it.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not become ready: %w (last answer: %w)\n%s", p.name, context.Cause(ctx), err, p.tail())
		case <-tick.C:
		}
	}
}

// exitError says how the process ended. It must have.
func (p *Process) exitError() error {
	if p.err == nil {
		return errors.New("exit status 0")
	}
	return p.err
}

// tail is the end of the log, for error messages.
func (p *Process) tail() string {
	const lines = 40
	all := strings.Split(strings.TrimSpace(p.Log()), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "last lines of " + p.name + ":\n\t" + strings.Join(all, "\n\t")
}

// logBuffer keeps the last bytes written to it.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

const maxLog = 4 << 20

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buf.Len() > maxLog {
		l.buf.Next(l.buf.Len() / 2)
	}
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
