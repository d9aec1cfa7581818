package core

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// tenure is this member's time as leader, from when it has applied what was acknowledged under earlier leaders: only then
// leases expire here and are renewed.
type tenure struct {
	mu    sync.Mutex // guards all below, and that leases are primary exactly if begun is set
	term  uint64     // in which this member leads; 0 if it does not
	begun bool
	// confirmed is when a majority was last asked whether it still follows, and did.
	confirmed time.Time
	changed   chan struct{} // closed when term or begun changes; nil if nobody waits for that

	// alone says that nobody but this member can have acknowledged a write: it was the only member when its tenure began, and no
	// change of the membership has been carried out since. It is changed with mu held, and read without.
	alone atomic.Bool
}

// ofTerm is the term in which this member leads, begun or not; 0 if it does not.
func (t *tenure) ofTerm() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.term
}

// now is the term in which this member leads, and whether its tenure has begun; changed is closed when that is over.
func (t *tenure) now() (term uint64, begun bool, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return t.term, t.begun, t.changed
}

// set changes who leads. Called with mu held.
func (t *tenure) set(term uint64, begun bool) {
	t.term, t.begun, t.confirmed = term, begun, time.Time{}
	t.alone.Store(false)
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

func (t *tenure) begin(term uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set(term, false)
}

// applied says that an entry of a term has been applied, while this member was the only one, or not. It calls promote if it is the
// first one of this leader's own.
func (t *tenure) applied(term uint64, isAlone func() bool, promote func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.term == term && !t.begun {
		promote()
		t.set(term, true)
		t.alone.Store(isAlone())
	}
}

// changesMembers says that a change of the membership is about to be raft's. Who is left alone by one is not alone until its next tenure:
// the others may have applied, and acknowledged, more than this member has when it carries out their removal.
func (t *tenure) changesMembers() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.alone.Store(false)
}

func (t *tenure) end(leases interface{ Demote() }) {
	t.mu.Lock()
	defer t.mu.Unlock()
	leases.Demote()
	t.set(0, false)
}

// isConfirmed tells whether a majority has followed in this term since a time.
func (t *tenure) isConfirmed(term uint64, since time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.term == term && t.begun && !t.confirmed.Before(since)
}

// confirm notes that a majority, asked at a time or later, has followed whoever leads now. It tells whether that is this member in
// this term.
func (t *tenure) confirm(term uint64, asked time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.term != term || !t.begun {
		return false
	}
	if asked.After(t.confirmed) {
		t.confirmed = asked
	}
	return true
}

// awaitTenure waits until this member's tenure has begun. The error is ErrGRPCNotLeader if it does not lead.
func (n *Node) awaitTenure(ctx context.Context) (term uint64, err error) {
	for {
		term, begun, changed := n.tenure.now()
		switch {
		case term == 0:
			return 0, rpctypes.ErrGRPCNotLeader
		case begun:
			return term, nil
		}
		if err := n.await(ctx, changed, 0); err != nil {
			return 0, err
		}
	}
}

// confirmedFor is how long a leader relies on a majority's word that it leads, and what the next one allows for that. All members must
// have the same: it never changes, or only with what members agree on.
const confirmedFor = 500 * time.Millisecond

// confirmTenure makes sure that what this member has just promised, as leader in a term, binds whoever leads next. The error is
// ErrGRPCNotLeader if that cannot be said.
//
// It asks a majority, as a linearizable read does, and shares the question with those. But not each time: who is elected after a
// leader was confirmed gives every lease confirmedFor more (see promoteLeases), counted from later than the confirmation.
// So a confirmation is good for what is promised within that time. That holds with whatever delays, pauses of processes and
// transfers of leadership, and whatever the members' election timeouts, which need not be the same; what it takes is that clocks of
// members run equally fast, without which leases mean nothing at all. (etcd asks a majority only when its own ticks are late.)
func (n *Node) confirmTenure(ctx context.Context, term uint64) error {
	asked := n.cfg.Clock.Now()
	if n.tenure.isConfirmed(term, asked.Add(-confirmedFor)) {
		return nil
	}
	now, _, changed := n.tenure.now()
	if now != term {
		return rpctypes.ErrGRPCNotLeader
	}
	confirmed := n.reads.joinConfirmed()
	select {
	case <-confirmed:
	case <-changed: // nobody may answer the question any more
	case <-ctx.Done():
		return ctx.Err()
	case <-n.stopped:
		return rpctypes.ErrGRPCStopped
	}
	if !n.tenure.confirm(term, asked) {
		return rpctypes.ErrGRPCNotLeader
	}
	return nil
}
