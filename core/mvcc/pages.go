package mvcc

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// ErrDamaged says that the file does not hold what was written to it.
var ErrDamaged = errors.New("the file is damaged")

// pageCheck reads the trees of a bbolt file, level by level and each in the order of the file, and finds all that bbolt
// would stumble over: pages that are not what they say, what points outside of them, and keys that do not ascend.
//
// bbolt itself looks for such things when it opens a file, but in a goroutine of its own and through mapped memory, so that
// what it finds, or runs into, ends the process with a stack of functions. This is no proof that the values are right, for
// which bbolt has no checksums.
//
// A page is: its number (8 bytes), what it is (2), its count of elements (2), how many more pages belong to it (4); then
// the elements, 16 bytes each. An element of a branch: where its key is, seen from the element (4), the length of that
// (4), the number of the page below (8). Of a leaf: 1 if it is a bucket (4), where its key is (4), the lengths of that and
// of the value after it (4 each). A bucket's value begins with the number of its tree's first page, 0 if the tree is in
// the value. All in the byte order of the machine. (bbolt, internal/common/page.go)
type pageCheck struct {
	file     io.ReaderAt
	pageSize uint64
	end      uint64    // no page has this number or a greater one
	seen     []uint64  // a bit for each page
	below    []subtree // the next level

	elements []byte // of the page that is being looked at
	last     []byte // its last key

	window   []byte // what was read last, at windowAt
	windowAt uint64
}

// subtree is the page that it begins with, and what its keys must be: at least the one and below the other. There are no
// empty keys; an empty bound is none.
type subtree struct {
	page          uint64
	atLeast, upTo string
}

const (
	pageHeaderSize, elementSize = 16, 16
	branchPage, leafPage        = 1, 2
	bucketElement               = 1
	// windowBytes are read at once. No part of a page that is read in one piece is longer.
	windowBytes = 2 << 20
)

// checkPages checks the file at path, which nobody can write to meanwhile.
func checkPages(path string, o Options) (err error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: o.LockTimeout}) // reads nothing but where the tree begins
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return db.View(func(tx *bolt.Tx) error {
		if info.Size() < tx.Size() {
			return fmt.Errorf("%w: it has %d bytes, and should have %d", ErrDamaged, info.Size(), tx.Size())
		}
		size := uint64(db.Info().PageSize)
		c := pageCheck{file: f, pageSize: size, end: uint64(tx.Size()) / size}
		c.seen = make([]uint64, c.end/64+1)
		return c.run(uint64(tx.Cursor().Bucket().Root()))
	})
}

func (c *pageCheck) run(root uint64) error {
	for level := []subtree{{page: root}}; len(level) > 0; {
		slices.SortFunc(level, func(a, b subtree) int { return cmp.Compare(a.page, b.page) })
		for _, t := range level {
			if err := c.check(t); err != nil {
				return fmt.Errorf("%w: page %d, at byte %d: %w", ErrDamaged, t.page, t.page*c.pageSize, err)
			}
		}
		level, c.below = c.below, level[:0]
	}
	return nil
}

