package wal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	// formatVersion is that of new segments, and oldestVersion the oldest that is read: they differ in the kinds of records.
	formatVersion, oldestVersion = 2, 1

	segmentMagic      = "weir-wal"
	segmentHeaderSize = sectorSize
	segmentSuffix     = ".wal"
	// zeroChunk is how much of a new segment is written between two syncs: a commit of the active segment that
	// comes meanwhile finds at most this much before it in the disk's queue.
	zeroChunk = 1 << 20
)

// segmentHeader is the first sector of a segment, as drawn in the package comment.
type segmentHeader struct {
	version  uint32
	logID    uint64
	number   uint64
	firstSeq uint64 // the sequence number of its first batch
}

func (h segmentHeader) append(buf []byte) []byte {
	start := len(buf)
	buf = append(buf, segmentMagic...)
	buf = binary.LittleEndian.AppendUint32(buf, h.version)
	buf = binary.LittleEndian.AppendUint64(buf, h.logID)
	buf = binary.LittleEndian.AppendUint64(buf, h.number)
	buf = binary.LittleEndian.AppendUint64(buf, h.firstSeq)
	buf = append(buf, make([]byte, segmentHeaderSize-4-(len(buf)-start))...)
	return binary.LittleEndian.AppendUint32(buf, checksum(buf[start:]))
}

// parseSegmentHeader reads b, one sector. The error says why it is not a segment's header. Of a header of another
// version only the version can be believed.
func parseSegmentHeader(b []byte) (segmentHeader, error) {
	if !bytes.HasPrefix(b, []byte(segmentMagic)) {
		return segmentHeader{}, errors.New("there is no segment header")
	}
	h := segmentHeader{
		version:  binary.LittleEndian.Uint32(b[8:]),
		logID:    binary.LittleEndian.Uint64(b[12:]),
		number:   binary.LittleEndian.Uint64(b[20:]),
		firstSeq: binary.LittleEndian.Uint64(b[28:]),
	}
	if h.version < oldestVersion || h.version > formatVersion {
		return h, nil // its checksum is for those who know that version
	}
	if sum := len(b) - 4; binary.LittleEndian.Uint32(b[sum:]) != checksum(b[:sum]) {
		return h, errors.New("the segment header does not match its checksum")
	}
	return h, nil
}

func segmentPath(dir string, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016x%s", number, segmentSuffix))
}

// listSegments returns the numbers of the segments in dir, ascending. A directory that does not exist has none.
func listSegments(fsys FS, dir string) ([]uint64, error) {
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list WAL segments: %w", err)
	}
	var numbers []uint64
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, segmentSuffix)
		if !ok || len(digits) != 16 {
			continue
		}
		if number, err := strconv.ParseUint(digits, 16, 64); err == nil {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// createZeroed creates a file of size zero bytes and makes them durable. The zeros are written, not merely
// reserved: the first write to a reserved block makes the file system commit its journal at the next fdatasync, a
// write to a written one does not. If it fails, or ctx ends, it leaves no file.
func createZeroed(ctx context.Context, fsys FS, path string, size int64) (_ File, err error) {
	file, err := fsys.Create(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close(), fsys.Remove(path))
		}
	}()
	zeros := make([]byte, min(size, zeroChunk))
	for off := int64(0); off < size; off += zeroChunk {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if _, err := file.WriteAt(zeros[:min(size-off, zeroChunk)], off); err != nil {
			return nil, fmt.Errorf("preallocate %d bytes: %w", size, err)
		}
		if err := file.Sync(); err != nil {
			return nil, fmt.Errorf("preallocate %d bytes: %w", size, err)
		}
	}
	return file, nil
}

// window reads a file through one buffer, which grows to the largest piece asked for.
type window struct {
	file File
	size int64 // of the file
	buf  []byte
	off  int64 // of buf in the file
}

const windowSize = 256 << 10

func newWindow(file File) (*window, error) {
	size, err := file.Size()
	if err != nil {
		return nil, err
	}
	return &window{file: file, size: size}, nil
}

// at returns the n bytes at off, valid until the next call. It returns false if the file ends before them, and
// allocates nothing then.
func (w *window) at(off, n int64) ([]byte, bool, error) {
	if n > w.size-off {
		return nil, false, nil
	}
	if off < w.off || off+n > w.off+int64(len(w.buf)) {
		want := min(max(n, windowSize), w.size-off)
		if int64(cap(w.buf)) < want {
			w.buf = make([]byte, want)
		}
		w.buf, w.off = w.buf[:want], off
		if got, err := w.file.ReadAt(w.buf, off); got < len(w.buf) {
			w.buf = w.buf[:0]
			return nil, false, err
		}
	}
	return w.buf[off-w.off:][:n], true, nil
}

func isZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
