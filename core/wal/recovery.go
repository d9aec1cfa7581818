package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// recovery reads a log from its first segment to its end, and mends the end.
//
// A batch is written only after the one before it is synced. So at the first batch that is not whole there are two
// cases. If a later batch was begun, the bad one had been synced: it is corrupt, and the log is refused. If not, it is
// what a crash left of a write that nobody was told of, and it is zeroed. A header is enough to show that a batch was
// begun: it lies in one sector, has its own checksum, and names the log by a random number that no client knows, so
// that no value can imitate it.
type recovery struct {
	dir    string
	fs     FS
	logger *slog.Logger

	logID            uint64
	seq              uint64 // of the next batch
	prev             uint32 // the sum of the last batch
	metadata         []byte
	hardState        *raftpb.HardState
	encodedHardState []byte
	cut              uint64
	snapshot         Snapshot
	entries          []*raftpb.Entry
	segments         []segment // those that have a whole first batch

	active  *segmentFile // the last of segments
	start   int64        // where the last write began: its last batch, with the segment header if it is the first
	pos     int64        // where it ended
	bare    bool         // the active segment holds its first batch only
	highest uint64       // the highest index of its entries

	// tail is why the next batch is not whole, and where: an error only if a later one was begun.
	tail CorruptError
}

// blank is the reason of a tail where nothing was ever written.
const blank = "nothing was written here"

// segmentFile is an open segment that is being read.
type segmentFile struct {
	*window
	path   string
	number uint64
}

// read returns the n bytes at off, valid until the next call, or false if the file ends before them.
func (s *segmentFile) read(off, n int64) ([]byte, bool, error) {
	p, ok, err := s.at(off, n)
	if err != nil {
		return nil, false, fmt.Errorf("read WAL segment %s at offset %d: %w", s.path, off, err)
	}
	return p, ok, nil
}

func (r *recovery) run() (err error) {
	defer func() {
		if err != nil && r.active != nil {
			err = errors.Join(err, r.active.file.Close())
		}
	}()
	numbers, err := listSegments(r.fs, r.dir)
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return errors.New("there is none")
	}
	var leftover []uint64
	for i, number := range numbers {
		if i > 0 && number != numbers[i-1]+1 {
			missing := segmentPath(r.dir, numbers[i-1]+1)
			return &CorruptError{Path: missing, Reason: "the segment is missing, and later ones are there"}
		}
		begun, err := r.begin(number)
		if err != nil {
			return err
		}
		if !begun {
			leftover = numbers[i:]
			break
		}
		if err := r.replay(); err != nil {
			return err
		}
	}
	if err := r.checkEntries(); err != nil {
		return err
	}
	return r.mend(leftover)
}

func (r *recovery) open(number uint64) (*segmentFile, error) {
	path := segmentPath(r.dir, number)
	file, err := r.fs.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open WAL segment %s: %w", path, err)
	}
	w, err := newWindow(file)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open WAL segment %s: %w", path, err), file.Close())
	}
	return &segmentFile{window: w, path: path, number: number}, nil
}

// begin makes a segment the active one, if its header and its first batch are whole. It returns false if they are
// not, and it is not the log's first segment.
func (r *recovery) begin(number uint64) (begun bool, err error) {
	s, err := r.open(number)
	if err != nil {
		return false, err
	}
	defer func() {
		if !begun {
			err = errors.Join(err, s.file.Close())
		}
	}()
	r.highest = 0
	var offset, size int64
	flaw, err := r.readHeader(s)
	if flaw == "" && err == nil {
		offset = segmentHeaderSize
		size, flaw, err = r.next(s, offset)
	}
	if err != nil {
		return false, err
	}
	if flaw != "" {
		if r.active == nil {
			return false, &CorruptError{s.path, offset, flaw}
		}
		if r.tail.Reason == blank { // the segment before is whole
			r.tail = CorruptError{s.path, offset, flaw}
		}
		return false, nil
	}
	if r.metadata == nil {
		return false, &CorruptError{s.path, offset, "the segment does not begin with the log's metadata"}
	}
	if r.active != nil {
		if err := r.active.file.Close(); err != nil {
			return false, fmt.Errorf("close WAL segment %s: %w", r.active.path, err)
		}
	}
	r.active, r.segments = s, append(r.segments, segment{number: number})
	r.start, r.pos, r.bare = 0, segmentHeaderSize+size, true
	return true, nil
}

