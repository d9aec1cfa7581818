package transport

import (
	"context"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// queue holds what is to be sent on one channel to one peer. It is bounded in bytes, and what does not fit is dropped: raft
// sends again what matters, and what it says later is worth more than what it said earlier. Dropping the oldest instead would
// tear holes in the appends, of which each builds on the one before.
//
// Entries are not copied; they are raft's own.
type queue struct {
	limit int           // bytes
	wake  chan struct{} // something may be there

	mu       sync.Mutex // guards all below
	messages []outgoing
	bytes    int  // of them, messageOverhead included
	dropping bool // something was dropped since it was last empty
}

// outgoing is a message with its encoded size, which is worked out once.
type outgoing struct {
	*raftpb.Message
	size int
}

// messageOverhead is about what a message takes in memory beside its encoded size.
const messageOverhead = 256

func newQueue(limit int) *queue { return &queue{limit: limit, wake: make(chan struct{}, 1)} }

// put queues m. One that is larger than the limit fits if it is alone. If m does not fit it is dropped; first says whether it
// is the first since the queue was last empty.
func (q *queue) put(m outgoing) (ok, first bool) {
	size := m.size + messageOverhead
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.messages) > 0 && q.bytes+size > q.limit {
		first = !q.dropping
		q.dropping = true
		return false, first
	}
	q.messages = append(q.messages, m)
	q.bytes += size
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true, false
}

// take waits until there is something, and returns the oldest messages, as many as fit in one frame, but at least one.
func (q *queue) take(ctx context.Context) ([]outgoing, error) {
	for {
		if batch := q.takeNow(); len(batch) > 0 {
			return batch, nil
		}
		select {
		case <-q.wake:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (q *queue) takeNow() []outgoing {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, total := 0, 0
	for _, m := range q.messages {
		if n > 0 && total+m.size > frameSize {
			break
		}
		n++
		total += m.size
	}
	batch := q.messages[:n:n]
	if n == len(q.messages) {
		q.messages, q.bytes, q.dropping = nil, 0, false
	} else {
		q.messages = q.messages[n:]
		q.bytes -= total + n*messageOverhead
	}
	return batch
}

// clear drops all there is, and returns how many messages that was.
func (q *queue) clear() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.messages)
	q.messages, q.bytes, q.dropping = nil, 0, false
	return n
}
