package wal

import (
	"cmp"
	"fmt"
	"log/slog"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

const (
	defaultSegmentBytes = 64 << 20
	minSegmentBytes     = 8 * sectorSize
	// maxQueued is how many bytes may wait for the writer before Append blocks.
	maxQueued = 16 << 20
	// maxKept is the largest buffer kept for the next batch, in bytes.
	maxKept = 4 << 20
)

// Options may be left zero.
type Options struct {
	// FS is the file system, OS() if nil.
	FS FS
	// SegmentBytes is the size of a segment file, 64 MiB if 0. It may change from one Open to the next. A batch
	// that is larger gets a segment that grows to hold it.
	SegmentBytes int64
	// Logger is told what Open repaired and what failed in the background. Nothing is logged if it is nil.
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	if o.SegmentBytes < 0 {
		return o, fmt.Errorf("WAL segments cannot have %d bytes", o.SegmentBytes)
	}
	o.SegmentBytes = roundUp(max(cmp.Or(o.SegmentBytes, defaultSegmentBytes), minSegmentBytes))
	if o.FS == nil {
		o.FS = OS()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// Log is an open write-ahead log. All methods may be called concurrently.
//
// The idea is group commit: Append only encodes into the batch that is being gathered. One goroutine, the writer,
// takes that batch, leaves an empty one in its place, writes the batch with one write and one fdatasync, and calls
// back everyone in it, in order. While it waits for the disk the next batch gathers, so that the slower the disk
// and the more the callers, the larger the batches: nothing needs tuning, and nobody waits for others to come.
//
// Rejected: a commit delay (costs the single writer what it gains the many), and a lock that the first of the
// waiting callers takes in order to sync for the rest (the disk then idles until that caller is scheduled).
type Log struct {
	dir     string
	fs      FS
	stopped chan struct{} // closed when the writer goroutine has ended
	metrics metrics

	mu       sync.Mutex // guards all below; never held while the disk works
	work     sync.Cond  // signalled when there is something for the writer
	space    sync.Cond  // broadcast when the writer has taken the queue
	queue    *batch     // what the writer takes next
	recycled *batch     // an empty batch whose memory may be used again, or nil
	failed   error      // the first failure; nothing is accepted after it
	closed   bool
	last     uint64    // index of the last entry accepted, or the cut if that is higher
	cut      uint64    // entries up to here are not needed, or were replaced
	segments []segment // on disk, ascending; the last one is the active one, the others hold whole batches only

	removing sync.Mutex // held while segments are removed; taken before mu
}

// segment is a segment file that holds at least its first batch.
type segment struct {
	number  uint64
	highest uint64 // the highest index of its entries; 0 if it has none
}

// batch is what is written with one write and one sync. Header and padding are filled in by sealBatch.
type batch struct {
	buf       []byte // room for the header, then records
	waiters   []waiter
	hardState []byte   // the last one in buf, encoded; empty if there is none
	highest   uint64   // the highest index of the entries in buf after snapshot; 0 if there is none
	cut       uint64   // the highest in buf
	snapshot  Snapshot // the last in buf; the zero value if there is none
}

type waiter struct {
	done func(error)
	err  error // why its entries are not in the batch, or nil
}

func newBatch() *batch { return &batch{buf: make([]byte, batchHeaderSize, 4096)} }

func (b *batch) isEmpty() bool { return len(b.buf) == batchHeaderSize }

func (b *batch) isCutOnly() bool {
	return b.highest == 0 && len(b.hardState) == 0 && b.snapshot == Snapshot{}
}

// setHardState adds a hard state, if hs is not nil. After an error the end of buf is not to be used.
func (b *batch) setHardState(hs *raftpb.HardState) (err error) {
	if hs == nil {
		return nil
	}
	start := len(b.buf) + recordHeaderSize
	if b.buf, err = appendMessage(b.buf, kindHardState, hs); err != nil {
		return err
	}
	b.hardState = append(b.hardState[:0], b.buf[start:]...)
	return nil
}

// reset empties b for another use.
func (b *batch) reset() {
	clear(b.waiters)
	*b = batch{buf: b.buf[:batchHeaderSize], waiters: b.waiters[:0], hardState: b.hardState[:0]}
}

// Append queues a hard state, if hs is not nil, and entries; done is called once they are durable, or with the
// reason why they may not be. What one Append brings is recovered whole or not at all.
//
// The first entry follows the last one appended (or the cut), or has a lower index that is still above the cut: then
// it replaces the entry of that index and every one after it. Indexes go up by one. hs and entries may be used again
// when Append returns.
//
// Append waits for the disk only if more than 16 MiB are queued. done is called from the writer goroutine, in the
// order in which Append was called: it must not block, nor call a method of the log. After the first error every
// later call is given that error and nothing more is written: a failed fdatasync must not be tried again, since
// the kernel may have dropped what it could not write. After Close, Append itself calls done with ErrClosed.
func (l *Log) Append(hs *raftpb.HardState, entries []*raftpb.Entry, done func(error)) {
	l.mu.Lock()
	for len(l.queue.buf) > maxQueued && l.failed == nil && !l.closed {
		l.space.Wait()
	}
	if l.closed {
		l.mu.Unlock()
		done(ErrClosed)
		return
	}
	if l.failed == nil {
		l.failed = l.encode(hs, entries)
	}
	l.queue.waiters = append(l.queue.waiters, waiter{done, l.failed})
	l.work.Signal()
	l.mu.Unlock()
}

// encode adds to the queue, or changes nothing and says why. l.mu is held.
func (l *Log) encode(hs *raftpb.HardState, entries []*raftpb.Entry) error {
	b, start := l.queue, len(l.queue.buf)
	err := l.check(entries)
	for i := 0; i < len(entries) && err == nil; i++ {
		b.buf, err = appendMessage(b.buf, kindEntry, entries[i])
		if err == nil && len(b.buf)-start > maxBatch {
			err = fmt.Errorf("it is larger than %d bytes", maxBatch)
		}
	}
	if err == nil {
		err = b.setHardState(hs)
	}
	if err != nil {
		b.buf = b.buf[:start]
		return fmt.Errorf("append to the WAL: %w", err)
	}
	if len(entries) > 0 {
		l.last = entries[len(entries)-1].GetIndex()
		b.highest = max(b.highest, l.last)
	}
	return nil
}

// check refuses entries that Open would refuse.
func (l *Log) check(entries []*raftpb.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	switch first := entries[0].GetIndex(); {
	case first <= l.cut:
		return fmt.Errorf("entry %d comes too late: entries up to %d were cut", first, l.cut)
	case first > l.last+1:
		return fmt.Errorf("entry %d leaves a gap after entry %d", first, l.last)
	}
	for i, e := range entries[1:] {
		if before := entries[i].GetIndex(); e.GetIndex() != before+1 {
			return fmt.Errorf("entry %d follows entry %d", e.GetIndex(), before)
		}
	}
	return nil
}

// Close writes what is queued, waits until every done was called and no file is open, and returns the error after
// which the log accepted nothing more, if there was one.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	l.work.Signal()
	l.space.Broadcast()
	l.mu.Unlock()
	<-l.stopped

	l.removing.Lock() // a Cut that goes on
	defer l.removing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// start makes a Log of an appender. last and cut are what the segments say.
func start(a *appender, segments []segment, last, cut uint64) *Log {
	l := &Log{
		dir: a.dir, fs: a.fs, metrics: a.metrics, stopped: make(chan struct{}),
		queue: newBatch(), last: last, cut: cut, segments: segments,
	}
	l.work.L, l.space.L = &l.mu, &l.mu
	go l.write(a)
	return l
}

// write is the writer goroutine.
func (l *Log) write(a *appender) {
	defer close(l.stopped)
	var failed error
	for b := l.take(); b != nil; b = l.take() {
		if failed == nil && !b.isEmpty() {
			failed = a.append(b)
		}
		l.settle(b, a.number, failed)
	}
	err := a.close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = cmp.Or(l.failed, err)
}

// take waits for a batch. It returns nil when the log is closed and everything was taken.
func (l *Log) take() *batch {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue.waiters) == 0 && !l.closed {
		l.work.Wait()
	}
	b := l.queue
	if len(b.waiters) == 0 && b.isEmpty() {
		return nil
	}
	l.queue, l.recycled = l.recycled, nil
	if l.queue == nil {
		l.queue = newBatch()
	}
	l.space.Broadcast()
	return b
}

// settle notes what became of b, which went into the given segment, and calls back its waiters.
func (l *Log) settle(b *batch, number uint64, failed error) {
	l.mu.Lock()
	if failed != nil {
		l.failed = cmp.Or(l.failed, failed)
		l.space.Broadcast()
	} else {
		if l.segments[len(l.segments)-1].number != number {
			l.segments = append(l.segments, segment{number: number})
		}
		if b.snapshot != (Snapshot{}) {
			forgetEntries(l.segments)
		}
		active := &l.segments[len(l.segments)-1]
		active.highest = max(active.highest, b.highest)
	}
	l.mu.Unlock()

	for _, w := range b.waiters {
		w.done(cmp.Or(failed, w.err))
	}
	if cap(b.buf) > maxKept {
		return
	}
	b.reset()
	l.mu.Lock()
	l.recycled = b
	l.mu.Unlock()
}
