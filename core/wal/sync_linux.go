package wal

import (
	"os"

	"golang.org/x/sys/unix"
)

// datasync is fdatasync(2): unlike fsync it does not write the inode for a new modification time alone, so that
// a write into blocks that already exist costs one disk write and not a journal commit as well.
func datasync(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var syncErr error
	err = conn.Control(func(fd uintptr) {
		for {
			syncErr = unix.Fdatasync(int(fd))
			if syncErr != unix.EINTR {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	if syncErr != nil {
		return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: syncErr}
	}
	return nil
}
