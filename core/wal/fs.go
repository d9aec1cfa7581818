package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// FS is what the log asks of a file system, and no more: narrow enough that a test can fail or tear any one
// operation. OS is the real one. Its methods may be called concurrently.
type FS interface {
	// MkdirAll makes dir and what is missing above it, and returns once the new names are durable.
	MkdirAll(dir string) error
	// Create opens an empty file for reading and writing, whatever was there before.
	Create(path string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(path string) (File, error)
	// Rename replaces to. Neither file is open. It is durable after SyncDir.
	Rename(from, to string) error
	// Remove deletes a file that is not open. It is durable after SyncDir.
	Remove(path string) error
	// List returns the names, without dir, of what dir holds.
	List(dir string) ([]string, error)
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
}

// File is an open file of an FS.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes what was written durable, and the file's size if that grew. Other metadata need not be.
	Sync() error
	// Size is the file's length in bytes.
	Size() (int64, error)
}

// OS is the operating system's file system.
func OS() FS { return osFS{} }

// Unsynced is fsys that never waits for the disk. What was written outlives the process, but not the machine.
func Unsynced(fsys FS) FS { return unsyncedFS{fsys} }

type unsyncedFS struct{ FS }

func (u unsyncedFS) Create(path string) (File, error) { return unsynced(u.FS.Create(path)) }

func (u unsyncedFS) Open(path string) (File, error) { return unsynced(u.FS.Open(path)) }

func (unsyncedFS) SyncDir(string) error { return nil }

func unsynced(f File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return unsyncedFile{f}, nil
}

type unsyncedFile struct{ File }

func (unsyncedFile) Sync() error { return nil }

type osFS struct{}

func (o osFS) MkdirAll(dir string) error {
	parent := filepath.Dir(dir)
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) && parent != dir {
		if err := o.MkdirAll(parent); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700) // once: where nothing can be made, as in a directory that is deleted, this stays so
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return checkDir(dir, err)
	case err != nil:
		return err
	}
	return o.SyncDir(parent)
}

// checkDir says why a directory cannot be made at path, if what is there, as exists says, is none.
func checkDir(path string, exists error) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is a symbolic link whose target is missing: %w", path, err)
	case err != nil:
		return err
	case !info.IsDir():
		return exists
	}
	return nil
}

func (osFS) Create(path string) (File, error) {
	return open(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}

func (osFS) Open(path string) (File, error) {
	return open(path, os.O_RDWR)
}

func (osFS) Rename(from, to string) error { return os.Rename(from, to) }

func (osFS) Remove(path string) error { return os.Remove(path) }

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// SyncDir does nothing on Windows, where a directory cannot be flushed and NTFS journals its names in order.
func (osFS) SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if err != nil {
		err = fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return errors.Join(err, d.Close())
}

func open(path string, flag int) (File, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err // not f: a nil *os.File is not a nil File
	}
	return osFile{f}, nil
}

type osFile struct{ *os.File }

func (f osFile) Sync() error { return datasync(f.File) }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
