package lease

import (
	"context"
	"time"
)

// checkpointInterval is how much more a lease may be said to have left than it has. It is etcd's. A lease with a TTL that is not
// longer needs no checkpoint.
const checkpointInterval = 5 * time.Minute

// Checkpoint says what was left of a lease, in seconds; 0 takes back what was said before, so that the lease has its TTL. Granted is
// that of the lease's Record: when the checkpoint comes out of the log, another lease may have the id.
type Checkpoint struct{ ID, Remaining, Granted int64 }

// flight is which checkpoints of a lease have been given out and not been applied, on the primary. There is one of each kind at
// most, and the one that takes back comes after the other.
type flight uint8

const (
	remainder flight = 1 << iota
	takenBack
)

func (c Checkpoint) kind() flight {
	if c.Remaining == 0 {
		return takenBack
	}
	return remainder
}

// WaitCheckpoints waits until Checkpoints should be called. Only one goroutine may call it at a time. The error is that of ctx.
func (l *Lessor) WaitCheckpoints(ctx context.Context) error {
	return l.wait(ctx, checkpoints, func() (found int, next instant, again bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.seen(checkpoints)
		q := &l.queues[checkpoints]
		if q.isEmpty() {
			return 0, 0, false
		}
		if _, due := q.front(); due > l.now() {
			return 0, due, false
		}
		return 1, 0, false
	})
}

// Checkpoints returns at most limit leases that need a checkpoint (limit > 0), and maybe none. The caller proposes them, and core
// calls Checkpoint on every member when they come back through the log: each once and in the order in which they were
// returned, or never if Demote or Promote comes first. What is not proposed must be given to Withdraw.
//
// A lease needs one when five minutes have passed since its last ping or checkpoint, so that the next primary gives it at most
// so much too much; and when its client pings it again, to take back the one that it has. A lease that is pinged more often than
// that, which nearly all are, costs the log nothing. (etcd checkpoints every lease each five minutes, and takes it back at
// the next ping.)
//
// Rejected: to return again what has not come after some time, as WaitExpired does. What comes late would then follow what takes
// it back, and the ping that was answered in between is lost with the next change of the primary.
func (l *Lessor) Checkpoints(limit int) []Checkpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []Checkpoint
	now, q := l.now(), &l.queues[checkpoints]
	for range sweepLimit {
		if q.isEmpty() || len(found) == limit {
			break
		}
		le, at := q.front()
		if at > now {
			break
		}
		if due, ever := le.checkpointDue(); l.waiting[le.id] == nil && ever && due > now { // it was renewed
			q.postpone(due)
			continue
		}
		q.remove(le) // until the checkpoint is applied
		if le.expiry <= now {
			continue // who pings it waits for its end
		}
		c := Checkpoint{ID: le.id, Granted: le.granted}
		if l.waiting[le.id] == nil {
			c.Remaining = le.secondsLeft(now)
		}
		l.flights[le.id] |= c.kind()
		found = append(found, c)
	}
	return found
}

// Withdraw says that checkpoints which Checkpoints has returned were not proposed. They are tried again later.
func (l *Lessor) Withdraw(given []Checkpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range given {
		if le := l.meant(c); le != nil {
			l.landed(c.ID, c.kind())
			l.requeue(le, l.now()+instant(retryInterval))
		}
	}
}

// Checkpoint makes what was left of a lease what the next Promote gives it; 0 s, or as much as its TTL, is the whole
// TTL. It returns the record to be stored. It is applied from the log, and does not change when the lease expires here. Error:
// ErrNotFound, also if the lease has ended and its id was granted again.
func (l *Lessor) Checkpoint(c Checkpoint) (Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	le := l.meant(c)
	if le == nil {
		return Record{}, ErrNotFound
	}
	if c.Remaining == 0 {
		l.landed(c.ID, remainder|takenBack)
	} else {
		l.landed(c.ID, remainder)
	}
	le.setRemaining(c.Remaining)
	if l.isRenewable(le) {
		l.release(c.ID)
	}
	l.requeue(le, 0)
	return Record{ID: le.id, TTL: le.ttl, RemainingTTL: le.remaining, Granted: le.granted}, nil
}

// meant is the lease of which a checkpoint was made, nil if it has ended. l.mu is held.
//
// A lease that was granted, revoked and granted again in one entry would be the same as before; but no lease gets a checkpoint within
// five minutes of its grant.
func (l *Lessor) meant(c Checkpoint) *lease {
	if le := l.leases[c.ID]; le != nil && le.granted == c.Granted {
		return le
	}
	return nil
}

// landed notes that checkpoints of a lease are no longer on their way. l.mu is held.
func (l *Lessor) landed(id int64, kinds flight) {
	if left := l.flights[id] &^ kinds; left != 0 {
		l.flights[id] = left
	} else {
		delete(l.flights, id)
	}
}

// requeue puts a lease into the queue for checkpoints, where it will stand at the time from or later, if it is to be there. l.mu
// is held.
func (l *Lessor) requeue(le *lease, from instant) {
	due, ever := le.checkpointDue()
	if l.waiting[le.id] != nil {
		due, ever = 0, true
	}
	if !l.primary || !ever || l.flights[le.id] != 0 || le.index[checkpoints] != absent {
		return
	}
	l.queues[checkpoints].push(le, max(due, from))
	l.wakeUp(checkpoints)
}

// takeBackSoon has the checkpoint of a lease taken back, for somebody who waits for that. l.mu is held.
func (l *Lessor) takeBackSoon(le *lease, now instant) {
	q := &l.queues[checkpoints]
	switch {
	case l.flights[le.id]&takenBack != 0:
		return
	case le.index[checkpoints] == absent:
		q.push(le, now)
	default:
		q.advance(le, now)
	}
	l.wakeUp(checkpoints)
}

// isRenewable tells whether no checkpoint is known to others, or may come to be, that a ping would make wrong. l.mu is held.
func (l *Lessor) isRenewable(le *lease) bool {
	return le.remaining == 0 && (len(l.flights) == 0 || l.flights[le.id] == 0)
}

// setRemaining notes a checkpoint.
func (le *lease) setRemaining(remaining int64) {
	le.remaining = max(remaining, 0)
	if le.remaining >= le.ttl {
		le.remaining = 0
	}
}

// claim is what is known to every member of what the lease has left, in seconds.
func (le *lease) claim() int64 {
	if le.remaining > 0 {
		return le.remaining
	}
	return le.ttl
}

// checkpointDue is when the claim will be checkpointInterval more than what is left. There is no such time if the claim is
// less.
func (le *lease) checkpointDue() (due instant, ever bool) {
	claim := time.Duration(le.claim()) * time.Second
	return le.expiry - instant(claim-checkpointInterval), claim > checkpointInterval
}

// secondsLeft is what is left of the lease, rounded up.
func (le *lease) secondsLeft(now instant) int64 {
	return int64((time.Duration(le.expiry-now) + time.Second - 1) / time.Second)
}
