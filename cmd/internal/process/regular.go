package process

import (
	"errors"
	"io/fs"
	"os"
)

// ReadRegular reads a file that may have been replaced by whatever. What is no regular file it refuses: a pipe has what was read from it no
// more, and to open or read it may never end, as would then who waits for the Reloader.
func ReadRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errNotRegular}
	}
	return os.ReadFile(path)
}

var errNotRegular = errors.New("it is no regular file")
