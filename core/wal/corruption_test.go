package wal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// place is where a batch is.
type place struct {
	path      string
	off, size int64
	header    batchHeader
}

func testRNG() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// writtenLog returns a closed log of several segments, and its history.
func writtenLog(t testing.TB) (*disk, *journal) {
	t.Helper()
	d := newDisk(testRNG())
	j := newJournal(d)
	j.create()
	for i := range uint64(8) {
		j.append(hardState(1, i), entry(1, i+1, strings.Repeat("v", int(i)*110)))
	}
	if j.close(); j.err != nil {
		t.Fatal(j.err)
	}
	return d, j
}

// places finds the batches of the log on d.
func places(t testing.TB, d *disk) []place {
	t.Helper()
	numbers, err := listSegments(d, testDir)
	if err != nil {
		t.Fatal(err)
	}
	var found []place
	for _, number := range numbers {
		path := segmentPath(testDir, number)
		data := d.content(path)
		if len(data) < sectorSize {
			continue
		}
		h, err := parseSegmentHeader(data[:sectorSize])
		if err != nil {
			continue
		}
		for off := int64(segmentHeaderSize); off < int64(len(data)); {
			b, ok := parseBatchHeader(data[off:], h.logID)
			if !ok {
				break
			}
			found = append(found, place{path, off, b.size(), b})
			off += b.size()
		}
	}
	return found
}

func openOn(d *disk) (*Log, *Recovered, error) {
	options := testOptions
	options.FS = d
	return Open(testDir, options)
}

func wantCorrupt(t *testing.T, d *disk, path string, off int64) {
	t.Helper()
	l, _, err := openOn(d)
	if err == nil {
		l.Close()
		t.Fatalf("opened, despite damage at offset %d of %s", off, path)
	}
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) {
		t.Fatalf("not a CorruptError: %v", err)
	}
	if corrupt.Path != path || corrupt.Offset != off {
		t.Fatalf("want offset %d of %s: %v", off, path, err)
	}
	if d.open != 0 {
		t.Fatalf("%d files are open after a refused Open", d.open)
	}
}

func TestBitFlipInTheMiddleIsRefused(t *testing.T) {
	written, _ := writtenLog(t)
	all := places(t, written)
	if all[len(all)-1].path == all[0].path {
		t.Fatal("want more than one segment")
	}
	rng := testRNG()
	for _, p := range all[:len(all)-1] {
		for off := p.off; off < p.off+p.size; off++ {
			d := written.clone()
			d.content(p.path)[off] ^= 1 << rng.IntN(8)
			wantCorrupt(t, d, p.path, p.off)
		}
	}
}

func TestBitFlipInSegmentHeaderIsRefused(t *testing.T) {
	written, _ := writtenLog(t)
	rng := testRNG()
	for _, number := range []uint64{1, 2} {
		path := segmentPath(testDir, number)
		for off := range segmentHeaderSize {
			d := written.clone()
			d.content(path)[off] ^= 1 << rng.IntN(8)
			if off >= 8 && off < 12 { // the version
				if _, _, err := openOn(d); !errors.As(err, new(*FormatError)) {
					t.Fatalf("not a FormatError: %v", err)
				}
				continue
			}
			wantCorrupt(t, d, path, 0)
		}
	}
}

