//go:build unix

package process

import "golang.org/x/sys/unix"

// writable tells whether this user can make files in a directory.
func writable(dir string) bool { return unix.Access(dir, unix.W_OK|unix.X_OK) == nil }
