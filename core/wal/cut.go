package wal

import (
	"errors"
	"fmt"
	"io/fs"

	"go.etcd.io/raft/v3/raftpb"
)

// Snapshot says which snapshot of the state machine stands for a beginning of the log: it has what the entries up to Index
// did, and Term is that of the entry at Index. The zero value is none.
type Snapshot struct{ Index, Term uint64 }

// Replace voids the whole log, what was appended beyond index too: a snapshot of index and term stands for all of it, and the
// next entry is index + 1. hs, if it is not nil, becomes the hard state in the same write. Replace returns when that is
// durable; what was appended before it is durable then or void. A crash leaves either the log as it was or the new one.
//
// The caller must have the snapshot on disk, durably, before: once the log is replaced nothing else holds what was in it.
// Open tells of it, so that an installation which was cut off is finished. index must be beyond the cut: what was cut is
// in a state that is as new. An error that comes from the disk poisons the log, as with Append.
func (l *Log) Replace(index, term uint64, hs *raftpb.HardState) error {
	if err := l.replace(Snapshot{index, term}, hs); err != nil {
		return fmt.Errorf("replace the WAL by a snapshot of entry %d: %w", index, err)
	}
	return nil
}

func (l *Log) replace(s Snapshot, hs *raftpb.HardState) error {
	l.mu.Lock()
	if err := l.refuses(s); err != nil {
		l.mu.Unlock()
		return err
	}
	b, start := l.queue, len(l.queue.buf)
	b.buf = appendSnapshot(b.buf, s)
	if err := b.setHardState(hs); err != nil {
		b.buf = b.buf[:start]
		l.mu.Unlock()
		return err
	}
	// What waits in the batch is void when it is read, and done is called all the same: it has been overtaken.
	b.snapshot, b.cut, b.highest = s, s.Index, 0
	l.cut, l.last = s.Index, s.Index
	durable := l.enqueueWaiter()
	l.mu.Unlock()
	return <-durable
}

// refuses says why the log cannot be replaced by s, if it cannot. l.mu is held.
func (l *Log) refuses(s Snapshot) error {
	switch {
	case l.closed:
		return ErrClosed
	case l.failed != nil:
		return l.failed
	case s.Index <= l.cut:
		return fmt.Errorf("entries up to %d were cut", l.cut)
	}
	return nil
}

// enqueueWaiter has the batch that is being gathered written, and returns what is told when it was. l.mu is held.
func (l *Log) enqueueWaiter() <-chan error {
	durable := make(chan error, 1)
	l.queue.waiters = append(l.queue.waiters, waiter{done: func(err error) { durable <- err }})
	l.work.Signal()
	return durable
}

// forgetEntries notes that the segments hold nothing that is needed.
func forgetEntries(segments []segment) {
	for i := range segments {
		segments[i].highest = 0
	}
}

// Cut says that entries up to index are not needed any more: they are in the committed store, or a snapshot
// has replaced them. It removes the segments that hold nothing else and returns when they are gone. If there are none
// it costs no disk access: the cut is written together with the next Append. index may lie after the last entry; the
// next entry is then index + 1. A lower index than before, or than that of a snapshot, cuts nothing.
//
// An error that comes from removing leaves the log in order; the next Cut tries again.
func (l *Log) Cut(index uint64) error {
	l.removing.Lock()
	defer l.removing.Unlock()

	unneeded, err := l.recordCut(index)
	if err != nil {
		return fmt.Errorf("cut the WAL at entry %d: %w", index, err)
	}
	for _, number := range unneeded {
		// One by one: if a later name could vanish before an earlier one, a crash would leave a gap.
		if err := removeSegment(l.fs, l.dir, number); err != nil {
			return fmt.Errorf("cut the WAL at entry %d: %w", index, err)
		}
		l.mu.Lock()
		l.segments = l.segments[1:]
		l.mu.Unlock()
	}
	return nil
}

// recordCut queues the cut and returns the segments that may go. If there are any, the cut is durable when it returns:
// were they removed before, the log would begin with a gap.
func (l *Log) recordCut(index uint64) (unneeded []uint64, err error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, ErrClosed
	}
	if l.failed != nil {
		defer l.mu.Unlock()
		return nil, l.failed
	}
	if index > l.cut {
		l.cut, l.last = index, max(l.last, index)
		l.queue.cut = index
		l.queue.buf = appendCut(l.queue.buf, index)
	}
	for _, s := range l.segments[:len(l.segments)-1] {
		if s.highest > l.cut {
			break
		}
		unneeded = append(unneeded, s.number)
	}
	if len(unneeded) == 0 {
		l.mu.Unlock()
		return nil, nil
	}
	durable := l.enqueueWaiter()
	l.mu.Unlock()
	return unneeded, <-durable
}

// removeSegment removes a segment durably. One that is not there was removed before, but perhaps not durably.
func removeSegment(fsys FS, dir string, number uint64) error {
	path := segmentPath(dir, number)
	if err := fsys.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove WAL segment %s: %w", path, err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		return fmt.Errorf("remove WAL segment %s: %w", path, err)
	}
	return nil
}
