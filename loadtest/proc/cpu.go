package proc

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the processor time that the process has taken so far, in user and kernel mode, those threads included that have
// ended. It is exact to less than a microsecond, where /proc/<pid>/stat counts in steps of 10 ms. It works on Linux only.
func (p *Process) CPU() (time.Duration, error) {
	d, err := CPUOf(p.Pid())
	if err != nil {
		return 0, fmt.Errorf("%s: %w", p.name, err)
	}
	return d, nil
}

// CPUOf is CPU of any process on this machine, by its id.
func CPUOf(pid int) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(cpuClock(pid), &t); err != nil {
		return 0, fmt.Errorf("read the processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// cpuClock is the id that clock_getcpuclockid(3) gives, CPUCLOCK_SCHED of a process.
func cpuClock(pid int) int32 { return int32(^pid<<3 | 2) }
