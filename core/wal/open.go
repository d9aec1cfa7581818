package wal

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
)

// firstSegmentBytes bounds the first segment of a log, which is zeroed while Create waits.
const firstSegmentBytes = 4 << 20

// Recovered is what Open found on disk.
type Recovered struct {
	// Metadata is what Create was given.
	Metadata []byte
	// HardState is the last one written, empty if there was none; never nil.
	HardState *raftpb.HardState
	// Entries are all entries after the cut, contiguous, the first one being FirstIndex. Their Data may be kept.
	Entries []*raftpb.Entry
	// FirstIndex is the cut + 1: the index of the first entry kept or, if there are none, of the next to be
	// appended.
	FirstIndex uint64
	// Snapshot is that of the last Replace, the zero value if there was none. A caller whose state is older has been cut off
	// while it installed the snapshot.
	Snapshot Snapshot
}

// Exists reports whether dir holds a log. A directory that is not there holds none. A nil fsys is OS().
func Exists(dir string, fsys FS) (bool, error) {
	if fsys == nil {
		fsys = OS()
	}
	numbers, err := listSegments(fsys, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a WAL in %s: %w", dir, err)
	}
	return len(numbers) > 0, nil
}

// Create makes a new log in dir, which is created if it is missing and must not hold one yet. metadata is given back
// by every Open. A crash leaves either no log or a whole one; if Create returned, the log is durable. The caller keeps
// other processes out of dir.
func Create(dir string, metadata []byte, o Options) (*Log, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := create(dir, metadata, o); err != nil {
		return nil, fmt.Errorf("create a WAL in %s: %w", dir, err)
	}
	l, _, err := Open(dir, o)
	return l, err
}

func create(dir string, metadata []byte, o Options) (err error) {
	if len(metadata) > maxBatch {
		return fmt.Errorf("metadata of %d bytes is too large", len(metadata))
	}
	if err := o.FS.MkdirAll(dir); err != nil {
		return err
	}
	numbers, err := listSegments(o.FS, dir)
	if err != nil {
		return err
	}
	if len(numbers) > 0 {
		return errors.New("the directory holds a WAL already")
	}
	path := segmentPath(dir, 1)
	unfinished := path + ".tmp"
	file, err := createZeroed(context.Background(), o.FS, unfinished, min(o.SegmentBytes, firstSegmentBytes))
	if err != nil {
		return err
	}
	a := appender{dir: dir, logID: newLogID(), metadata: metadata, seq: 1, metrics: newMetrics()}
	if err := errors.Join(a.begin(file, 1), file.Close()); err != nil {
		return errors.Join(err, o.FS.Remove(unfinished))
	}
	return o.FS.Rename(unfinished, path) // durable once Open has synced the directory
}

// newLogID returns a random number that is not 0, so that zeros are never of this log.
func newLogID() uint64 {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // never fails, it ends the process instead
		if id := binary.LittleEndian.Uint64(b[:]); id != 0 {
			return id
		}
	}
}

// Open reads the log in dir, mends what a crash left at its end, and makes it ready for appending. What it returns
// is durable. It fails with a CorruptError if the log is damaged elsewhere than at its end, and with a FormatError if
// it was written in an unknown format. The caller keeps other processes out of dir.
func Open(dir string, o Options) (*Log, *Recovered, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	r := recovery{dir: dir, fs: o.FS, logger: o.Logger, hardState: &raftpb.HardState{}}
	if err := r.run(); err != nil {
		return nil, nil, fmt.Errorf("open the WAL in %s: %w", dir, err)
	}
	a := &appender{
		dir: dir, fs: o.FS, logger: o.Logger, segmentBytes: o.SegmentBytes, metrics: newMetrics(),
		logID: r.logID, metadata: r.metadata, hardState: r.encodedHardState, cut: r.cut, snapshot: r.snapshot, seq: r.seq, prev: r.prev,
		file: r.active.file, number: r.active.number, pos: r.pos, size: r.active.size, bare: r.bare,
	}
	a.prepareNext()
	recovered := &Recovered{
		Metadata:   slices.Clone(r.metadata),
		HardState:  r.hardState,
		Entries:    slices.Clone(r.entries), // without the room of those that were cut
		FirstIndex: r.cut + 1,
		Snapshot:   r.snapshot,
	}
	return start(a, r.segments, r.cut+uint64(len(r.entries)), r.cut), recovered, nil
}
