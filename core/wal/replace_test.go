package wal

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// replaced opens d and checks that it holds a snapshot and nothing else, and that the next entry follows it.
func replaced(t *testing.T, d *disk, want Snapshot, entries int) *Log {
	t.Helper()
	l, r, err := openOn(d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if r.Snapshot != want || r.FirstIndex != want.Index+1 || len(r.Entries) != entries {
		t.Fatalf("snapshot %v, %d entries from %d on; want %v, %d from %d on",
			r.Snapshot, len(r.Entries), r.FirstIndex, want, entries, want.Index+1)
	}
	return l
}

func TestReplaceVoidsEntriesOnBothSidesOfTheSnapshot(t *testing.T) {
	l, d := newLog(t)
	var entries []*raftpb.Entry
	for i := range uint64(10) {
		entries = append(entries, entry(1, i+1, "data"))
	}
	if err := appendWait(l, hardState(1, 3), entries...); err != nil {
		t.Fatal(err)
	}
	if err := l.Replace(6, 2, hardState(2, 6)); err != nil {
		t.Fatal(err)
	}
	after := d.crash()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = replaced(t, after, Snapshot{6, 2}, 0)
	if err := appendWait(l, nil, entry(2, 8, "")); err == nil {
		t.Error("an entry that leaves a gap after the snapshot was taken")
	}
}

func TestEntryAfterASnapshotFollowsIt(t *testing.T) {
	l, d := newLog(t)
	if err := appendWait(l, nil, entry(1, 1, "old"), entry(1, 2, "old")); err != nil {
		t.Fatal(err)
	}
	if err := l.Replace(100, 3, nil); err != nil {
		t.Fatal(err)
	}
	if err := appendWait(l, nil, entry(3, 101, "new")); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	replaced(t, d, Snapshot{100, 3}, 1)
}

func TestReplaceBeforeTheCutIsRefused(t *testing.T) {
	l, d := newLog(t)
	if err := appendWait(l, nil, entry(1, 1, ""), entry(1, 2, ""), entry(1, 3, "")); err != nil {
		t.Fatal(err)
	}
	if err := l.Cut(2); err != nil {
		t.Fatal(err)
	}
	if err := l.Replace(2, 1, nil); err == nil {
		t.Error("a snapshot of an entry that was cut has replaced the log")
	}
	if err := l.Replace(3, 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Replace(3, 1, nil); err == nil {
		t.Error("a snapshot has replaced the log twice")
	}
	if err := l.Cut(1); err != nil {
		t.Errorf("a cut from before the snapshot: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	replaced(t, d, Snapshot{3, 1}, 0)
}

// TestSegmentsOfAReplacedLogGo has a long tail void, which no cut up to the snapshot would have let go.
func TestSegmentsOfAReplacedLogGo(t *testing.T) {
	l, d := newLog(t)
	for i := range uint64(20) {
		if err := appendWait(l, nil, entry(1, i+1, strings.Repeat("x", 1000))); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Replace(5, 2, nil); err != nil {
		t.Fatal(err)
	}
	if err := l.Cut(5); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if numbers, err := listSegments(d, testDir); err != nil || len(numbers) > 2 {
		t.Errorf("segments %v are left, %v", numbers, err)
	}
	replaced(t, d, Snapshot{5, 2}, 0)
}

// TestSnapshotIsRememberedByLaterSegments removes the segment that the snapshot was written to.
func TestSnapshotIsRememberedByLaterSegments(t *testing.T) {
	l, d := newLog(t)
	if err := appendWait(l, nil, entry(1, 1, "")); err != nil {
		t.Fatal(err)
	}
	if err := l.Replace(10, 2, nil); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(20) {
		if err := appendWait(l, nil, entry(2, 11+i, strings.Repeat("x", 1000))); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Cut(25); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if numbers, err := listSegments(d, testDir); err != nil || numbers[0] == 1 {
		t.Fatalf("segments %v are left, %v", numbers, err)
	}
	l, r, err := openOn(d)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if r.Snapshot != (Snapshot{10, 2}) || r.FirstIndex != 26 || len(r.Entries) != 5 {
		t.Errorf("snapshot %v, %d entries from %d on", r.Snapshot, len(r.Entries), r.FirstIndex)
	}
}

func TestReplaceOfAPoisonedOrClosedLogFails(t *testing.T) {
	l, d := newLog(t)
	d.failNext(1, true, errFault)
	if err := l.Replace(5, 1, nil); !errors.Is(err, errFault) {
		t.Errorf("a write that failed: %v", err)
	}
	if err := l.Replace(6, 1, nil); !errors.Is(err, errFault) {
		t.Errorf("after a failure: %v", err)
	}
	d.failNext(0, false, nil)
	if err := l.Close(); !errors.Is(err, errFault) {
		t.Errorf("close: %v", err)
	}
	if err := l.Replace(7, 1, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestLogOfVersion1IsRead(t *testing.T) {
	d, j := writtenLog(t)
	numbers, err := listSegments(d, testDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, number := range numbers {
		content := d.content(segmentPath(testDir, number))
		if len(content) < segmentHeaderSize || isZero(content[:segmentHeaderSize]) {
			continue // it was made ahead of need
		}
		h, err := parseSegmentHeader(content[:segmentHeaderSize])
		if err != nil || h.version != formatVersion {
			t.Fatal(fmt.Errorf("version %d: %w", h.version, err))
		}
		h.version = 1
		h.append(content[:0])
	}
	if err := j.recover(d); err != nil {
		t.Fatal(err)
	}
	last := j.model(len(j.steps)).last()
	j.append(nil, entry(9, last+1, "new"))
	j.replace(last+5, 9, nil)
	if j.reopen(); j.err != nil {
		t.Fatal(j.err)
	}
	if j.close(); j.err != nil {
		t.Fatal(j.err)
	}
}
