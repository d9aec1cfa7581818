package core

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/core/auth"
	"weir/core/consensus"
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
	// under is the term of the leadership under which alone this may be proposed; 0 is any. A lease that has expired under one
	// leader has been given its TTL again by the next.
	under uint64
	done  chan result
	// abandoned says that nobody waits for it any more. If no entry carries it by then, none ever will: a write must not come
	// minutes after it was given up, when there is a leader again at last.
	abandoned atomic.Bool
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

// messageExtra is more than what raft's messages have beside one entry or a batch of them.
const messageExtra = 1 << 20

// maxBatches is how many batches of this member are on their way at most: one always may be, and more while its log has nothing to
// do, so that they wait for other members. While the log is busy, what arrives shares the next one.
//
// How many puts of 64 writers share an entry, on loopback: on one member or the leader of three 28 if they wait for the log to be free and
// for nothing else, but on a follower, whose log the leader keeps busy, only 2, and a follower with a slow disk hardly proposes at
// all. With 1, 2, 4 and 8 batches they are 33, 27, 26 and 26 on the leader, and 17, 11, 8 and 5 on a follower. With 4 and no look at the
// log they are 10 on one member. With 1, what arrives waits for a whole round trip before its own, which is long where members are
// far apart; with 4, for a quarter of one. With 4 a put costs an eighth less CPU on
// followers, and elsewhere what it did, as far as noise lets it be told.
const maxBatches = 4

// maxPatience is for how long at most a batch that may be lost holds up the next: no round trip takes longer, and election timeouts can
// be set to a minute.
const maxPatience = time.Second

// requestOverhead is what a request costs in memory besides its payload.
const requestOverhead = 512

// requestQueue holds the requests that no raft entry carries yet, and the batches that are on their way: in the log, or to the
// leader's, and not applied. Any goroutine adds; the run goroutine takes; the apply goroutine settles.
//
// What becomes of a batch shows when an entry is applied: its own, or one of a later leadership, behind which nothing comes any
// more that an earlier leader has taken. A batch that is lost on its way to the leader shows nothing, and expires.
//
// There is no queue per caller and no timer: a batch is whatever had arrived when one of maxBatches before it was
// done. Proposing each request by itself costs an entry, a record and a message each; waiting a fixed time to
// fill a batch costs that time when the load is low.
type requestQueue struct {
	wake chan struct{} // holds a token when something waits and may be taken

	mu      sync.Mutex // guards all below
	waiting []*request
	bytes   int               // of waiting and sent
	nextID  uint64            // id of the next batch
	sent    map[uint64]*batch // by id
	onWay   int               // how many of sent are awaited
	logIdle bool              // this member's log has nothing to do
	closed  bool
}

// batch is the requests that share an entry.
type batch struct {
	requests []*request
	term     uint64 // in which it was proposed
	at       time.Time
	// isAwaited says that the next one may have to wait for it. It is not once it may be lost: that does not show for seconds.
	isAwaited bool
}

// newRequestQueue numbers its batches from firstID, which should be random: ids of entries that were written
// before a restart must not meet those of new ones.
func newRequestQueue(firstID uint64) *requestQueue {
	return &requestQueue{wake: make(chan struct{}, 1), nextID: firstID, sent: map[uint64]*batch{}}
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

// pending is how many bytes of requests wait or are on their way.
func (q *requestQueue) pending() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

// requests is how many requests wait or are on their way.
func (q *requestQueue) requests() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.waiting)
	for _, b := range q.sent {
		n += len(b.requests)
	}
	return n
}

// mayTake tells whether the next batch may go. Called with mu held.
func (q *requestQueue) mayTake() bool {
	return len(q.waiting) > 0 && (q.onWay == 0 || q.logIdle && q.onWay < maxBatches)
}

// logIs says whether this member's log has nothing to do.
func (q *requestQueue) logIs(idle bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.logIdle = idle
	q.signal()
}

