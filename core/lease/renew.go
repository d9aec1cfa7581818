package lease

import "context"

// Renew gives a lease its whole TTL again and returns it in seconds. A lease that has expired is no longer
// renewed: Renew waits until it has been revoked, as at etcd. One that has a checkpoint is renewed when that has been taken back
// (see Checkpoints): else the next primary could end it as early as the checkpoint says, although its client has been told
// otherwise. Do not call it from the goroutine that calls Revoke and Checkpoint. Errors: ErrNotFound, ErrNotPrimary (also when
// Demote ends the wait), or that of ctx.
func (l *Lessor) Renew(ctx context.Context, id int64) (ttl int64, err error) {
	for {
		ttl, again, err := l.tryRenew(id)
		if again == nil {
			return ttl, err
		}
		select {
		case <-again:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// tryRenew renews a lease, or returns a channel that is closed when it makes sense to try again.
func (l *Lessor) tryRenew(id int64) (ttl int64, again <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.primary {
		return 0, nil, ErrNotPrimary
	}
	le := l.leases[id]
	if le == nil {
		return 0, nil, ErrNotFound
	}
	now := l.now()
	if l.renew(le, now) {
		return le.ttl, nil, nil
	}
	return 0, l.await(le, now), nil
}

// RenewNow is Renew of many leases, as far as it need not wait. It sets ttls, which is as long as ids, to their TTLs in
// seconds; 0 is of one that was not renewed: Renew tells why, and if it is worth while to ask again, see Changed, what that takes
// has been begun. The lock is held for all of them: let them be few.
func (l *Lessor) RenewNow(ids, ttls []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for i, id := range ids {
		ttls[i] = 0
		le := l.leases[id]
		switch {
		case !l.primary || le == nil:
		case l.renew(le, now):
			ttls[i] = le.ttl
		default:
			l.await(le, now)
		}
	}
}

// Changed returns a channel that is closed when something has become of a lease that could not be renewed: it has been revoked, or
// its checkpoint has been taken back. It is for a member that is not primary, on which both may come later than the primary's
// answer, or have come before. There is none if there is no such lease.
func (l *Lessor) Changed(id int64) (changed <-chan struct{}, exists bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	le := l.leases[id]
	if le == nil {
		return nil, false
	}
	return l.await(le, l.now()), true
}

// renew gives a lease its whole TTL again, unless it has expired or has a checkpoint. l.mu is held, and the lessor is primary.
func (l *Lessor) renew(le *lease, now instant) bool {
	if le.expiry <= now || !l.isRenewable(le) {
		return false
	}
	le.expiry = now.add(le.ttl, 0)
	return true
}

// await returns a channel that is closed when it makes sense to try again to renew a lease. A primary has its checkpoint taken
// back, if it has not expired. l.mu is held.
func (l *Lessor) await(le *lease, now instant) <-chan struct{} {
	c := l.waiting[le.id]
	if c == nil {
		c = make(chan struct{})
		l.waiting[le.id] = c
		if l.primary && le.expiry > now {
			l.takeBackSoon(le, now)
		}
	}
	return c
}
