package core

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/core/lease"
)

// Only the leader tells time, so whoever else is asked about what is left of a lease, or to renew it, asks the leader. What needs no
// time is known to every member: whether there is such a lease, its keys, and who may do something to them.
//
// The calls, of which all numbers of leases are 8 bytes, little endian:
//
//	LeasePing        leases -> for each a uvarint, its TTL in seconds; 0 if it cannot be renewed now
//	LeaseTimeToLive  a lease -> two uvarints, the seconds that are left, and its TTL
const (
	callPing       = "LeasePing"
	callTimeToLive = "LeaseTimeToLive"
)

// pingQueue holds the pings that are to be sent to the leader. Those that come while calls are under way share the next one. So
// each is answered by a renewal that comes after it, and there is no timer.
type pingQueue struct {
	wake chan struct{} // holds a token when waiting is not empty

	mu      sync.Mutex   // guards all below
	waiting []*pingBatch // pings join the last one, unless it is full
}

// pingBatch is the pings of one call.
type pingBatch struct {
	ids  []int64
	done chan struct{} // closed when the fields below are set
	ttls []int64
	err  error
	term uint64 // in which the leader was called; 0 if nobody was
}

const (
	// pingCalls is how many calls with pings are under way at most. With one, whoever comes just after it was sent waits for twice
	// as long.
	pingCalls = 2
	// maxPings is how many a call carries: 128 KiB. How many wait is bounded by who waits.
	maxPings = 16 << 10
	// pingPatience is for how long after a ping came it may be sent again, by which its lease may be renewed a second time.
	pingPatience = time.Second
	// pingPause is after how long a lease that could not be renewed is asked for again at the latest.
	pingPause = 100 * time.Millisecond
)

func newPingQueue() *pingQueue { return &pingQueue{wake: make(chan struct{}, 1)} }

// join adds a ping. Its place in the batch is that of its result.
func (q *pingQueue) join(id int64) (b *pingBatch, place int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if last := len(q.waiting) - 1; last >= 0 && len(q.waiting[last].ids) < maxPings {
		b = q.waiting[last]
	} else {
		b = &pingBatch{done: make(chan struct{})}
		q.waiting = append(q.waiting, b)
	}
	b.ids = append(b.ids, id)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return b, len(b.ids) - 1
}

// take returns the next batch, nil if there is none.
func (q *pingQueue) take() *pingBatch {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return nil
	}
	b := q.waiting[0]
	q.waiting = q.waiting[1:]
	return b
}

// sendPings is each of the pingCalls goroutines that send pings to the leader.
func (n *Node) sendPings() {
	defer n.goroutines.Done()
	for {
		select {
		case <-n.pings.wake:
		case <-n.stopped:
			return
		}
		for b := n.pings.take(); b != nil; b = n.pings.take() {
			b.ttls, b.term, b.err = n.pingLeader(b.ids)
			close(b.done)
		}
	}
}

// pingLeader calls the leader. term is 0 if it surely has not renewed anything.
func (n *Node) pingLeader(ids []int64) (ttls []int64, term uint64, err error) {
	led := n.leadership() // a call to who leads no more would not be answered, and others wait for it
	leader, term := n.leader.Load(), n.term.Load()
	if leader == 0 || leader == n.member.ID {
		return nil, 0, errAskAgain
	}
	ctx, cancel := context.WithTimeout(led, n.cfg.requestTimeout())
	defer cancel()
	answer, err := n.callPeer(ctx, leader, callPing, appendIDs(nil, ids), grpc.WaitForReady(true))
	if errors.Is(err, rpctypes.ErrGRPCNotLeader) {
		return nil, 0, errAskAgain
	}
	if err == nil {
		ttls, err = parseNumbers(answer, len(ids))
	}
	return ttls, term, err
}

// forwardPing has the leader renew a lease that is known here. The error is errAskAgain if it has not, and is to be asked again.
func (n *Node) forwardPing(ctx context.Context, id int64, arrived time.Time) (ttl int64, err error) {
	for {
		b, place := n.pings.join(id)
		if err := n.await(ctx, b.done, 0); err != nil {
			return 0, err
		}
		if b.err != nil {
			return 0, n.afterFailedPing(ctx, b, arrived)
		}
		if ttl = b.ttls[place]; ttl > 0 {
			return ttl, nil
		}
		// It has expired, or its checkpoint must be taken back, or the leader has not heard of it yet. What becomes of it is heard
		// of here, if it has not been already. Meanwhile nobody else waits for it.
		changed, exists := n.leases.Changed(id)
		if !exists {
			return 0, lease.ErrNotFound
		}
		if err := n.await(ctx, changed, pingPause); err != nil {
			return 0, err
		}
	}
}

