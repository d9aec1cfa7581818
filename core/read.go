package core

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// readGate lets linearizable reads pass once the store has reached an index that was the commit index of the
// leader after the read arrived.
//
// All reads that wait share one ReadIndex (Raft thesis, 6.4): a read joins the check that has not been sent yet,
// never one that has, because that one may have been answered before the read arrived. A check that gets no
// answer (raft drops it silently when the leader is in doubt) is sent again every retryTicks.
type readGate struct {
	wake chan struct{} // holds a token when the next check has readers

	mu      sync.Mutex // guards all below
	next    *readCheck
	sent    map[uint64]*readCheck
	base    uint64 // tells this gate's contexts from those of all others
	lastID  uint64
	applied uint64       // how far the store is
	waiting []*readCheck // confirmed, waiting for the store to reach their index
}

// readCheck is one ReadIndex and the reads that share it.
type readCheck struct {
	passed    chan struct{}
	confirmed chan struct{} // nil if nobody waits for it
	index     uint64
	ticks     int // since it was sent
}

// retryTicks is how many heartbeat intervals a check may go without an answer: 500 ms by default, as at etcd.
const retryTicks = 5

// maxChecks is how many ReadIndexes may be on their way. Each costs the leader a round of heartbeats, and who comes meanwhile
// shares the next.
const maxChecks = 2

func newReadGate(applied uint64) *readGate {
	return &readGate{
		base:    rand.Uint64(),
		applied: applied,
		wake:    make(chan struct{}, 1),
		next:    &readCheck{passed: make(chan struct{})},
		sent:    map[uint64]*readCheck{},
	}
}

// join returns a channel that is closed when a read that arrived now may be answered.
func (g *readGate) join() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wakeUp()
	return g.next.passed
}

// joinConfirmed returns a channel that is closed when a majority, asked from now on, has followed whoever leads then. The store may
// be behind.
func (g *readGate) joinConfirmed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wakeUp()
	if g.next.confirmed == nil {
		g.next.confirmed = make(chan struct{})
	}
	return g.next.confirmed
}

// wakeUp leaves a token for the run goroutine. Called with mu held.
func (g *readGate) wakeUp() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// isBusy tells whether the next check has to wait for one that is on its way.
func (g *readGate) isBusy() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.sent) >= maxChecks
}

// take closes the check that collects readers, and returns the context to give to raft's ReadIndex.
func (g *readGate) take() []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	check := g.next
	g.next = &readCheck{passed: make(chan struct{})}
	g.lastID++
	g.sent[g.lastID] = check
	return g.context(g.lastID)
}

// context names a check. The leader takes two questions with the same context for one, so it has to be unlike those of other
// members, and of an earlier process: late answers to that one may still come.
func (g *readGate) context(id uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, g.base), id)
}

// confirm is raft's answer to the check with that context: its readers may go on once the store has reached
// index.
func (g *readGate) confirm(ctx []byte, index uint64) {
	if len(ctx) != 16 || binary.LittleEndian.Uint64(ctx) != g.base {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	id := binary.LittleEndian.Uint64(ctx[8:])
	check := g.sent[id]
	if check == nil {
		return
	}
	delete(g.sent, id)
	if check.confirmed != nil {
		close(check.confirmed)
	}
	if index <= g.applied {
		close(check.passed)
		return
	}
	check.index = index
	g.waiting = append(g.waiting, check)
}

// reached tells that the store has come to index.
func (g *readGate) reached(index uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.applied = index
	kept := g.waiting[:0]
	for _, check := range g.waiting {
		if check.index <= index {
			close(check.passed)
		} else {
			kept = append(kept, check)
		}
	}
	clear(g.waiting[len(kept):])
	g.waiting = kept
}

// tick ages the checks that were sent. It returns the contexts of those that should be sent again: raft answers
// a repeated check with a later index, which is as good for all its readers.
func (g *readGate) tick() (again [][]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, check := range g.sent {
		if check.ticks++; check.ticks%retryTicks == 0 {
			again = append(again, g.context(id))
		}
	}
	return again
}

// unanswered returns the contexts of all checks that are on their way.
func (g *readGate) unanswered() (contexts [][]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id := range g.sent {
		contexts = append(contexts, g.context(id))
	}
	return contexts
}

// linearizableKeys is linearizable for who reads nothing but keys.
//
// A member that is alone asks nobody, raft neither: whatever has been acknowledged was so by its own applier, and is in the store. That
// stays true of what the store has now, whatever becomes of the membership before it is read. It is enough for keys, which an entry
// changes at once and before all else. Who has seen them, and asks for what else the entry does, to leases say, has to wait until that is
// done.
func (n *Node) linearizableKeys(ctx context.Context) error {
	if n.tenure.alone.Load() {
		return nil
	}
	return n.linearizable(ctx)
}

// linearizable waits until a read that arrived now may be answered from what has been applied. It returns ErrGRPCTimeout
// after the request timeout, whether ctx has a deadline or not, as etcd does.
func (n *Node) linearizable(ctx context.Context) error {
	passed := n.reads.join()
	timer := time.NewTimer(n.cfg.requestTimeout())
	defer timer.Stop()
	select {
	case <-passed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		n.metrics.failedReads.Inc()
		return rpctypes.ErrGRPCTimeout
	case <-n.stopped:
		return rpctypes.ErrGRPCStopped
	}
}