// readHeader reads the header of the segment after the active one, or of the log's first one, from which it takes
// what is to be expected of all others. flaw says why there is none.
func (r *recovery) readHeader(s *segmentFile) (flaw string, err error) {
	sector, ok, err := s.read(0, segmentHeaderSize)
	if err != nil {
		return "", err
	}
	if !ok || isZero(sector) {
		return blank, nil
	}
	h, err := parseSegmentHeader(sector)
	switch {
	case err != nil:
		return err.Error(), nil
	case h.version < oldestVersion || h.version > formatVersion:
		return "", &FormatError{s.path, fmt.Sprintf("format version %d", h.version)}
	case h.number != s.number:
		return "", &CorruptError{s.path, 0, fmt.Sprintf("this is segment %d of a log, under another's name", h.number)}
	case r.active == nil:
		r.logID, r.seq = h.logID, h.firstSeq
	case h.logID != r.logID:
		return "", &CorruptError{s.path, 0, "the segment is from another log"}
	case h.firstSeq < r.seq:
		return "", &CorruptError{s.path, 0, fmt.Sprintf("the segment begins with batch %d, which is in an earlier one", h.firstSeq)}
	case h.firstSeq > r.seq:
		return "", r.lost(h.firstSeq, s.path, 0)
	}
	return "", nil
}

// replay reads the active segment from its second batch to the first that is not whole.
func (r *recovery) replay() error {
	for {
		size, flaw, err := r.next(r.active, r.pos)
		if err != nil {
			return err
		}
		if flaw != "" {
			r.tail = CorruptError{r.active.path, r.pos, flaw}
			r.segments[len(r.segments)-1].highest = r.highest
			return nil
		}
		r.start, r.pos, r.bare = r.pos, r.pos+size, false
	}
}

// next reads the batch at off and applies it. flaw says why it is not whole; it is not applied then.
func (r *recovery) next(s *segmentFile, off int64) (size int64, flaw string, err error) {
	payload, h, flaw, err := r.readBatch(s, off)
	if err != nil || flaw != "" {
		return 0, flaw, err
	}
	if err := r.apply(payload, s.path, off); err != nil {
		return 0, "", err
	}
	r.seq, r.prev = r.seq+1, h.sum
	return h.size(), "", nil
}

func (r *recovery) readBatch(s *segmentFile, off int64) (payload []byte, h batchHeader, flaw string, err error) {
	sector, ok, err := s.read(off, sectorSize)
	if err != nil {
		return nil, h, "", err
	}
	if !ok || isZero(sector) {
		return nil, h, blank, nil
	}
	h, ok = parseBatchHeader(sector, r.logID)
	switch {
	case !ok:
		return nil, h, "the batch header does not match its checksum", nil
	case h.seq != r.seq:
		return nil, h, fmt.Sprintf("there is batch %d in place of batch %d", h.seq, r.seq), nil
	case h.prev != r.prev && r.active != nil:
		// No torn write looks like this: the batch before was another one when this one was written.
		return nil, h, "", &CorruptError{s.path, off, fmt.Sprintf("batch %d does not continue the one before it", h.seq)}
	}
	body, ok, err := s.read(off+batchHeaderSize, h.size()-batchHeaderSize)
	if err != nil {
		return nil, h, "", err
	}
	if !ok {
		return nil, h, fmt.Sprintf("batch %d is longer than its file", h.seq), nil
	}
	if checksum(body) != h.payloadSum {
		return nil, h, fmt.Sprintf("batch %d does not match its checksum", h.seq), nil
	}
	return body[:h.length], h, "", nil
}

// apply adds the records of a whole batch to what is recovered. What it finds wrong was written so.
func (r *recovery) apply(payload []byte, path string, off int64) error {
	for len(payload) > 0 {
		kind, body, rest, err := nextRecord(payload)
		if err != nil {
			return &CorruptError{path, off, err.Error()}
		}
		payload = rest
		switch kind {
		case kindMetadata:
			r.metadata = append([]byte{}, body...)
		case kindHardState:
			r.hardState = &raftpb.HardState{}
			r.encodedHardState = slices.Clone(body)
			err = proto.Unmarshal(body, r.hardState)
		case kindEntry:
			e := &raftpb.Entry{}
			if err = proto.Unmarshal(body, e); err == nil {
				err = r.addEntry(e)
			}
		case kindCut:
			if len(body) != 8 {
				err = fmt.Errorf("a cut record has %d bytes", len(body))
				break
			}
			r.cut = max(r.cut, binary.LittleEndian.Uint64(body))
			r.dropCut()
		case kindSnapshot:
			if len(body) != 16 {
				err = fmt.Errorf("a snapshot record has %d bytes", len(body))
				break
			}
			r.replace(Snapshot{binary.LittleEndian.Uint64(body), binary.LittleEndian.Uint64(body[8:])})
		default:
			return &FormatError{path, fmt.Sprintf("record kind %d, at offset %d,", kind, off)}
		}
		if err != nil {
			return &CorruptError{path, off, err.Error()}
		}
	}
	return nil
}

