package coalesce

import (
	"math"
	"slices"
	"time"
)

// instant is a time since the epoch of its Keepalives. 0 is before all that happens.
type instant = time.Duration

const never = instant(math.MaxInt64)

// ping is a ping of one lease. It waits in a queue, is upstream on a stream, is looked up, is to be looked up later, or is behind
// another one. Keepalives.mu guards it.
type ping struct {
	id      int64
	arrived instant // the first of those that wait for it
	latest  instant // the last of them: no later than PingLife after that it is sent
	sent    instant // upstream, the last time
	alive   instant // see leaseTable

	asker         // whose it is
	more  []asker // who share it

	answered bool // or failed: nobody waits for it any more, and upstream may answer it yet
	asked    bool // it has been upstream, and so cannot be shared any more
	blocked  bool // it held up a stream, which it need not do again
	cleared  bool // it may try the doubtful lane, though that was held up lately
	alone    bool // it must not be upstream with others
	moved    bool // to who has joined it
	out      bool // it was taken from line

	stream *pingRun // that it is upstream on; nil if it is not
	line   *pingLine
	links  [2]pingLink
	behind *ping // the next of the same lease
}

// asker is a sink's ping, with its number.
type asker struct {
	owner   *pinger
	number  uint64
	arrived instant // less than deadlineGrain early
}

func newPing(id int64, a asker) *ping {
	return &ping{id: id, arrived: a.arrived, latest: a.arrived, asker: a}
}

// late tells whether p must not be sent any more, for whomever.
func (p *ping) late(now instant) bool { return isLate(p.latest, now) }

// isLate tells whether what arrived then has waited for too long.
func isLate(arrived, now instant) bool { return now-arrived >= PingLife }

type pingLink struct{ next, prev *ping }

// Each ping can be in two lists.
const (
	byPlace    = iota // one of those that wait, are on a stream, or are looked up later
	byDeadline        // a slot of deadlines
)

// pingList is an ordered list of pings. The zero value is empty.
type pingList struct {
	first, last *ping
	n           int
	chain       int // which of a ping's links it goes by
}

func (l *pingList) push(p *ping) { l.insert(p, l.last) }

// add inserts p so that the list stays ordered by arrival. One that is not the newest has been elsewhere: few are older.
func (l *pingList) add(p *ping) {
	if l.last == nil || l.last.arrived <= p.arrived {
		l.push(p)
		return
	}
	var before *ping
	for next := l.first; next != nil && next.arrived <= p.arrived; next = next.links[l.chain].next {
		before = next
	}
	l.insert(p, before)
}

// insert puts p behind before, which is nil for the first place.
func (l *pingList) insert(p, before *ping) {
	next := l.first
	if before == nil {
		l.first = p
	} else {
		next = before.links[l.chain].next
		before.links[l.chain].next = p
	}
	if next == nil {
		l.last = p
	} else {
		next.links[l.chain].prev = p
	}
	p.links[l.chain] = pingLink{next, before}
	l.n++
}

func (l *pingList) remove(p *ping) {
	link := p.links[l.chain]
	if link.prev == nil {
		l.first = link.next
	} else {
		link.prev.links[l.chain].next = link.next
	}
	if link.next == nil {
		l.last = link.prev
	} else {
		link.next.links[l.chain].prev = link.prev
	}
	p.links[l.chain] = pingLink{}
	l.n--
}

// pop removes the first ping, and returns nil if there is none.
func (l *pingList) pop() *ping {
	p := l.first
	if p != nil {
		l.remove(p)
	}
	return p
}

// share has a join p. If p waits in a queue where nothing of a's client does, it goes on as that client's next one, so that who pings
// for many leases does not hold up others who ping one of them. That is soon: when each client has had a turn. So it goes on but once,
// or those who join it in turn would have it wait for a turn again and again. Rejected: the shorter of two lines, because one may be
// held up, by leases that have expired. k.mu is held.
func (k *Keepalives) share(p *ping, a asker) {
	k.stats.Shared++
	k.deadlines.join(p, a)
	if p.moved || p.line == nil || p.out || !p.line.queue.isFree(a.owner.client) {
		return
	}
	q := p.line.queue
	p.moved = true
	k.leave(p)
	last := len(p.more) - 1
	p.asker, p.more[last] = a, p.asker
	k.requeue(q, p)
}

// requeue puts p, of which another sink is the owner now, into the queue that it has left. k.mu is held.
func (k *Keepalives) requeue(q *pingQueue, p *ping) {
	if q == &k.lookups.queue {
		k.lookUp(p)
	} else {
		k.queue(q.index, p)
	}
}

// answers are gathered while Keepalives.mu is held, and given when it is not.
type answers []pingAnswer

type pingAnswer struct {
	sink PingSink
	pong Pong
}

// give calls the sinks, and empties out.
func (out *answers) give() {
	for _, a := range *out {
		a.sink.Pong(a.pong)
	}
	clear(*out)
	*out = (*out)[:0]
}

// answer gives pong to all who share p. k.mu is held.
func (k *Keepalives) answer(out *answers, p *ping, pong Pong) {
	if p.answered {
		return
	}
	p.answered = true
	k.deadlines.remove(p)
	k.answerOne(out, p.asker, pong)
	for _, a := range p.more {
		k.answerOne(out, a, pong)
	}
	p.more = nil
}

func (k *Keepalives) answerOne(out *answers, a asker, pong Pong) {
	pong.Number = a.number
	*out = append(*out, pingAnswer{a.owner.sink, pong})
	k.waiting--
	k.cfg.Budget.pings.Add(-1)
	a.owner.open--
	a.owner.client.open--
	k.forget(a.owner)
}

// fail tells all who share p that there is no answer. k.mu is held.
func (k *Keepalives) fail(out *answers, p *ping, err error) {
	if !p.answered {
		k.stats.Failed += uint64(1 + len(p.more))
		k.answer(out, p, Pong{ID: p.id, Err: err})
	}
}

// failLate tells those of p's askers who are late that there is no answer. It leaves the others, of whom there are some. k.mu is
// held.
func (k *Keepalives) failLate(out *answers, p *ping, err error, now instant) {
	k.deadlines.remove(p)
	p.arrived = p.latest
	p.more = slices.DeleteFunc(append(p.more, p.asker), func(a asker) bool {
		if !isLate(a.arrived, now) {
			p.arrived = min(p.arrived, a.arrived)
			return false
		}
		k.stats.Failed++
		k.answerOne(out, a, Pong{ID: p.id, Err: err})
		return true
	})
	last := len(p.more) - 1
	p.asker, p.more = p.more[last], p.more[:last]
	k.deadlines.add(p)
}
