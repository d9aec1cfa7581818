package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// CheckDirectory looks at the directory of a flag, which may not be there yet, and makes nothing. It refuses one that this user could not
// make or write to, and doubts one that others can read.
func CheckDirectory(flag, path string) (refused, doubt error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return checkParent(flag, path), nil
	case err != nil:
		return fmt.Errorf("--%s=%s: %w: give a directory that this user can use", flag, path, err), nil
	case !info.IsDir():
		return fmt.Errorf("--%s=%s is not a directory: give one, or the name of one to be made", flag, path), nil
	case !writable(path):
		return fmt.Errorf("--%s=%s cannot be written by this user: change its owner or its mode, or give another one", flag, path), nil
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("--%s=%s can be used by others, with mode %#o: make it 0700", flag, path, info.Mode().Perm())
	}
	return nil, nil
}

// checkParent is about a directory that is to be made.
func checkParent(flag, path string) error {
	for parent := filepath.Dir(filepath.Clean(path)); ; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		switch {
		case errors.Is(err, fs.ErrNotExist) && parent != filepath.Dir(parent):
		case err != nil:
			return fmt.Errorf("--%s=%s: %w: give a directory that this user can make", flag, path, err)
		case !info.IsDir() || !writable(parent):
			return fmt.Errorf("--%s=%s cannot be made in %s by this user: change that one's owner or mode, or give another one", flag, path, parent)
		default:
			return nil
		}
	}
}

// checkFile is about a file that is to be appended to, or to be made in a directory that is there.
func checkFile(flag, path string) error {
	info, err := os.Stat(path)
	made := errors.Is(err, fs.ErrNotExist)
	if made {
		info, err = os.Stat(filepath.Dir(path))
	}
	switch {
	case err == nil && made && (!info.IsDir() || !writable(filepath.Dir(path))):
		return fmt.Errorf("--%s=%s cannot be made in %s by this user: change that one's owner or mode, or give another one", flag, path, filepath.Dir(path))
	case err == nil && !made && info.IsDir():
		return fmt.Errorf("--%s=%s is a directory: give a file", flag, path)
	case err == nil && info.Mode().IsRegular(): // a pipe would wait for its reader
		var f *os.File
		if f, err = os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0); err == nil {
			f.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("--%s=%s: %w: give a file that can be written, in a directory that is there", flag, path, err)
	}
	return nil
}
