package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// appender writes batches at the end of the log, one segment after another. It belongs to the writer goroutine.
//
// The next segment is made in the background once the active one is half full, under its final name: the file
// becomes a segment by its first batch being synced, and Open removes one that did not get that far. Rejected: a
// temporary name and a rename (two more synchronous directory operations between two batches) and
// reusing segments that were cut (it saves the zeros, but what a torn write leaves could then be old batches).
type appender struct {
	dir          string
	fs           FS
	logger       *slog.Logger
	segmentBytes int64
	metrics      metrics

	logID     uint64
	metadata  []byte
	hardState []byte   // encoded, as of the last batch written
	cut       uint64   // as of the last batch written
	snapshot  Snapshot // likewise
	seq       uint64   // of the next batch
	prev      uint32   // the sum of the last batch

	file   File
	number uint64 // of the active segment
	pos    int64  // where the next batch goes
	size   int64  // of the file
	bare   bool   // the active segment holds its first batch only

	next       chan created // what became of the next segment, when it is being made; else nil
	cancelNext context.CancelFunc
}

type created struct {
	file File
	err  error
}

// append writes b and returns when it is durable. After an error the appender must not be used but for close.
func (a *appender) append(b *batch) error {
	room := a.size - a.pos
	if !b.isCutOnly() {
		room -= sectorSize // kept for a cut: it must be possible where the disk has no room for another segment
	}
	if roundUp(int64(len(b.buf))) > room && !a.bare {
		if err := a.roll(); err != nil {
			return err
		}
	}
	var sum uint32
	b.buf, sum = sealBatch(b.buf, a.logID, a.seq, a.prev)
	if err := a.write(b.buf, a.pos); err != nil {
		return err
	}
	a.advance(int64(len(b.buf)), sum)
	a.bare = false
	if len(b.hardState) > 0 {
		a.hardState = append(a.hardState[:0], b.hardState...)
	}
	a.cut = max(a.cut, b.cut)
	if b.snapshot != (Snapshot{}) {
		a.snapshot = b.snapshot
	}
	a.prepareNext()
	return nil
}

// begin makes file, which is zeroed and synced, a segment: it writes header and first batch.
func (a *appender) begin(file File, number uint64) error {
	size, err := file.Size()
	if err != nil {
		return err
	}
	header := segmentHeader{version: formatVersion, logID: a.logID, number: number, firstSeq: a.seq}
	first := appendRecord(make([]byte, batchHeaderSize), kindMetadata, a.metadata)
	first = appendRecord(first, kindHardState, a.hardState)
	if a.snapshot != (Snapshot{}) {
		first = appendSnapshot(first, a.snapshot)
	}
	first = appendCut(first, a.cut)
	first, sum := sealBatch(first, a.logID, a.seq, a.prev)

	a.file, a.number, a.size, a.pos, a.bare = file, number, size, 0, true
	if err := a.write(append(header.append(nil), first...), 0); err != nil {
		return err
	}
	a.advance(int64(segmentHeaderSize+len(first)), sum)
	return nil
}

func (a *appender) write(p []byte, off int64) error {
	start := time.Now()
	_, err := a.file.WriteAt(p, off)
	written := time.Now()
	if err == nil {
		err = a.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("write batch %d at offset %d of WAL segment %s: %w", a.seq, off, segmentPath(a.dir, a.number), err)
	}
	a.metrics.wrote(len(p), written.Sub(start), time.Since(written))
	return nil
}

func (a *appender) advance(written int64, sum uint32) {
	a.pos += written
	a.size = max(a.size, a.pos)
	a.seq++
	a.prev = sum
}

// prepareNext has the next segment made, if it is time and that was not begun.
func (a *appender) prepareNext() {
	if a.next != nil || a.pos < a.size/2 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	next, number := make(chan created, 1), a.number+1
	a.next, a.cancelNext = next, cancel
	go func() {
		file, err := a.create(ctx, number)
		next <- created{file, err}
	}()
}

// create makes the file of a segment, zeroed and named durably. It uses only fields that never change.
func (a *appender) create(ctx context.Context, number uint64) (File, error) {
	path := segmentPath(a.dir, number)
	file, err := createZeroed(ctx, a.fs, path, a.segmentBytes)
	if err != nil {
		return nil, fmt.Errorf("create WAL segment %s: %w", path, err)
	}
	if err := a.fs.SyncDir(a.dir); err != nil {
		return nil, errors.Join(fmt.Errorf("create WAL segment %s: %w", path, err), file.Close())
	}
	return file, nil
}

// roll makes the next segment the active one.
func (a *appender) roll() error {
	file, err := a.takeNext()
	if err != nil {
		return err
	}
	full, path := a.file, segmentPath(a.dir, a.number)
	if err := a.begin(file, a.number+1); err != nil {
		return errors.Join(err, full.Close())
	}
	if err := full.Close(); err != nil {
		a.logger.Warn("could not close a full WAL segment", "segment", path, "error", err)
	}
	return nil
}

// takeNext returns the file that was made in the background. It makes one itself if none was, because the batch to
// come is larger than half a segment, or if that failed: room may have been made on the disk since, and that file
// never held anything of the log.
func (a *appender) takeNext() (File, error) {
	if a.next != nil {
		file, err := a.awaitNext()
		if err == nil {
			return file, nil
		}
		a.logger.Warn("could not make a WAL segment ahead of need, trying again", "error", err)
	}
	return a.create(context.Background(), a.number+1)
}

func (a *appender) awaitNext() (File, error) {
	made := <-a.next
	a.cancelNext()
	a.next = nil
	return made.file, made.err
}

// close ends what goes on in the background and closes all files.
func (a *appender) close() error {
	err := a.file.Close()
	if a.next != nil {
		a.cancelNext()
		if file, nextErr := a.awaitNext(); nextErr == nil {
			err = errors.Join(err, file.Close())
		}
	}
	return err
}

func appendCut(buf []byte, index uint64) []byte {
	return appendRecord(buf, kindCut, binary.LittleEndian.AppendUint64(nil, index))
}

func appendSnapshot(buf []byte, s Snapshot) []byte {
	body := binary.LittleEndian.AppendUint64(nil, s.Index)
	return appendRecord(buf, kindSnapshot, binary.LittleEndian.AppendUint64(body, s.Term))
}