// signal leaves a token for the run goroutine, if something waits and may be taken. Called with mu held.
func (q *requestQueue) signal() {
	if !q.mayTake() {
		return
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// signalWaiting is signal.
func (q *requestQueue) signalWaiting() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.signal()
}

// take moves the oldest requests, as many as one entry may hold, into a batch and returns the entry; nil when nothing waits, or
// maxBatches are on their way. Requests of another leadership than the present one are dropped, and those that were given up.
func (q *requestQueue) take(role consensus.Role) (entry []byte, id uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.mayTake() {
		return nil, 0
	}
	q.drop(func(r *request) bool {
		return r.abandoned.Load() || r.under != 0 && (!role.Leads || r.under != role.Term)
	})
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
	requests := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	if len(q.waiting) == 0 {
		q.waiting = nil
	}
	q.sent[id] = &batch{requests, role.Term, time.Now(), true}
	q.onWay++
	q.signal()
	entry = appendEntryHeader(make([]byte, 0, size), id)
	for _, r := range requests {
		entry = appendEntryRequest(entry, r.kind, r.as, r.payload)
	}
	return entry, id
}

// drop drops what waits and may no longer be proposed. Nobody waits for it. Called with mu held.
func (q *requestQueue) drop(isVain func(*request) bool) {
	if !slices.ContainsFunc(q.waiting, isVain) {
		return
	}
	q.waiting = slices.DeleteFunc(slices.Clone(q.waiting), func(r *request) bool {
		if !isVain(r) {
			return false
		}
		q.bytes -= r.size()
		return true
	})
}

// batch returns the requests of a batch that this member proposed and somebody waits for, else nil.
func (q *requestQueue) batch(id uint64) []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	if b := q.sent[id]; b != nil {
		return b.requests
	}
	return nil
}

// settle forgets a batch and returns its requests: whoever gets them gives the results, and nobody gets them twice.
func (q *requestQueue) settle(id uint64) []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.forget(id)
}

// forget is settle. Called with mu held.
func (q *requestQueue) forget(id uint64) []*request {
	b := q.sent[id]
	if b == nil {
		return nil
	}
	q.remove(id, b)
	for _, r := range b.requests {
		q.bytes -= r.size()
	}
	return b.requests
}

// remove takes a batch from those that are on their way. Called with mu held.
func (q *requestQueue) remove(id uint64, b *batch) {
	delete(q.sent, id)
	q.giveUp(b)
}

// giveUp lets the next batch not wait for this one. Called with mu held.
func (q *requestQueue) giveUp(b *batch) {
	if b.isAwaited {
		b.isAwaited = false
		q.onWay--
		q.signal()
	}
}

// lostTouch says that the batches on their way may be lost: the leader is another one, or messages to it were lost. None waits for
// them any more, though they may arrive.
func (q *requestQueue) lostTouch() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, b := range q.sent {
		q.giveUp(b)
	}
}

// putBack has the requests of a batch that raft did not take wait again, before all others.
func (q *requestQueue) putBack(id uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.sent[id]
	if b == nil { // it has been lost meanwhile, and its requests have been told so
		return
	}
	q.remove(id, b)
	q.waiting = slices.Concat(b.requests, q.waiting)
	q.signal()
}

// superseded says that an entry of a term has been applied. Batches that were proposed in earlier ones, and have not been applied,
// never will be if an earlier leader has taken them. If a message that carried one is still under way it may be, so their
// fate is open.
func (q *requestQueue) superseded(term uint64) {
	q.lose(rpctypes.ErrGRPCLeaderChanged, func(b *batch) bool { return b.term < term })
}

// expire gives up batches of which nothing has been heard for so long, and what waits in vain. Those who proposed them have been
// told so already. After patience, the next ones wait for them no more.
func (q *requestQueue) expire(after, patience time.Duration) {
	now := time.Now()
	q.mu.Lock()
	q.drop(func(r *request) bool { return r.abandoned.Load() })
	for _, b := range q.sent {
		if now.Sub(b.at) > patience {
			q.giveUp(b)
		}
	}
	q.mu.Unlock()
	q.lose(rpctypes.ErrGRPCTimeout, func(b *batch) bool { return now.Sub(b.at) > after })
}

func (q *requestQueue) lose(err error, isLost func(*batch) bool) {
	var lost []*request
	q.mu.Lock()
	for id, b := range q.sent {
		if isLost(b) {
			lost = append(lost, q.forget(id)...)
		}
	}
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
// the result leaves open whether the request will be applied, except ErrGRPCRequestTooManyRequests, and FailedPrecondition for
// a kind that members have not agreed on yet, which say that it will not.
func (n *Node) propose(ctx context.Context, k kind, as auth.Identity, payload []byte, decoded any) (result, error) {
	if err := n.agreement.permit(k, kinds[k].level); err != nil {
		return result{}, err
	}
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
	if n.backlog.isTooLong(time.Now(), n.cfg.requestTimeout()) {
		return result{}, rpctypes.ErrGRPCRequestTooManyRequests
	}
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
		r.abandoned.Store(true)
		n.metrics.proposalsFailed.Inc()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return result{}, rpctypes.ErrGRPCTimeout // what etcd says of a write whose fate is open
		}
		return result{}, rpctypes.ErrGRPCCanceled
	case <-timer.C:
		r.abandoned.Store(true)
		n.metrics.proposalsFailed.Inc()
		return result{}, rpctypes.ErrGRPCTimeout
	case <-n.stopped:
		return result{}, rpctypes.ErrGRPCStopped
	}
}
