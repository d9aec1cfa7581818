package coalesce

import (
	"math"
	"sync/atomic"
	"time"
)

// KeepaliveBudget bounds the memory of all Keepalives that share it, to some 200 bytes for each ping and 40 for each lease, and
// beside them to freePings for each client, freePingsOfSink for each of some of its sinks, and freeLeases for each of the Keepalives,
// so that nobody is left with nothing where others take all. It may be used concurrently.
type KeepaliveBudget struct {
	maxPings, maxLeases int64
	pings, leases       atomic.Int64 // in use
}

const (
	freePings  = 16
	freeLeases = 64
	// freePingsOfSink are for who shares a client with one who has all that is left to the client. They are for so many sinks of a
	// client at a time as have together a 64th of all pings.
	freePingsOfSink = 2
	freeSinksPart   = 64 * freePingsOfSink
)

// NewKeepaliveBudget bounds the pings that wait for an answer, and the leases that are remembered. A lease that is not is one of
// which nothing is known.
func NewKeepaliveBudget(pings, leases int) *KeepaliveBudget {
	return &KeepaliveBudget{maxPings: int64(pings), maxLeases: int64(leases)}
}

// pingHolder is who would have one more ping, by what has no answer.
type pingHolder struct {
	ofClient int // pings of its client
	ofSink   int // of its own
	sinks    int // of its client, that have pings
}

// takePing takes room for one ping. No client has more than it leaves to others: if many take what they can, all have the same, and
// who comes finds some.
func (b *KeepaliveBudget) takePing(h pingHolder) bool {
	left := b.maxPings - b.pings.Add(1)
	switch {
	case int64(h.ofClient) <= left, h.ofClient < freePings, h.ofSink < freePingsOfSink && int64(h.sinks) < b.maxPings/freeSinksPart:
		return true
	}
	b.pings.Add(-1)
	return false
}

// takeLease takes room for one lease of Keepalives that have some.
func (b *KeepaliveBudget) takeLease(have int) bool {
	if b.leases.Add(1) <= b.maxLeases || have < freeLeases {
		return true
	}
	b.leases.Add(-1)
	return false
}

// leaseTable remembers until when leases live for certain, and those that may not be pinged. It is two tables: what is not
// renewed for as long as one is in use is forgotten with the other one.
type leaseTable struct {
	budget   *KeepaliveBudget
	new, old map[int64]instant
	turned   instant // when new was empty
}

const (
	// refused is instead of an instant for a lease that must not be pinged by whom this is for.
	refused instant = -1
	// leaseMemory is for how long at least a lease is remembered, if there is room.
	leaseMemory = 5 * time.Minute
)

// alive is until when a lease lives for certain; 0 if that is not known, or refused.
func (t *leaseTable) alive(id int64) instant {
	if until, ok := t.new[id]; ok {
		return until
	}
	return t.old[id]
}

// renewed notes that what was sent at an instant has given a lease ttl seconds.
func (t *leaseTable) renewed(id, ttl int64, sent, now instant) {
	// A tenth is for clocks that do not go alike.
	const longest = math.MaxInt64 / int64(time.Second) / 4
	t.set(id, sent+time.Duration(min(ttl, longest))*time.Second/10*9, now)
}

// set notes what is known of a lease, if there is room.
func (t *leaseTable) set(id int64, until, now instant) {
	if now-t.turned >= leaseMemory || int64(len(t.new)) >= t.budget.maxLeases/2 {
		t.forgetOld()
		t.old, t.new, t.turned = t.new, nil, now
	}
	if _, ok := t.new[id]; !ok {
		if _, ok := t.old[id]; ok {
			delete(t.old, id)
		} else if !t.take() {
			return
		}
	}
	if t.new == nil {
		t.new = map[int64]instant{}
	}
	t.new[id] = until
}

// take takes room for one more lease.
func (t *leaseTable) take() bool {
	for {
		if t.budget.takeLease(t.n()) {
			return true
		}
		if len(t.old) == 0 {
			return false
		}
		t.forgetOld()
	}
}

func (t *leaseTable) gone(id int64) {
	before := t.n()
	delete(t.new, id)
	delete(t.old, id)
	t.budget.leases.Add(int64(t.n() - before))
}

func (t *leaseTable) n() int { return len(t.new) + len(t.old) }

func (t *leaseTable) forgetOld() {
	t.budget.leases.Add(-int64(len(t.old)))
	t.old = nil
}

func (t *leaseTable) clear() {
	t.budget.leases.Add(-int64(t.n()))
	t.new, t.old = nil, nil
}
