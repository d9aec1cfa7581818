package proc

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Pause stops the process where it is, as SIGSTOP does: its connections stay open and nothing answers on them. On Linux it
// returns when all threads have stopped. A process that has ended is left alone.
func (p *Process) Pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	if err := awaitStopped(p.Pid()); err != nil {
		return fmt.Errorf("wait until %s has stopped: %w", p.name, err)
	}
	return nil
}

// Resume lets a paused process go on. It does nothing to another, nor to one that has ended.
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *Process) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %s: %w", s, p.name, err)
	}
	return nil
}
