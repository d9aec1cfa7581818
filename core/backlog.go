package core

import (
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// backlog is what is committed and this member has not applied yet. When it is too long the member takes no more writes: what it
// took would be answered too late, and on a member that applies more slowly than the others nothing else would hold it back.
//
// It is measured in bytes and in time. etcd counts entries, of which it lets 5,000 wait; but one of ours has up to 1 MiB of requests,
// and one that deletes a million keys takes a second.
//
// Run adds to it, the apply goroutine takes away, and who proposes asks.
type backlog struct {
	bytes atomic.Int64 // of the entries that the applier was given and has not applied
	since atomic.Int64 // when it was given the oldest of its works, Unix time in nanoseconds; 0 if it has none

	mu    sync.Mutex  // guards given, and orders changes of since
	given []time.Time // when the applier was given each of its works, oldest first
}

// maxBacklogBytes is how much may be committed and not applied: some tenths of a second of work. It has to be less than what raft
// gives to an applier that is behind, 64 MiB.
const maxBacklogBytes = 32 << 20

// add says that the applier was given a work: entries, or a snapshot.
func (b *backlog) add(now time.Time, entries []*raftpb.Entry) {
	bytes := 0
	for _, e := range entries {
		bytes += len(e.GetData())
	}
	b.bytes.Add(int64(bytes))
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.given = append(b.given, now); len(b.given) == 1 {
		b.since.Store(now.UnixNano())
	}
}

// applied says that an entry has been applied.
func (b *backlog) applied(e *raftpb.Entry) { b.bytes.Add(-int64(len(e.GetData()))) }

// done says that the oldest work is done.
func (b *backlog) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	var since int64
	if b.given = b.given[1:]; len(b.given) > 0 {
		since = b.given[0].UnixNano()
	}
	b.since.Store(since)
}

// isTooLong tells whether no more writes should be taken: too much waits, or something has waited for longer than patience, which
// is how long a write may take.
func (b *backlog) isTooLong(now time.Time, patience time.Duration) bool {
	since := b.since.Load()
	return b.bytes.Load() > maxBacklogBytes || since != 0 && now.UnixNano()-since > int64(patience)
}
