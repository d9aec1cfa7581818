//go:build unix

package core

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// diskFree is how many bytes this user can still write on the file system of dir.
func diskFree(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("ask for the free space of %s: %w", dir, err)
	}
	return int64(s.Bavail) * int64(s.Bsize), nil //nolint:unconvert // their types differ between systems
}
