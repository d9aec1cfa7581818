package proc

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Pause stops the process where it is, as SIGSTOP does: its connections stay open and nothing answers on them.
func (p *Process) Pause() error { return p.signal(syscall.SIGSTOP) }

// Resume lets a paused process go on. It does nothing to another, nor to one that has ended.
func (p *Process) Resume() error { return p.signal(syscall.SIGCONT) }

func (p *Process) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %s: %w", s, p.name, err)
	}
	return nil
}
