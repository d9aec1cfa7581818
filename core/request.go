package core

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/core/auth"
)

// request is one write on its way through the log.
//
// The one who proposes it waits on done. The decoded message rides along, so that the member that proposed a
// request does not decode it again when it applies it; every other member decodes the payload.
type request struct {
	kind    kind
	as      auth.Identity // who asks, if authentication is on
	payload []byte        // the encoded etcd request
	decoded any           // the same, decoded; what applier.apply takes for this kind
	done    chan result
}

// size is what the request costs in memory while it waits.
func (r *request) size() int { return len(r.payload) + len(r.as.User) + requestOverhead }

// result is the outcome of a request. A request that failed changed nothing.
type result struct {
	resp any // what the applier returns for this kind
	err  error
	lost bool // the request is not known to have been applied, nor not to be; err is why
	// physical is closed when a compaction has removed its last revision; nil for everything else.
	physical <-chan struct{}
}

// maxBatchBytes bounds one raft entry. A single request may be larger; grpcapi bounds those (--max-request-bytes).
const maxBatchBytes = 1 << 20

// maxPendingBytes bounds what waits for its turn in memory. Over it a write is refused with ErrTooManyRequests,
// as etcd does when applying lags behind; it is a guard, not a queue length to tune.
const maxPendingBytes = 256 << 20

// requestOverhead is what a request costs in memory besides its payload.
const requestOverhead = 512

// requestQueue holds the requests that no raft entry carries yet, and the batches that are in the log but not
// applied. Any goroutine adds; the run goroutine takes; the apply goroutine settles.
//
// There is no queue per caller and no timer: a batch is whatever had arrived when the append before it was
// done. Proposing each request by itself costs an entry, a record and a message each; waiting a fixed time to
// fill a batch costs that time when the load is low.
type requestQueue struct {
	wake chan struct{} // holds a token when waiting is not empty

	mu      sync.Mutex // guards all below
	waiting []*request
	bytes   int                   // of waiting and inLog
	nextID  uint64                // id of the next batch
	inLog   map[uint64][]*request // by batch id
	closed  bool
}

// newRequestQueue numbers its batches from firstID, which should be random: ids of entries that were written
// before a restart must not meet those of new ones.
func newRequestQueue(firstID uint64) *requestQueue {
	return &requestQueue{wake: make(chan struct{}, 1), nextID: firstID, inLog: map[uint64][]*request{}}
}

// add queues r. It returns ErrGRPCRequestTooManyRequests when too much waits already, and ErrGRPCStopped after close.
func (q *requestQueue) add(r *request) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return rpctypes.ErrGRPCStopped
	case q.bytes > maxPendingBytes:
		return rpctypes.ErrGRPCRequestTooManyRequests
	}
	q.waiting = append(q.waiting, r)
	q.bytes += r.size()
	q.signal()
	return nil
}

// pending is how many bytes of requests wait or are in the log and not applied.
func (q *requestQueue) pending() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

// requests is how many requests wait or are in the log and not applied.
func (q *requestQueue) requests() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.waiting)
	for _, batch := range q.inLog {
		n += len(batch)
	}
	return n
}

// signal leaves a token for the run goroutine. Called with mu held.
func (q *requestQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take moves the oldest requests, as many as one entry may hold, into a batch and returns the entry; nil when
// nothing waits.
func (q *requestQueue) take() (entry []byte, id uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, entryHeaderSize
	for n < len(q.waiting) {
		s := entryRequestSize(q.waiting[n].as, q.waiting[n].payload)
		if n > 0 && size+s > maxBatchBytes {
			break
		}
		size += s
		n++
	}
	if n == 0 {
		return nil, 0
	}
	id = q.nextID
	q.nextID++
	batch := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	if len(q.waiting) == 0 {
		q.waiting = nil
	} else {
		q.signal()
	}
	q.inLog[id] = batch
	entry = appendEntryHeader(make([]byte, 0, size), id)
	for _, r := range batch {
		entry = appendEntryRequest(entry, r.kind, r.as, r.payload)
	}
	return entry, id
}

// batch returns the requests of a batch that this member proposed and somebody waits for, else nil.
func (q *requestQueue) batch(id uint64) []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.inLog[id]
}

// settle forgets a batch and returns it: whoever gets it gives the results, and nobody gets it twice.
func (q *requestQueue) settle(id uint64) []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := q.inLog[id]
	delete(q.inLog, id)
	for _, r := range batch {
		q.bytes -= r.size()
	}
	return batch
}

// drop fails a batch that raft did not take. It is not in the log and never will be.
func (q *requestQueue) drop(id uint64, err error) {
	for _, r := range q.settle(id) {
		r.done <- result{err: err, lost: true}
	}
}

// abandon tells all who wait that the fate of their request is open, because this member no longer leads. Those whose
// batch is in the log may still be committed; they are then applied with nobody waiting. The others never are: what
// was proposed under one leadership must not go into the log of a later one (a revocation of a lease that has been
// given its TTL again since).
func (q *requestQueue) abandon(err error) {
	q.mu.Lock()
	lost := q.waiting
	for _, batch := range q.inLog {
		lost = append(lost, batch...)
	}
	q.waiting, q.inLog, q.bytes = nil, map[uint64][]*request{}, 0
	q.mu.Unlock()
	for _, r := range lost {
		r.done <- result{err: err, lost: true}
	}
}

// close refuses what comes from now on. Those who wait are told by their context or by the node's end.
func (q *requestQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// propose sends one request of an identity through the log and waits for its result: until ctx ends, the request timeout
// passes (etcd's: 5 s and two election timeouts) or the node ends. An error of this function other than that of
// the result leaves open whether the request will be applied, except ErrGRPCRequestTooManyRequests, which says that
// it will not.
func (n *Node) propose(ctx context.Context, k kind, as auth.Identity, payload []byte, decoded any) (result, error) {
	start := n.metrics.clock.now()
	res, err := n.proposeAndWait(ctx, &request{kind: k, as: as, payload: payload, decoded: decoded, done: make(chan result, 1)})
	// As at etcd a request succeeds here when it has a result: one that is refused when it is applied too.
	n.metrics.requests.observe(k.operation(), err == nil, n.metrics.clock.now()-start, 1)
	if err == nil {
		err = res.err
	}
	return res, err
}

// proposeAndWait returns the request's result, which may be an error, or why there is none.
func (n *Node) proposeAndWait(ctx context.Context, r *request) (result, error) {
	if err := n.queue.add(r); err != nil {
		return result{}, err
	}
	timer := time.NewTimer(n.cfg.requestTimeout())
	defer timer.Stop()
	select {
	case res := <-r.done:
		if res.lost {
			n.metrics.proposalsFailed.Inc()
			return result{}, res.err
		}
		return res, nil
	case <-ctx.Done():
		n.metrics.proposalsFailed.Inc()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return result{}, rpctypes.ErrGRPCTimeout // what etcd says of a write whose fate is open
		}
		return result{}, rpctypes.ErrGRPCCanceled
	case <-timer.C:
		n.metrics.proposalsFailed.Inc()
		return result{}, rpctypes.ErrGRPCTimeout
	case <-n.stopped:
		return result{}, rpctypes.ErrGRPCStopped
	}
}
