package proc

import "golang.org/x/sys/unix"

// awaitStopped waits until a child that was sent SIGSTOP has stopped or ended. The signal takes its time: on a busy machine
// threads run, and answer, for a while after it was sent.
func awaitStopped(pid int) error {
	for {
		// WNOWAIT leaves the child's end for who waits for that.
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		switch err {
		case unix.EINTR:
		case unix.ECHILD: // it has ended and was waited for
			return nil
		default:
			return err
		}
	}
}
