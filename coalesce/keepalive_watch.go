package coalesce

import "time"

// One timer watches over all that takes too long. It is armed for the earliest that may be due, and at least every silence
// while a ping waits, so that a ping that comes need not arm it.

// arm has watch called at an instant, or before. k.mu is held.
func (k *Keepalives) arm(at, now instant) {
	if at >= k.due || k.closed {
		return
	}
	wait := max(at-now, 0)
	k.due = at
	if k.timer == nil {
		k.running.Add(1)
		k.timer = time.AfterFunc(wait, k.watch)
	} else if !k.timer.Reset(wait) {
		k.running.Add(1)
	}
}

// watch sets streams aside that are silent or clogged, fails what is late, lets pings go on that have paused, and closes what is idle.
func (k *Keepalives) watch() {
	defer k.running.Done()
	var out answers
	defer out.give()
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if k.closed {
		return
	}
	stalled := now-k.due >= silence/2 // this process was, so that pongs may be there that nobody has read
	k.due = never
	k.expireAll(&out, now)
	serving := false
	for i := range k.lanes {
		l := &k.lanes[i]
		if stalled && l.run != nil {
			l.run.heard = now
		}
		k.watchLane(l, now, stalled)
		serving = serving || l.serving
	}
	k.watchLookups(now)

	switch {
	case len(k.pings) > 0:
		k.arm(now+silence, now)
	case k.idle(now):
		k.rest()
	case serving || k.leases.n() > 0:
		k.arm(k.used+idleStreams, now)
	}
}

func (k *Keepalives) idle(now instant) bool {
	return len(k.pings) == 0 && now-k.used >= idleStreams
}

// rest closes the streams and forgets what is not needed. k.mu is held.
func (k *Keepalives) rest() {
	for i := range k.lanes {
		l := &k.lanes[i]
		if l.run != nil {
			l.run.leave()
		}
		l.ready.Signal()
	}
	k.leases.clear()
	k.sparePingers, k.spareClients = nil, nil
}

// leave ends r, which its lane then does without. Keepalives.mu is held.
func (r *pingRun) leave() {
	r.lane.run = nil
	r.ending = true
	r.cancel()
}

// watchLane is watch for one lane. k.mu is held.
func (k *Keepalives) watchLane(l *pingLane, now instant, stalled bool) {
	if l.rest > now {
		k.arm(l.rest, now)
	} else {
		l.ready.Signal()
	}
	r := l.run
	switch {
	case r == nil:
	case r.stream == nil:
		if now-r.opened >= PingLife {
			r.cancel()
		}
	case r.upstream.n > 0 && (now-r.heard >= silence || k.isClogged(l, now) && !stalled):
		k.setAside(r, now)
	case r.upstream.n > 0:
		k.arm(r.heard+silence, now)
	}
}

// isClogged tells whether leases that may have expired hold up others on a stream that is not ordered. There that takes so many of
// them that half of the places have been taken for long, which is the share of a client, and none is left. With fewer all have turns.
// A pong now and then does not help those that wait. k.mu is held.
func (k *Keepalives) isClogged(l *pingLane, now instant) bool {
	up, places := &l.run.upstream, l.queue.places.all
	if l != &k.lanes[doubtful] || l.run.stream.Ordered() || up.n < places {
		return false
	}
	p := up.first
	for range places/2 - 1 {
		p = p.links[byPlace].next
	}
	return now-p.sent >= silence
}

// setAside has r, which is silent or clogged, end, and what is upstream on it looked up. k.mu is held.
func (k *Keepalives) setAside(r *pingRun, now instant) {
	l := r.lane
	ordered := r.stream.Ordered()
	hangs := ordered || k.isClogged(l, now)
	r.leave()
	k.stats.Silent++
	if hangs {
		l.hung = now
	}
	if ordered {
		r.upstream.first.blocked = true
	}
	for p := r.upstream.pop(); p != nil; p = r.upstream.pop() {
		p.stream = nil
		p.blocked = p.blocked || !ordered && now-p.sent >= silence
		k.leave(p)
		if p.answered {
			k.finish(p, now)
		} else {
			k.lookUp(p)
		}
	}
	if hangs && l == &k.lanes[doubtful] {
		var waiting pingList
		for p := l.queue.take(); p != nil; p = l.queue.take() {
			k.leave(p)
			waiting.push(p)
		}
		for p := waiting.pop(); p != nil; p = waiting.pop() {
			k.enqueue(p, now)
		}
	}
	l.ready.Signal()
}

// watchLookups has those looked up again that have paused. k.mu is held.
func (k *Keepalives) watchLookups(now instant) {
	q := &k.lookups
	for p := q.later.first; p != nil; p = q.later.first {
		if again := p.sent + lookupPause; again > now {
			k.arm(again, now)
			break
		}
		q.later.remove(p)
		k.lookUp(p)
	}
}
