package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

// disk is a file system in memory with the faults of a real one. What was written is read back at once, but survives
// crash only if it was synced; of what was not, each sector and each change of a name may have landed or not. Names
// of open files cannot be changed, as on Windows.
type disk struct {
	mu      sync.Mutex
	rng     *rand.Rand
	names   map[string]*inode
	durable map[string]*inode
	changes []func(names map[string]*inode) // of names, since the last SyncDir
	open    int                             // files

	ops     int  // operations that change something, so far
	failAt  int  // which of them fails; 0 is none
	stays   bool // every operation after it fails too
	fault   error
	faulted bool

	capacity int           // in bytes of all files, if it is not 0
	held     chan struct{} // if not nil, each Sync takes one from it first
}

type inode struct {
	data    []byte
	durable []byte
	dirty   map[int]bool // sectors in which data is newer than durable, and which the next Sync writes
	open    int
}

var errFault = errors.New("injected fault")

func newDisk(rng *rand.Rand) *disk {
	return &disk{rng: rng, names: map[string]*inode{}, durable: map[string]*inode{}, fault: errFault}
}

// failNext makes the n-th operation from now on fail, and all after it if stays.
func (d *disk) failNext(n int, stays bool, fault error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ops, d.failAt, d.stays, d.fault, d.faulted = 0, n, stays, fault, false
}

func (d *disk) hasFaulted() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.faulted
}

// begin counts an operation and returns its fault. d.mu is held.
func (d *disk) begin() error {
	d.ops++
	if d.failAt == 0 || d.ops < d.failAt || d.ops > d.failAt && !d.stays {
		return nil
	}
	d.faulted = true
	return d.fault
}

// change makes a change of names. One that fails may have been made nevertheless.
func (d *disk) change(f func(names map[string]*inode)) error {
	err := d.begin()
	if err == nil || d.rng.IntN(2) == 0 {
		f(d.names)
		d.changes = append(d.changes, f)
	}
	return err
}

// crash returns what is found on the disk after the power was lost.
func (d *disk) crash() *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, change := range d.changes {
		if d.rng.IntN(2) == 0 {
			change(d.durable)
		}
	}
	after := newDisk(d.rng)
	for name, i := range d.durable {
		survived := slices.Clone(i.durable)
		for sector := range i.dirty {
			if d.rng.IntN(2) == 0 {
				survived = copySector(survived, i.data, sector)
			}
		}
		i = &inode{data: survived, durable: slices.Clone(survived), dirty: map[int]bool{}}
		after.names[name], after.durable[name] = i, i
	}
	return after
}

// clone returns a copy of the disk, all of it synced.
func (d *disk) clone() *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := newDisk(d.rng)
	for name, i := range d.names {
		i = &inode{data: slices.Clone(i.data), durable: slices.Clone(i.data), dirty: map[int]bool{}}
		c.names[name], c.durable[name] = i, i
	}
	return c
}

// content is what the file holds now. The caller may change it if no log is open.
func (d *disk) content(path string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.names[path].data
}

func copySector(to, from []byte, sector int) []byte {
	start := sector * sectorSize
	end := min(start+sectorSize, len(from))
	if len(to) < end {
		to = append(to, make([]byte, end-len(to))...)
	}
	copy(to[start:end], from[start:end])
	return to
}

func (d *disk) MkdirAll(string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.begin()
}

func (d *disk) Create(path string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.names[path]; old != nil && old.open > 0 {
		return nil, fmt.Errorf("create %s: it is open", path)
	}
	i := &inode{dirty: map[int]bool{}}
	if err := d.change(func(names map[string]*inode) { names[path] = i }); err != nil {
		return nil, err
	}
	return d.opened(i), nil
}

func (d *disk) Open(path string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := d.names[path]
	if i == nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	if err := d.begin(); err != nil {
		return nil, err
	}
	return d.opened(i), nil
}

func (d *disk) opened(i *inode) File {
	i.open++
	d.open++
	return &diskFile{disk: d, inode: i}
}

func (d *disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := d.names[from]
	switch {
	case i == nil:
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	case i.open > 0:
		return fmt.Errorf("rename %s: it is open", from)
	}
	return d.change(func(names map[string]*inode) {
		delete(names, from)
		names[to] = i
	})
}

func (d *disk) Remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := d.names[path]
	switch {
	case i == nil:
		return &fs.PathError{Op: "remove", Path: path, Err: fs.ErrNotExist}
	case i.open > 0:
		return fmt.Errorf("remove %s: it is open", path)
	}
	return d.change(func(names map[string]*inode) { delete(names, path) })
}

func (d *disk) List(dir string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for path := range d.names {
		if filepath.Dir(path) == dir {
			names = append(names, filepath.Base(path))
		}
	}
	return names, nil
}

func (d *disk) SyncDir(string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.begin(); err != nil {
		return err
	}
	for _, change := range d.changes {
		change(d.durable)
	}
	d.changes = nil
	return nil
}

// grow fails if there is no room for the file to have size bytes. d.mu is held.
func (d *disk) grow(i *inode, size int) error {
	if d.capacity == 0 || size <= len(i.data) {
		return nil
	}
	used := size - len(i.data)
	for _, other := range d.names {
		used += len(other.data)
	}
	if used > d.capacity {
		return syscall.ENOSPC
	}
	return nil
}

// used is the length of all files.
func (d *disk) used() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	used := 0
	for _, i := range d.names {
		used += len(i.data)
	}
	return used
}

type diskFile struct {
	disk   *disk
	inode  *inode
	closed bool
}

func (f *diskFile) ReadAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.closed {
		return 0, fs.ErrClosed
	}
	if off >= int64(len(f.inode.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.inode.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes any of the sectors if it fails.
func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.closed {
		return 0, fs.ErrClosed
	}
	if err := f.disk.grow(f.inode, int(off)+len(p)); err != nil {
		return 0, err
	}
	err := f.disk.begin()
	after := slices.Clone(f.inode.data)
	if end := int(off) + len(p); len(after) < end {
		after = append(after, make([]byte, end-len(after))...)
	}
	copy(after[off:], p)
	for sector := int(off) / sectorSize; sector*sectorSize < int(off)+len(p); sector++ {
		if err == nil || f.disk.rng.IntN(2) == 0 {
			f.inode.data = copySector(f.inode.data, after, sector)
			f.inode.dirty[sector] = true
		}
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Sync writes any of the sectors if it fails, and forgets the others, as Linux does: they are still read as they were
// written, but a later Sync does not write them.
func (f *diskFile) Sync() error {
	if f.disk.held != nil {
		<-f.disk.held
	}
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	err := f.disk.begin()
	for sector := range f.inode.dirty {
		if err == nil || f.disk.rng.IntN(2) == 0 {
			f.inode.durable = copySector(f.inode.durable, f.inode.data, sector)
		}
	}
	clear(f.inode.dirty)
	return err
}

func (f *diskFile) Size() (int64, error) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	return int64(len(f.inode.data)), nil
}

func (f *diskFile) Close() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	f.closed = true
	f.inode.open--
	f.disk.open--
	return nil
}
