package suite

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// filesystem is the kind that a directory is on, by its number in statfs(2).
func filesystem(dir string) string {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return ""
	}
	switch s.Type {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlayfs"
	case unix.NFS_SUPER_MAGIC:
		return "nfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs (memory, no disk)"
	default:
		return fmt.Sprintf("of type %#x", s.Type)
	}
}

// fdatasync is how long it takes to make 4 KiB durable that were written over others, as a log does; the median, in
// microseconds.
func fdatasync(dir string) (float64, error) {
	const size, times = 4 << 10, 61
	name := filepath.Join(dir, "fdatasync")
	f, err := os.Create(name)
	if err != nil {
		return 0, fmt.Errorf("measure the disk: %w", err)
	}
	defer os.Remove(name)
	defer f.Close()
	if _, err := f.Write(make([]byte, size*times)); err != nil {
		return 0, fmt.Errorf("measure the disk: %w", err)
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("measure the disk: %w", err)
	}
	var took []time.Duration
	for i := range times {
		begun := time.Now()
		if _, err := f.WriteAt(make([]byte, size), int64(i*size)); err != nil {
			return 0, fmt.Errorf("measure the disk: %w", err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, fmt.Errorf("measure the disk: fdatasync: %w", err)
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	return float64(took[times/2].Nanoseconds()) / 1e3, nil
}
