package coalesce

import (
	"fmt"
	"sort"
	"sync"

	"weir/grpcapi/wire"
)

// ring keeps the newest revisions in memory, bounded in bytes. Publishers append at one end and never wait; readers
// copy what they need and are told when what they ask for has fallen out at the other end.
//
// It has a lock of its own, which is never held for longer than a short copy, so that a publisher does not even wait
// for the matching of events with watchers.
type ring struct {
	mu      sync.Mutex // guards the fields below
	limit   int        // bytes
	batches []Batch    // a circle; the newest `count` revisions that have events, ascending
	first   int        // index of the oldest
	count   int
	bytes   int
	from    int64 // every event of revision `from` and later, up to head, is here
	head    int64 // the newest revision published
	closed  bool  // takes no more
}

// What a Batch and an Event take besides the bytes that they point to.
const (
	batchOverhead = 32
	eventOverhead = 88
)

func newRing(rev int64, limit int) ring {
	return ring{limit: limit, from: rev + 1, head: rev}
}

func batchBytes(b *Batch) int {
	n := batchOverhead
	for i := range b.Events {
		n += eventBytes(&b.Events[i])
	}
	return n
}

func eventBytes(e *wire.Event) int { return eventOverhead + len(e.Data) + len(e.Prev) }

// append adds the newest revisions, makes them the hub's newest, and drops the oldest ones until the rest fits. The
// newest always stays. It returns false if there was nothing new.
func (r *ring) append(h *Hub, batches []Batch) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.head
	if r.closed {
		return false
	}
	for i := range batches {
		r.add(&batches[i])
	}
	h.raise(r.head)
	return r.head > before
}

// jump makes rev the newest revision without those before it, and makes it the hub's newest. Nothing is kept: what is not
// here begins after rev, and a reader who needs less finds that the ring no longer reaches back to it. It returns false if
// rev is not new.
func (r *ring) jump(h *Hub, rev int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || rev <= r.head {
		return false
	}
	r.batches, r.first, r.count, r.bytes = nil, 0, 0, 0
	r.head, r.from = rev, rev+1
	h.raise(rev)
	return true
}

func (r *ring) add(b *Batch) {
	switch {
	case b.Revision > r.head:
		r.head = b.Revision
	case len(b.Events) > 0:
		panic(fmt.Sprintf("coalesce: revision %d published after %d", b.Revision, r.head))
	}
	if len(b.Events) == 0 {
		return
	}
	if r.count == len(r.batches) {
		r.resize(max(minRing, 2*r.count))
	}
	*r.at(r.count) = *b
	r.count++
	r.bytes += batchBytes(b)
	for r.bytes > r.limit && r.count > 1 {
		r.dropOldest()
	}
}

// minRing is how many revisions a ring has room for at first.
const minRing = 8

func (r *ring) at(i int) *Batch { return &r.batches[(r.first+i)%len(r.batches)] }

func (r *ring) resize(n int) {
	batches := make([]Batch, n)
	for i := range r.count {
		batches[i] = *r.at(i)
	}
	r.batches, r.first = batches, 0
}

func (r *ring) dropOldest() {
	oldest := r.at(0)
	r.bytes -= batchBytes(oldest)
	r.from = oldest.Revision + 1
	*oldest = Batch{}
	r.first = (r.first + 1) % len(r.batches)
	r.count--
}

// trim drops the oldest revisions up to `passed`, the newest too, until the rest fits.
func (r *ring) trim(passed int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.bytes > r.limit && r.count > 0 && r.at(0).Revision <= passed {
		r.dropOldest()
	}
	if n := len(r.batches); n > minRing && r.count <= n/4 {
		r.resize(max(minRing, 2*r.count))
	}
}

func (r *ring) setLimit(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit = n
}

// close lets go of everything. Who reads is told that it is gone.
func (r *ring) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.batches, r.first, r.count, r.bytes = nil, 0, 0, 0
	r.from = r.head + 1
}

// size is the memory taken by what is kept.
func (r *ring) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// revision is the newest revision published.
func (r *ring) revision() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.head
}

// oldest is the revision from which on the ring has everything.
func (r *ring) oldest() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.from
}

// read appends to dst revisions from `from` on, as many as dst has room for, and no more after maxBytes have been
// reached. All events of revisions below next have then been read. ok is false when the ring no longer reaches back
// to `from`.
func (r *ring) read(from int64, dst []Batch, maxBytes int) (got []Batch, next int64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if from < r.from {
		return dst, from, false
	}
	i := sort.Search(r.count, func(i int) bool { return r.at(i).Revision >= from })
	for size := 0; i < r.count; i++ {
		if len(dst) == cap(dst) || size >= maxBytes {
			return dst, dst[len(dst)-1].Revision + 1, true
		}
		b := r.at(i)
		dst = append(dst, *b)
		size += batchBytes(b)
	}
	return dst, max(from, r.head+1), true
}