// addEntry adds e after the entries before its index, and drops the others: raft has overwritten them.
func (r *recovery) addEntry(e *raftpb.Entry) error {
	index := e.GetIndex()
	if index <= r.cut {
		return fmt.Errorf("entry %d was written after entries up to %d had been cut", index, r.cut)
	}
	r.highest = max(r.highest, index)
	if len(r.entries) > 0 {
		first, n := r.entries[0].GetIndex(), uint64(len(r.entries))
		switch {
		case index < first:
			r.entries = r.entries[:0]
		case index-first > n:
			return fmt.Errorf("entry %d follows entry %d", index, first+n-1)
		default:
			r.entries = r.entries[:index-first]
		}
	}
	r.entries = append(r.entries, e)
	return nil
}

// replace drops all entries, for which s stands. A snapshot that is not beyond the cut is one that the beginning of a segment
// repeats: what is behind the snapshot then was appended after it.
func (r *recovery) replace(s Snapshot) {
	r.snapshot = s
	if s.Index <= r.cut {
		return
	}
	r.cut, r.entries, r.highest = s.Index, nil, 0
	forgetEntries(r.segments)
}

// dropCut drops the entries that were cut.
func (r *recovery) dropCut() {
	for len(r.entries) > 0 && r.entries[0].GetIndex() <= r.cut {
		r.entries[0] = nil
		r.entries = r.entries[1:]
	}
}

// checkEntries refuses a log that does not begin right after its cut. That can be known only at the end: the cut that
// allowed earlier segments to be removed may stand in a later one.
func (r *recovery) checkEntries() error {
	if len(r.entries) == 0 || r.entries[0].GetIndex() == r.cut+1 {
		return nil
	}
	reason := fmt.Sprintf("the first entry is %d, but only entries up to %d were cut", r.entries[0].GetIndex(), r.cut)
	return &CorruptError{segmentPath(r.dir, r.segments[0].number), 0, reason}
}

// mend makes the end of the log as if what is not whole had never been written. leftover are the segments after the
// active one, none of which has a whole first batch.
//
// It also writes the last batch again. After a failed sync the kernel may hold pages that were never
// written and are not to be: they can be read, until the machine stops. Batches before the last one were synced.
func (r *recovery) mend(leftover []uint64) error {
	dirty, err := r.searchLater(r.active, r.pos)
	if err != nil {
		return err
	}
	for _, number := range leftover {
		s, err := r.open(number)
		if err != nil {
			return err
		}
		_, err = r.searchLater(s, 0)
		if err := errors.Join(err, s.file.Close()); err != nil {
			return err
		}
	}

	if dirty > r.pos {
		r.logger.Warn("truncating the WAL: its last write was not finished", "segment", r.active.path,
			"offset", r.pos, "bytes", dirty-r.pos, "reason", r.tail.Reason)
	}
	if err := r.rewrite(dirty); err != nil {
		return fmt.Errorf("mend WAL segment %s: %w", r.active.path, err)
	}
	for _, number := range slices.Backward(leftover) {
		if err := removeSegment(r.fs, r.dir, number); err != nil {
			return err
		}
	}
	if err := r.fs.SyncDir(r.dir); err != nil { // Create leaves that to us
		return fmt.Errorf("sync WAL directory: %w", err)
	}
	return nil
}

// searchLater looks in s, from off on, for the header of a batch that was written after the one that is not whole, and
// fails if there is one. It returns where the bytes that are not zero end.
func (r *recovery) searchLater(s *segmentFile, off int64) (dirty int64, err error) {
	for dirty = off; off < s.size; off += sectorSize {
		sector, _, err := s.read(off, min(sectorSize, s.size-off))
		if err != nil {
			return 0, err
		}
		if isZero(sector) {
			continue
		}
		dirty = off + int64(len(sector))
		if len(sector) < sectorSize {
			break
		}
		if h, ok := parseBatchHeader(sector, r.logID); ok && h.seq > r.seq {
			return 0, r.lost(h.seq, s.path, off)
		}
	}
	return dirty, nil
}

// lost is the error that a later batch turns r.tail into.
func (r *recovery) lost(later uint64, path string, off int64) error {
	e := r.tail
	e.Reason = fmt.Sprintf("%s, yet batch %d, at offset %d of %s, was written after batch %d, which belongs here",
		e.Reason, later, off, path, r.seq)
	return &e
}

// rewrite writes the last batch as it is, and zeros from there to dirty.
func (r *recovery) rewrite(dirty int64) error {
	for off := r.start; off < r.pos; off += windowSize {
		p, _, err := r.active.read(off, min(windowSize, r.pos-off))
		if err != nil {
			return err
		}
		if _, err := r.active.file.WriteAt(p, off); err != nil {
			return err
		}
	}
	zeros := make([]byte, min(dirty-r.pos, zeroChunk))
	for off := r.pos; off < dirty; off += zeroChunk {
		if _, err := r.active.file.WriteAt(zeros[:min(dirty-off, zeroChunk)], off); err != nil {
			return err
		}
	}
	return r.active.file.Sync()
}