// afterFailedPing tells what to do about a ping when the call that carried it has failed: errAskAgain, if the lease has not been
// renewed, or under a leadership that is over, or the ping is young. Else it might keep alive the lease of a client that is dead
// by now.
func (n *Node) afterFailedPing(ctx context.Context, b *pingBatch, arrived time.Time) error {
	for b.term != 0 && isUnanswered(b.err) {
		led := n.leadership()
		if time.Since(arrived) < pingPatience || n.term.Load() != b.term {
			return errAskAgain
		}
		if n.leader.Load() != 0 {
			return rpctypes.ErrGRPCTimeout
		}
		if err := n.await(ctx, led.Done(), 0); err != nil {
			return err
		}
	}
	return b.err
}

// isUnanswered tells whether it is open what has become of a call.
func isUnanswered(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
		return true
	}
	return false
}

// answerPings is LeasePing on the leader's side.
func (n *Node) answerPings(ctx context.Context, request []byte) ([]byte, error) {
	ids, err := parseIDs(request)
	if err != nil {
		return nil, err
	}
	term, err := n.awaitTenure(ctx)
	if err != nil {
		return nil, err
	}
	ttls := make([]int64, len(ids))
	if err := n.renewAsLeader(ctx, term, ids, ttls); err != nil {
		return nil, err
	}
	return appendNumbers(nil, ttls...), nil
}

// leaderTimeToLive asks the leader what is left of a lease.
func (n *Node) leaderTimeToLive(ctx context.Context, id int64) (s lease.Status, err error) {
	err = n.atLeader(ctx, func(ctx context.Context, leader uint64) error {
		if leader == n.member.ID {
			s, err = n.ownTimeToLive(ctx, id)
			return err
		}
		answer, err := n.callPeer(ctx, leader, callTimeToLive, appendIDs(nil, []int64{id}), grpc.WaitForReady(true))
		if isUnanswered(err) {
			return errAskAgain
		}
		if err != nil {
			return err
		}
		numbers, err := parseNumbers(answer, 2)
		if err == nil {
			s = lease.Status{Remaining: numbers[0], TTL: numbers[1]}
		}
		return err
	})
	return s, err
}

// ownTimeToLive is what this member, as leader, knows is left of a lease.
func (n *Node) ownTimeToLive(ctx context.Context, id int64) (lease.Status, error) {
	if _, err := n.awaitTenure(ctx); err != nil {
		return lease.Status{}, err
	}
	s, err := n.leases.TimeToLive(id, false)
	if errors.Is(err, lease.ErrNotPrimary) {
		err = rpctypes.ErrGRPCNotLeader
	}
	return s, err
}

// answerTimeToLive is LeaseTimeToLive on the leader's side. That this member still leads it has to find out: who asks does not know
// better.
func (n *Node) answerTimeToLive(ctx context.Context, request []byte) ([]byte, error) {
	ids, err := parseIDs(request)
	if err != nil {
		return nil, err
	}
	if len(ids) != 1 {
		return nil, status.Errorf(codes.InvalidArgument, "weir: the time to live of %d leases was asked for", len(ids))
	}
	if err := n.linearizable(ctx); err != nil {
		return nil, err
	}
	s, err := n.ownTimeToLive(ctx, ids[0])
	if err != nil {
		return nil, err
	}
	return appendNumbers(nil, s.Remaining, s.TTL), nil
}

// atLeader calls ask as askLeader does, for as long as a request may take, and returns etcd's errors.
func (n *Node) atLeader(ctx context.Context, ask func(ctx context.Context, leader uint64) error) error {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.requestTimeout())
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	err := n.askLeader(ctx, ask)
	switch {
	case err == nil:
		return nil
	case n.ctx.Err() != nil:
		return rpctypes.ErrGRPCStopped
	case ctx.Err() == nil:
		return apiError(err)
	case errors.Is(ctx.Err(), context.Canceled):
		return rpctypes.ErrGRPCCanceled
	case n.leader.Load() == 0:
		return rpctypes.ErrGRPCNoLeader
	}
	return rpctypes.ErrGRPCTimeout
}

func appendIDs(b []byte, ids []int64) []byte {
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint64(b, uint64(id))
	}
	return b
}

func parseIDs(b []byte) (ids []int64, err error) {
	if len(b)%8 != 0 || len(b) > 8*maxPings {
		return nil, status.Errorf(codes.InvalidArgument, "weir: %d bytes are no numbers of leases", len(b))
	}
	ids = make([]int64, 0, len(b)/8)
	for ; len(b) > 0; b = b[8:] {
		ids = append(ids, int64(binary.LittleEndian.Uint64(b)))
	}
	return ids, nil
}

func appendNumbers(b []byte, numbers ...int64) []byte {
	for _, number := range numbers {
		b = binary.AppendUvarint(b, uint64(number))
	}
	return b
}

// parseNumbers reads so many numbers, and nothing else.
func parseNumbers(b []byte, count int) (numbers []int64, err error) {
	numbers = make([]int64, count)
	for i := range numbers {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, status.Errorf(codes.Internal, "weir: the leader has answered %d numbers instead of %d", i, count)
		}
		numbers[i], b = int64(v), b[n:]
	}
	if len(b) > 0 {
		return nil, status.Errorf(codes.Internal, "weir: the leader has answered more than %d numbers", count)
	}
	return numbers, nil
}