// check looks at the first page of a subtree, and remembers those below it.
func (c *pageCheck) check(t subtree) error {
	if t.page < 2 || t.page >= c.end { // the first two say where the tree begins
		return errors.New("it is pointed to, and is none of the tree's")
	}
	head, err := c.read(t.page*c.pageSize, pageHeaderSize)
	if err != nil {
		return err
	}
	kind, count := binary.NativeEndian.Uint16(head[8:]), uint64(binary.NativeEndian.Uint16(head[10:]))
	pages := 1 + uint64(binary.NativeEndian.Uint32(head[12:]))
	switch number := binary.NativeEndian.Uint64(head); {
	case number != t.page:
		return fmt.Errorf("it says that it is page %d", number)
	case kind != branchPage && kind != leafPage, kind == branchPage && count == 0:
		return fmt.Errorf("it is of no kind that can be here (%d, with %d elements)", kind, count)
	case t.page+pages > c.end:
		return errors.New("it goes beyond the end of the file")
	}
	for p := t.page; p < t.page+pages; p++ {
		if c.seen[p/64]&(1<<(p%64)) != 0 {
			return errors.New("it belongs to the tree twice")
		}
		c.seen[p/64] |= 1 << (p % 64)
	}
	body := pageHeaderSize + count*elementSize
	if body > pages*c.pageSize {
		return errors.New("it has more elements than it has room for")
	}
	all, err := c.read(t.page*c.pageSize, body)
	if err != nil {
		return err
	}
	c.elements, c.last = append(c.elements[:0], all...), c.last[:0]
	for at := uint64(pageHeaderSize); at < body; at += elementSize {
		e := newElement(kind, c.elements[at:])
		e.pos += at
		if e.pos < body || e.pos+e.keySize+e.valueSize > pages*c.pageSize || e.keySize == 0 || e.keySize > bolt.MaxKeySize {
			return fmt.Errorf("its element %d is not within it", at/elementSize-1)
		}
		if err := c.checkElement(t, kind, e); err != nil {
			return fmt.Errorf("its element %d %w", at/elementSize-1, err)
		}
	}
	return nil
}

// checkElement looks at the key of an element, and at what is below.
func (c *pageCheck) checkElement(t subtree, kind uint16, e element) error {
	at := t.page*c.pageSize + e.pos
	key, err := c.read(at, e.keySize)
	switch {
	case err != nil:
		return fmt.Errorf("has no key: %w", err)
	case bytes.Compare(c.last, key) >= 0, string(key) < t.atLeast, t.upTo != "" && string(key) >= t.upTo:
		return errors.New("is not where its key belongs")
	}
	if kind == branchPage {
		below := subtree{page: e.child, atLeast: string(key), upTo: t.upTo}
		if len(c.last) > 0 {
			c.below[len(c.below)-1].upTo = below.atLeast
		}
		c.below = append(c.below, below)
	}
	c.last = append(c.last[:0], key...)
	if !e.isBucket {
		return nil
	}
	if e.valueSize < 16 {
		return errors.New("is too short for a bucket")
	}
	value, err := c.read(at+e.keySize, 8)
	if err != nil {
		return fmt.Errorf("has no value: %w", err)
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		c.below = append(c.below, subtree{page: root})
	}
	return nil
}

// element is one of a page.
type element struct {
	pos, keySize, valueSize uint64
	isBucket                bool
	child                   uint64
}

func newElement(kind uint16, b []byte) element {
	u32 := func(at int) uint64 { return uint64(binary.NativeEndian.Uint32(b[at:])) }
	if kind == branchPage {
		return element{pos: u32(0), keySize: u32(4), child: binary.NativeEndian.Uint64(b[8:])}
	}
	return element{isBucket: u32(0)&bucketElement != 0, pos: u32(4), keySize: u32(8), valueSize: u32(12)}
}

// read returns n bytes of the file, at most windowBytes. They are valid until the next call.
func (c *pageCheck) read(at, n uint64) ([]byte, error) {
	if at < c.windowAt || at+n > c.windowAt+uint64(len(c.window)) {
		if c.window == nil {
			c.window = make([]byte, windowBytes)
		}
		got, err := c.file.ReadAt(c.window[:windowBytes], int64(at))
		if err != nil && !(errors.Is(err, io.EOF) && uint64(got) >= n) {
			c.window = c.window[:0]
			return nil, err
		}
		c.window, c.windowAt = c.window[:got], at
	}
	return c.window[at-c.windowAt:][:n], nil
}

// guarded makes an error of what bbolt panics with when a file is not as it expects, and of mapped memory that cannot be
// read because the disk fails or the file has become shorter. It holds for the goroutine that calls it.
func guarded(log *slog.Logger, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch r := recover().(type) {
		case nil:
			return
		case interface{ Addr() uintptr }: // see debug.SetPanicOnFault
			err = fmt.Errorf("%w: a part of it cannot be read", ErrDamaged)
		default:
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
		log.Debug("what came upon the damage", "stack", string(debug.Stack()))
	}()
	return fn()
}
