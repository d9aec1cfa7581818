package coalesce

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// lookups are the pings that a stream has not answered, or that must not hold one up. Few goroutines look up whether their
// leases are there. Keepalives.mu guards it.
type lookups struct {
	queue pingQueue
	later pingList // by when they were looked up last, which is ping.sent
}

const (
	// maxLookups are the places for look-ups, see pingQueue, maxLookupsOfClient is the share of one client, and maxLookupsOfSink that
	// of one of its sinks.
	maxLookups         = 16
	maxLookupsOfClient = maxLookups / 2
	maxLookupsOfSink   = maxLookupsOfClient * 3 / 4
	// lookupPause is after how long a lease is looked up again. etcd revokes what has expired twice a second.
	lookupPause = 100 * time.Millisecond
)

// lookUp has the lease of p looked up. k.mu is held.
func (k *Keepalives) lookUp(p *ping) {
	k.lookups.queue.add(p)
	if k.closed {
		return
	}
	if next := k.lookups.queue.take(); next != nil {
		k.running.Add(1)
		go k.lookUpAll(next)
	}
}

// lookUpLater has the lease of p, which is in no queue, looked up after lookupPause, if p is not too old then. k.mu is held.
func (k *Keepalives) lookUpLater(p *ping, out *answers, now instant) {
	if p.late(now + lookupPause) {
		k.drop(p, rpctypes.ErrGRPCTimeout, out, now)
		return
	}
	p.asked, p.sent = true, now
	k.lookups.later.push(p)
	k.arm(now+lookupPause, now)
}

// lookUpAll looks up p, which was taken, and then what is in the queue until nothing may be.
func (k *Keepalives) lookUpAll(p *ping) {
	defer k.running.Done()
	var out answers
	k.mu.Lock()
	defer k.mu.Unlock()
	for ; p != nil && !k.closed; p = k.lookups.queue.take() {
		k.lookUpNow(p, &out)
		k.mu.Unlock()
		out.give()
		k.mu.Lock()
	}
}

// lookUpNow looks up p, which was taken, and says what becomes of it. It releases k.mu meanwhile.
func (k *Keepalives) lookUpNow(p *ping, out *answers) {
	now := k.now()
	if p.late(now) {
		k.drop(p, rpctypes.ErrGRPCTimeout, out, now)
		return
	}
	p.asked, p.sent = true, now
	k.stats.Lookups++
	k.mu.Unlock()
	ctx, cancel := context.WithTimeout(k.ctx, PingLife-(now-p.latest))
	ttl, header, err := k.cfg.Upstream.Remaining(ctx, p.id)
	cancel()
	k.mu.Lock()
	if k.closed {
		return // and p has failed
	}
	k.leave(p)
	switch now = k.now(); {
	case err == nil && ttl < 0:
		k.leases.gone(p.id)
		k.answer(out, p, Pong{ID: p.id, Header: header})
		k.finish(p, now)
	case p.answered || p.late(now):
		k.drop(p, rpctypes.ErrGRPCTimeout, out, now)
	case err == nil && ttl > 0:
		if k.leases.alive(p.id) != refused {
			k.leases.renewed(p.id, ttl, p.sent, now)
		}
		p.blocked, p.cleared = false, true // also if there is no room to remember that
		k.enqueue(p, now)
	case isDenied(err) && !p.blocked:
		// Who may not read the keys of a lease may yet ping it, so only a ping can tell.
		p.alone = true
		k.enqueue(p, now)
	case err != nil && !mayPass(err) && !isDenied(err):
		k.drop(p, err, out, now)
	case err == nil && !p.blocked:
		// It may have expired, or have less than a second left, which only a ping can tell.
		p.cleared = true
		k.enqueue(p, now)
	default:
		k.lookUpLater(p, out, now)
	}
}
