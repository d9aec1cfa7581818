package proc

import (
	"bytes"
	"fmt"
	"os"
)

// Memory is how many bytes of physical memory the process has (its RSS). It works on Linux only.
func (p *Process) Memory() (int64, error) {
	n, err := MemoryOf(p.Pid())
	if err != nil {
		return 0, fmt.Errorf("%s: %w", p.name, err)
	}
	return n, nil
}

// MemoryOf is Memory of any process on this machine, by its id. To read it of another user's needs privileges.
func MemoryOf(pid int) (int64, error) {
	// /proc/<pid>/status has it too, but only roughly: see proc_pid_status(5).
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	_, rest, _ := bytes.Cut(rollup, []byte("\nRss:"))
	var kib int64
	if _, err := fmt.Fscanf(bytes.NewReader(rest), "%d kB", &kib); err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %q is not as proc_pid_smaps(5) says: %w", pid, rollup, err)
	}
	return kib << 10, nil
}
