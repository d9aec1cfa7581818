package coalesce

import "go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

const (
	// deadlineGrain is what arrivals are rounded down to, so that all pings of a slot are late at the same time.
	deadlineGrain = PingLife / 40
	deadlineSlots = 64 // more than a PingLife has
)

// deadlines has the pings that somebody waits for, wherever they are, in slots by the first arrival of those who do. Keepalives.mu guards it.
type deadlines struct {
	slots [deadlineSlots]pingList
	swept instant // what arrived before has failed
}

func (d *deadlines) slot(arrived instant) *pingList {
	return &d.slots[uint64(arrived/deadlineGrain)%deadlineSlots]
}

func newDeadlines() (d deadlines) {
	for i := range d.slots {
		d.slots[i].chain = byDeadline
	}
	return d
}

func (d *deadlines) add(p *ping)    { d.slot(p.arrived).push(p) }
func (d *deadlines) remove(p *ping) { d.slot(p.arrived).remove(p) }

// join has a share p.
func (d *deadlines) join(p *ping, a asker) {
	p.more = append(p.more, a)
	p.latest = max(p.latest, a.arrived)
	if a.arrived < p.arrived {
		d.remove(p)
		p.arrived = a.arrived
		d.add(p)
	}
}

// expireAll fails all who are late. k.mu is held.
func (k *Keepalives) expireAll(out *answers, now instant) {
	d := &k.deadlines
	at := max(d.swept, now-PingLife-deadlineSlots*deadlineGrain+1).Truncate(deadlineGrain)
	for ; now-at >= PingLife; at += deadlineGrain {
		for p := d.slot(at).first; p != nil; {
			next := p.links[byDeadline].next
			if isLate(p.arrived, now) { // else this process was stalled
				k.expire(p, out, now)
			}
			p = next
		}
	}
	d.swept = at
	for ; at <= now; at += deadlineGrain {
		if d.slot(at).n > 0 {
			k.arm(at+PingLife, now)
			return
		}
	}
}

// expire fails those of p's askers who are late with what kept p from being sent, as etcd would have said. p goes on for the
// others, if there are any. Upstream, it may be answered yet, and until then no other ping of its lease can be sent. k.mu is held.
func (k *Keepalives) expire(p *ping, out *answers, now instant) {
	err := rpctypes.ErrGRPCTimeout
	if p.line != nil && !p.out && isUnavailable(p.line.queue.trouble) {
		err = p.line.queue.trouble
	}
	if !p.late(now) {
		k.expireSome(p, err, out, now)
		return
	}
	k.fail(out, p, err)
	switch first := k.pings[p.id]; {
	case first != p:
		first.behind = nil
		return
	case p.out:
		return
	case p.line != nil:
		k.leave(p)
	default:
		k.lookups.later.remove(p)
	}
	k.finish(p, now)
}

// expireSome is expire if not all of p's askers are late. If p has waited among the pings of one who is, it goes on among those of
// one who is not. k.mu is held.
func (k *Keepalives) expireSome(p *ping, err error, out *answers, now instant) {
	var q *pingQueue
	if p.line != nil && !p.out {
		q = p.line.queue
		k.leave(p)
	}
	k.failLate(out, p, err, now)
	if q != nil {
		k.requeue(q, p)
	}
}
