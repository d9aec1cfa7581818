package proc

import "syscall"

// endWithParent has the kernel kill a process when the thread that started it ends, and so with this process however it
// ends: see PR_SET_PDEATHSIG(2const).
func endWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
