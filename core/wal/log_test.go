package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"weir/internal/bubble"

	"go.etcd.io/raft/v3/raftpb"
)

// TestRoundTripOnARealDisk runs the short history of the fault tests on the operating system's file system.
func TestRoundTripOnARealDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "below", "two")
	if got, err := Exists(dir, nil); got || err != nil {
		t.Fatal("a directory that is missing holds a log")
	}
	l, err := Create(dir, testMetadata(), testOptions)
	if err != nil {
		t.Fatal(err)
	}
	var want model
	for i := range uint64(50) {
		s := step{hardState: hardState(1, i), entries: []*raftpb.Entry{entry(1, i+1, strings.Repeat("v", int(i)*20))}}
		want.apply(s)
		l.Append(s.hardState, s.entries, func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l, r, err := Open(dir, testOptions)
		if err != nil {
			t.Fatal(err)
		}
		if why := want.differs(r); why != "" {
			t.Fatal(why)
		}
		cut := want.cut + 16
		want.apply(step{cut: cut})
		if err := l.Cut(cut); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Exists(dir, nil); !got || err != nil {
		t.Fatal("the log does not exist")
	}
	if _, err := Create(dir, nil, testOptions); err == nil || !strings.Contains(err.Error(), "already") {
		t.Fatalf("Create over a log: %v", err)
	}
	if _, _, err := Open(filepath.Dir(dir), testOptions); err == nil || !strings.Contains(err.Error(), "below") {
		t.Fatalf("Open without a log: %v", err)
	}
}

func newLog(t *testing.T) (*Log, *disk) {
	t.Helper()
	return newLogOf(t, testOptions.SegmentBytes)
}

func newLogOf(t *testing.T, segmentBytes int64) (*Log, *disk) {
	t.Helper()
	d := newDisk(testRNG())
	l, err := Create(testDir, testMetadata(), Options{FS: d, SegmentBytes: segmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	return l, d
}

// appendWait appends and returns what done is called with.
func appendWait(l *Log, hs *raftpb.HardState, entries ...*raftpb.Entry) error {
	done := make(chan error, 1)
	l.Append(hs, entries, func(err error) { done <- err })
	return <-done
}

func TestEntriesThatWouldLeaveAGapAreRefused(t *testing.T) {
	for name, entries := range map[string][]*raftpb.Entry{
		"gap after the last":     {entry(1, 7, "")},
		"gap among them":         {entry(1, 6, ""), entry(1, 8, "")},
		"one index twice":        {entry(1, 6, ""), entry(1, 6, "")},
		"what was cut":           {entry(1, 3, ""), entry(1, 4, "")},
		"an entry without index": {entry(1, 0, "")},
	} {
		l, d := newLog(t)
		var before []*raftpb.Entry
		for i := range uint64(5) {
			before = append(before, entry(1, i+1, "kept"))
		}
		if err := appendWait(l, nil, before...); err != nil {
			t.Fatal(err)
		}
		if err := l.Cut(3); err != nil {
			t.Fatal(err)
		}
		refused := appendWait(l, hardState(2, 5), entries...)
		if refused == nil {
			t.Fatalf("%s: accepted", name)
		}
		if err := appendWait(l, nil, entry(1, 6, "")); !errors.Is(err, refused) {
			t.Fatalf("%s: the next Append: %v", name, err)
		}
		if err := l.Close(); !errors.Is(err, refused) {
			t.Fatalf("%s: Close: %v", name, err)
		}
		r, err := reopened(d)
		if err != nil {
			t.Fatal(err)
		}
		want := &model{hardState: &raftpb.HardState{}, entries: before[3:], cut: 3}
		if why := want.differs(r); why != "" {
			t.Fatalf("%s: %s", name, why)
		}
	}
}

func TestClosedLogRefusesEverything(t *testing.T) {
	l, _ := newLog(t)
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	if err := appendWait(l, nil, entry(1, 1, "")); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if err := l.Cut(1); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

// TestFailedSyncPoisonsTheLog: the sync is not tried again, and nothing more is written, queued before or after it.
func TestFailedSyncPoisonsTheLog(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l, d := newLog(t)
		d.failNext(2, false, syscall.EIO) // a write, then its sync
		release := hold(d)
		var answers []error
		for i := range uint64(3) {
			l.Append(nil, []*raftpb.Entry{entry(1, i+1, "")}, func(err error) { answers = append(answers, err) })
			synctest.Wait() // the first one is in its sync
		}
		release()
		answers = append(answers, appendWait(l, nil, entry(1, 4, "")), l.Cut(1), l.Close())
		if len(answers) != 6 {
			t.Errorf("%d answers", len(answers))
		}
		for _, err := range answers {
			if !errors.Is(err, syscall.EIO) {
				t.Error(err)
			}
		}
		if d.ops != 2 {
			t.Errorf("%d operations", d.ops)
		}
	})
}

func TestFullDiskFailsAppendAndKeepsWhatIsThere(t *testing.T) {
	l, d := newLog(t)
	d.capacity = d.used() + 6000 // one more segment, but not two
	var durable uint64
	var err error
	for err == nil {
		if err = appendWait(l, nil, entry(1, durable+1, strings.Repeat("v", 400))); err == nil {
			durable++
		}
	}
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), segmentPath(testDir, 3)) {
		t.Fatal(err)
	}
	if err := l.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	l, r, err := openOn(d) // the disk is still full
	if err != nil {
		t.Fatal(err)
	}
	if uint64(len(r.Entries)) != durable {
		t.Fatalf("%d entries of %d", len(r.Entries), durable)
	}
	if err := l.Cut(durable); err != nil { // needs no room
		t.Fatal(err)
	}
	if err := appendWait(l, nil, entry(1, durable+1, strings.Repeat("v", 400))); err != nil {
		t.Fatal("after room was made: ", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCutKeepsTheDirectorySmall(t *testing.T) {
	l, d := newLog(t)
	const n = 500
	for i := uint64(1); i <= n; i++ {
		if err := appendWait(l, hardState(i, i), entry(i, i, strings.Repeat("v", 300))); err != nil {
			t.Fatal(err)
		}
		if err := l.Cut(i - 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if used := d.used(); used > 3*4096 {
		t.Fatalf("%d bytes are used", used)
	}
	r, err := reopened(d)
	if err != nil {
		t.Fatal(err)
	}
	want := &model{hardState: hardState(n, n), entries: []*raftpb.Entry{entry(n, n, strings.Repeat("v", 300))}, cut: n - 1}
	if why := want.differs(r); why != "" {
		t.Fatal(why)
	}
}

func TestCutWithNothingToRemoveDoesNotTouchTheDisk(t *testing.T) {
	l, d := newLog(t)
	if err := appendWait(l, nil, entry(1, 1, ""), entry(1, 2, "")); err != nil {
		t.Fatal(err)
	}
	d.failNext(1, true, errFault)
	if err := l.Cut(1); err != nil {
		t.Fatal(err)
	}
	d.failNext(0, false, nil)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := reopened(d); err != nil || r.FirstIndex != 2 || len(r.Entries) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
}

// TestConcurrentCallers has many goroutines append and one cut, and checks the order of the answers.
func TestConcurrentCallers(t *testing.T) {
	l, d := newLog(t)
	const callers, each = 16, 40
	var mu sync.Mutex // indexes go up in the order of Append
	var index uint64
	var answered []uint64 // in the writer goroutine
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for range each {
				durable := make(chan error, 1)
				mu.Lock()
				index++
				mine := index
				l.Append(hardState(1, mine), []*raftpb.Entry{entry(1, mine, strings.Repeat("v", c*10))}, func(err error) {
					answered = append(answered, mine)
					durable <- err
				})
				mu.Unlock()
				if err := <-durable; err != nil {
					t.Error(err)
				}
				if c == 0 {
					if err := l.Cut(mine / 2); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if len(answered) != callers*each || !slices.IsSorted(answered) {
		t.Fatalf("answers came in the order %v", answered)
	}
	r, err := reopened(d)
	if err != nil {
		t.Fatal(err)
	}
	if last := r.FirstIndex + uint64(len(r.Entries)) - 1; last != callers*each {
		t.Fatalf("the last entry is %d", last)
	}
}

// hold makes every sync on d wait for release.
func hold(d *disk) (release func()) {
	d.held = make(chan struct{})
	return func() { close(d.held) }
}

func TestWhatIsQueuedIsOneCommit(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l, d := newLogOf(t, 64<<10)
		d.failNext(0, false, nil) // counts from here
		release := hold(d)
		var answered []string
		for i := range uint64(101) {
			l.Append(nil, []*raftpb.Entry{entry(1, i+1, "")}, func(err error) {
				answered = append(answered, fmt.Sprint(i, err))
			})
			if i == 0 {
				synctest.Wait() // the first one is in its sync
			}
		}
		if len(answered) != 0 {
			t.Error("answered before it was durable")
		}
		release()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if d.ops != 4 || len(answered) != 101 || answered[100] != "100 <nil>" {
			t.Errorf("%d operations for two commits; answers: %v", d.ops, answered)
		}
	})
}

func TestQueueIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l, d := newLog(t)
		release := hold(d)
		var queued, durable int
		appendOne := func() {
			l.Append(nil, []*raftpb.Entry{entry(1, uint64(queued)+1, strings.Repeat("v", 1<<20))}, func(err error) {
				if err != nil {
					t.Error(err)
				}
				durable++
			})
			queued++
		}
		appendOne()
		synctest.Wait() // the writer has taken this one alone, and is in its sync
		var appending sync.WaitGroup
		appending.Go(func() {
			for range 23 {
				appendOne()
			}
		})
		synctest.Wait()
		if most := maxQueued>>20 + 2; queued > most {
			t.Errorf("%d MiB are queued", queued)
		}
		release()
		appending.Wait()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if durable != 24 {
			t.Errorf("%d of 24 were answered", durable)
		}
	})
}

func TestNextSegmentIsMadeAheadOfNeed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l, d := newLog(t)
		if err := appendWait(l, nil, entry(1, 1, strings.Repeat("v", 2000))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		second, err := d.Open(segmentPath(testDir, 2))
		if err != nil {
			t.Fatal(err)
		}
		size, err := second.Size()
		if err != nil || size != testOptions.SegmentBytes {
			t.Errorf("it has %d bytes, %v", size, err)
		}
		if err := errors.Join(second.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFailureAheadOfNeedIsTriedAgainAtNeed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l, d := newLog(t)
		d.capacity = d.used()
		if err := appendWait(l, nil, entry(1, 1, strings.Repeat("v", 2000))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := d.Open(segmentPath(testDir, 2)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what could not be made is there: %v", err)
		}
		d.capacity = 0
		if err := appendWait(l, nil, entry(1, 2, strings.Repeat("v", 2000))); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
