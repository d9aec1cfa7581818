package lease

import (
	"context"
	"time"
)

// retryInterval is how long the revocation of an expired lease may take before WaitExpired names the lease again. Proposals
// may be lost. It is etcd's interval.
const retryInterval = 3 * time.Second

// sweepLimit bounds how many queue entries are looked at before the lock is given to others.
const sweepLimit = 1000

// WaitExpired waits until leases have expired and returns the ids of at most limit of them (limit > 0), those that expired
// first coming first. It sleeps exactly until the next expiry. The caller proposes their revocation; a lease still
// there three seconds later is returned again. Only one goroutine may call it at a time. The error is that of ctx.
func (l *Lessor) WaitExpired(ctx context.Context, limit int) (ids []int64, err error) {
	err = l.wait(ctx, expiries, func() (found int, next instant, again bool) {
		ids, next, again = l.sweep(limit)
		return len(ids), next, again
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// wait calls sweep until it has found something. Without anything that returns when it is to be called again (0 is when the
// queue's front has become earlier), or that it stopped early to let others have the lock. Only one goroutine at a time may
// wait for a queue.
func (l *Lessor) wait(ctx context.Context, which int, sweep func() (found int, next instant, again bool)) error {
	for {
		found, next, again := sweep()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case found > 0:
			return nil
		case again:
			continue
		}
		var alarm <-chan time.Time // stays nil, which never fires, when there is nothing to wait for
		if next > 0 {
			alarm = l.clock.At(l.start.Add(time.Duration(next)))
		}
		select {
		case <-alarm:
		case <-l.wake[which]:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sweep takes expired leases from the front of the queue and puts renewed ones where they belong, until the front is
// a lease that expires in the future. It returns the expired ones, and what wait is to know.
func (l *Lessor) sweep(limit int) (ids []int64, next instant, again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen(expiries)
	now, q := l.now(), &l.queues[expiries]
	for range sweepLimit {
		if q.isEmpty() || len(ids) == limit {
			return ids, 0, false
		}
		le, due := q.front()
		switch {
		case due < le.expiry: // it was renewed
			q.postpone(le.expiry)
		case due > now:
			return ids, due, false
		default:
			ids = append(ids, le.id)
			q.postpone(now + instant(retryInterval))
		}
	}
	return ids, 0, true
}

// seen takes back a call of wakeUp, of something that this sweep sees.
func (l *Lessor) seen(which int) {
	select {
	case <-l.wake[which]:
	default:
	}
}