func TestBitFlipInTheLastBatchTruncatesIt(t *testing.T) {
	written, j := writtenLog(t)
	all := places(t, written)
	last := all[len(all)-1]
	want := j.model(len(j.steps) - 1)
	rng := testRNG()
	for off := last.off; off < last.off+last.size; off++ {
		d := written.clone()
		d.content(last.path)[off] ^= 1 << rng.IntN(8)
		l, r, err := openOn(d)
		if err != nil {
			t.Fatal(err)
		}
		if why := want.differs(r); why != "" {
			t.Fatalf("offset %d: %s", off, why)
		}
		if !isZero(d.content(last.path)[last.off:]) {
			t.Fatal("the truncated batch was not zeroed")
		}
		l.Append(nil, []*raftpb.Entry{entry(2, want.last()+1, "new")}, func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if r, err = reopened(d); err != nil || len(r.Entries) != len(want.entries)+1 {
			t.Fatalf("%d entries, %v", len(r.Entries), err)
		}
	}
}

// reopened opens the log and closes it.
func reopened(d *disk) (*Recovered, error) {
	l, r, err := openOn(d)
	if err != nil {
		return nil, err
	}
	return r, l.Close()
}

func TestBytesAfterTheEndAreZeroed(t *testing.T) {
	written, j := writtenLog(t)
	all := places(t, written)
	last := all[len(all)-1]
	end := last.off + last.size
	d := written.clone()
	data := d.content(last.path)
	for i := end; i < int64(len(data)); i++ {
		data[i] = byte(i)
	}
	r, err := reopened(d)
	if err != nil {
		t.Fatal(err)
	}
	if why := j.model(len(j.steps)).differs(r); why != "" {
		t.Fatal(why)
	}
	if !isZero(d.crash().content(last.path)[end:]) {
		t.Fatal("what followed the last batch was not durably zeroed")
	}
}

// TestRemainsOfATornBatchProveNothing has a batch torn whose value imitates a later batch in every sector, as a client
// could send it who knows everything but the log id.
func TestRemainsOfATornBatchProveNothing(t *testing.T) {
	d, j := writtenLog(t)
	all := places(t, d)
	last := all[len(all)-1].header
	var value []byte
	for i := range uint64(4) {
		imitation, _ := sealBatch(make([]byte, batchHeaderSize+10), last.logID+1, last.seq+2+i, last.sum)
		value = append(value, imitation...)
	}
	j.reopen()
	aligned := strings.Repeat("v", sectorSize-batchHeaderSize-64) // so that some imitation begins a sector, however
	for shift := range 64 {                                       // long the heads of the records are
		j.append(nil, entry(1, j.model(len(j.steps)).last()+1, aligned+strings.Repeat("v", shift)+string(value)))
		written := d.clone()
		all := places(t, written)
		p := all[len(all)-1]
		written.content(p.path)[p.off] ^= 1
		if _, err := reopened(written); err != nil {
			t.Fatal(err)
		}
	}
	j.close()
}

func TestMissingSegmentIsRefused(t *testing.T) {
	written, j := writtenLog(t)
	j.reopen()
	j.append(nil, entry(1, 9, strings.Repeat("v", 5000)))
	j.append(nil, entry(1, 10, strings.Repeat("v", 5000)))
	if j.close(); j.err != nil {
		t.Fatal(j.err)
	}
	for number := uint64(1); number <= 4; number++ {
		d := written.clone()
		path := segmentPath(testDir, number)
		if err := d.Remove(path); err != nil {
			t.Fatal(err)
		}
		if number == 1 {
			path = segmentPath(testDir, 2) // the log begins there, with an entry that is not the first
		}
		wantCorrupt(t, d, path, 0)
	}
}

func TestSegmentOfAnotherPlaceIsRefused(t *testing.T) {
	written, _ := writtenLog(t)
	other, _ := writtenLog(t)
	second := segmentPath(testDir, 2)

	d := written.clone()
	copy(d.content(second), other.content(second))
	wantCorrupt(t, d, second, 0)

	d = written.clone()
	copy(d.content(second), d.content(segmentPath(testDir, 1)))
	wantCorrupt(t, d, second, 0)
}

func TestBatchThatContinuesAnotherIsRefused(t *testing.T) {
	d, _ := writtenLog(t)
	all := places(t, d)
	last := all[len(all)-1]
	batch := d.content(last.path)[last.off:][:last.size]
	sealBatch(batch, last.header.logID, last.header.seq, last.header.prev+1)
	wantCorrupt(t, d, last.path, last.off)
}

func TestSegmentThatWasNotBegunIsRemoved(t *testing.T) {
	small := crafted(t, entryRecords(t, 1, 2))
	all := places(t, small)
	path := segmentPath(testDir, 2)
	header := segmentHeader{formatVersion, all[0].header.logID, 2, uint64(len(all) + 1)}
	for name, content := range map[string][]byte{
		"empty":       {},
		"zeros":       make([]byte, 4096),
		"garbage":     bytes.Repeat([]byte("garbage"), 500),
		"header only": append(header.append(nil), make([]byte, 1000)...),
	} {
		d := small.clone()
		f, err := d.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(content, 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
		r, err := reopened(d)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(r.Entries) != 2 {
			t.Fatalf("%s: %d entries", name, len(r.Entries))
		}
		if left, err := listSegments(d.crash(), testDir); err != nil || !slices.Equal(left, []uint64{1}) {
			t.Fatalf("%s: segments %v are left, %v", name, left, err)
		}
	}
}

// crafted returns a log whose only batch after the first holds payload.
func crafted(t testing.TB, payload []byte) *disk {
	t.Helper()
	d := newDisk(testRNG())
	j := newJournal(d)
	if j.create(); j.err != nil {
		t.Fatal(j.err)
	}
	j.close()
	first := places(t, d)[0]
	batch, _ := sealBatch(append(make([]byte, batchHeaderSize), payload...), first.header.logID, first.header.seq+1, first.header.sum)
	f, err := d.Open(first.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(batch, first.off+first.size); err != nil {
		t.Fatal(err)
	}
	return d
}

func entryRecords(t testing.TB, indexes ...uint64) []byte {
	t.Helper()
	var payload []byte
	for _, index := range indexes {
		var err error
		if payload, err = appendMessage(payload, kindEntry, entry(1, index, "value")); err != nil {
			t.Fatal(err)
		}
	}
	return payload
}

func TestWholeBatchWithWrongContentIsRefused(t *testing.T) {
	path := segmentPath(testDir, 1)
	off := places(t, crafted(t, nil))[1].off
	for name, payload := range map[string][]byte{
		"gap":                 entryRecords(t, 1, 2, 4),
		"no index":            entryRecords(t, 0),
		"not an entry":        appendRecord(nil, kindEntry, []byte{0xff}),
		"not a hard state":    appendRecord(nil, kindHardState, []byte{0xff}),
		"entry that was cut":  append(appendCut(nil, 5), entryRecords(t, 3)...),
		"cut too short":       appendRecord(nil, kindCut, []byte{1, 2, 3}),
		"snapshot too short":  appendRecord(nil, kindSnapshot, make([]byte, 8)),
		"before a snapshot":   append(appendSnapshot(nil, Snapshot{5, 1}), entryRecords(t, 5)...),
		"record cut short":    {kindEntry, 0},
		"record without body": {kindEntry, 0xff, 0xff, 0xff, 0xff},
	} {
		t.Run(name, func(t *testing.T) { wantCorrupt(t, crafted(t, payload), path, off) })
	}
	t.Run("first entry missing", func(t *testing.T) { wantCorrupt(t, crafted(t, entryRecords(t, 2, 3)), path, 0) })
	t.Run("entries between cut and first missing", func(t *testing.T) {
		wantCorrupt(t, crafted(t, append(appendCut(nil, 5), entryRecords(t, 7)...)), path, 0)
	})
	t.Run("entries between snapshot and first missing", func(t *testing.T) {
		wantCorrupt(t, crafted(t, append(appendSnapshot(nil, Snapshot{5, 1}), entryRecords(t, 7)...)), path, 0)
	})
}

func TestUnknownFormatIsRefusedByName(t *testing.T) {
	_, _, err := openOn(crafted(t, appendRecord(nil, 77, nil)))
	if !errors.As(err, new(*FormatError)) || !strings.Contains(err.Error(), "record kind 77") {
		t.Fatal(err)
	}

	d, _ := writtenLog(t)
	path := segmentPath(testDir, 2)
	copy(d.content(path), segmentHeader{version: 9, number: 2}.append(nil))
	_, _, err = openOn(d)
	if !errors.As(err, new(*FormatError)) || !strings.Contains(err.Error(), "version 9") || !strings.Contains(err.Error(), path) {
		t.Fatal(err)
	}
}

// FuzzOpen opens arbitrary bytes as the first segment, as the second, and as the payload of a whole batch.
func FuzzOpen(f *testing.F) {
	written, _ := writtenLog(f)
	f.Add(written.content(segmentPath(testDir, 1)), byte(0))
	f.Add(written.content(segmentPath(testDir, 2)), byte(1))
	f.Add(entryRecords(f, 1, 2, 3, 2), byte(2))
	f.Add(append(appendCut(entryRecords(f, 1, 2, 3), 2), entryRecords(f, 3)...), byte(2))
	f.Add(append(appendCut(entryRecords(f, 1, 2, 3), 9), entryRecords(f, 3)...), byte(2))
	f.Fuzz(func(t *testing.T, data []byte, how byte) {
		d := written.clone()
		switch how % 3 {
		case 0:
			d = newDisk(testRNG())
			i := &inode{data: bytes.Clone(data), dirty: map[int]bool{}}
			d.names[segmentPath(testDir, 1)] = i
		case 1:
			d.names[segmentPath(testDir, 2)].data = bytes.Clone(data)
		case 2:
			d = crafted(t, data)
		}
		l, r, err := openOn(d)
		if err != nil {
			return
		}
		l.Append(nil, []*raftpb.Entry{entry(9, r.FirstIndex+uint64(len(r.Entries)), "after")}, func(error) {})
		closed := l.Close()
		again, err := reopened(d)
		if err != nil {
			t.Fatalf("after it was opened once: %v", err)
		}
		if closed == nil && len(again.Entries) != len(r.Entries)+1 {
			t.Fatalf("%d entries, and after one more %d", len(r.Entries), len(again.Entries))
		}
	})
}
