package lease

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"sync"
	"time"
)

// MaxTTL is the longest TTL in seconds that may be asked for. It is etcd's bound, and as nanoseconds it fits an int64
// together with seven years of uptime.
const MaxTTL = 9_000_000_000

var (
	// ErrNotFound says that there is no lease with this id.
	ErrNotFound = errors.New("lease not found")
	// ErrExists says that the id to grant is taken.
	ErrExists = errors.New("lease already exists")
	// ErrTTLTooLarge says that the TTL is above MaxTTL.
	ErrTTLTooLarge = errors.New("lease TTL is too large")
	// ErrNotPrimary says that this member does not lead, so it cannot tell what time is left.
	ErrNotPrimary = errors.New("this member is not the primary lessor")
)

// Lessor is the set of leases. All methods may be called concurrently.
//
// Pings are the hot path: a client pings each lease three times per TTL, and nearly no lease ever expires. So Renew
// only overwrites the expiry in the lease and leaves the queue of expiries as it is. The lease stands there too
// early then, and is moved when it comes to the front, once however often it was pinged. Moving it on every ping costs
// a walk through the queue each, and a ring of time slots either rounds expiries or must be as long as the longest TTL.
type Lessor struct {
	clock  Clock
	start  time.Time // origin of every instant below
	minTTL int64     // seconds

	// wake tells those who wait for a queue that its front has become earlier.
	wake [queues]chan struct{}

	mu      sync.Mutex // guards everything below, and what the leases hold
	primary bool
	leases  map[int64]*lease
	keys    map[string]place
	// queues are empty unless primary. In expiries is every lease, in checkpoints every one that may need one some day.
	queues [queues]queue
	// waiting holds a channel for each lease that somebody tried to renew in vain: it has expired, or its checkpoint must be
	// taken back first. It is closed when it makes sense to try again.
	waiting map[int64]chan struct{}
	flights map[int64]flight // by lease; empty unless primary
}

// lease is one lease. It is kept small, since there may be a million.
type lease struct {
	id  int64
	ttl int64 // seconds
	// remaining is what was left, in seconds, at the last checkpoint; 0 if there is none that has not been taken back.
	remaining int64
	granted   int64         // which of the leases that have had the id it is; see Record
	expiry    instant       // meaningful while primary
	index     [queues]int32 // where it is in each queue, or absent
	keys      []string
}

// place says where a key hangs: it is lease.keys[index].
type place struct {
	lease *lease
	index int
}

// instant is a time of the lessor's clock, in nanoseconds since its start.
type instant int64

// New returns a Lessor without leases that is not primary. TTLs below minTTL (seconds) are raised to it.
func New(clock Clock, minTTL int64) *Lessor {
	return &Lessor{
		clock:   clock,
		start:   clock.Now(),
		minTTL:  minTTL,
		wake:    [queues]chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1)},
		leases:  make(map[int64]*lease),
		keys:    make(map[string]place),
		queues:  [queues]queue{{which: expiries}, {which: checkpoints}},
		waiting: make(map[int64]chan struct{}),
		flights: make(map[int64]flight),
	}
}

// newLease makes a lease of a record.
func newLease(r Record) *lease {
	le := &lease{id: r.ID, ttl: r.TTL, granted: r.Granted, index: [queues]int32{absent, absent}}
	le.setRemaining(r.RemainingTTL)
	return le
}

// Grant adds a lease. Its TTL in seconds is ttl, or the minimum when ttl is below it, negative ones included.
// The caller chooses the id, which must not be 0, the id that stands for "no lease", and says at which index of the log it grants
// the lease. It stores the record that is returned. Errors: ErrNotFound for id 0, as etcd has it, ErrTTLTooLarge, ErrExists.
func (l *Lessor) Grant(id, ttl, index int64) (Record, error) {
	if id == 0 {
		return Record{}, ErrNotFound
	}
	if ttl > MaxTTL {
		return Record{}, ErrTTLTooLarge
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leases[id] != nil {
		return Record{}, ErrExists
	}
	r := Record{ID: id, TTL: max(ttl, l.minTTL), Granted: index}
	le := newLease(r)
	l.leases[id] = le
	if l.primary {
		l.enqueue(le, l.now().add(le.ttl, 0))
		for which, index := range le.index {
			if index == 0 {
				l.wakeUp(which)
			}
		}
	}
	return r, nil
}

// Revoke ends a lease and takes its keys off it. The caller has deleted them (see Keys), so that whoever is told that the
// lease has ended finds them gone. Error: ErrNotFound.
func (l *Lessor) Revoke(id int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	le := l.leases[id]
	if le == nil {
		return ErrNotFound
	}
	delete(l.leases, id)
	delete(l.flights, id)
	for which := range l.queues {
		l.queues[which].remove(le)
	}
	for _, key := range le.keys {
		delete(l.keys, key)
	}
	l.release(id)
	return nil
}

// Exists tells whether there is a lease with this id, expired or not.
func (l *Lessor) Exists(id int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leases[id] != nil
}

// Status is what TimeToLive tells of a lease.
type Status struct {
	TTL       int64    // as granted, seconds
	Remaining int64    // whole seconds left, rounded down; 0 when expired and not yet revoked
	Keys      [][]byte // in ascending order; only when asked for
}

// TimeToLive returns the state of a lease. Errors: ErrNotFound, ErrNotPrimary.
func (l *Lessor) TimeToLive(id int64, withKeys bool) (Status, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.primary {
		return Status{}, ErrNotPrimary
	}
	le := l.leases[id]
	if le == nil {
		return Status{}, ErrNotFound
	}
	left := time.Duration(le.expiry - l.now())
	s := Status{TTL: le.ttl, Remaining: max(0, int64(left/time.Second))}
	if withKeys {
		s.Keys = le.sortedKeys()
	}
	return s, nil
}

// Leases returns the ids of all leases, those that expire first coming first, and by id among equals.
func (l *Lessor) Leases() []int64 {
	type item struct {
		id     int64
		expiry instant
	}
	l.mu.Lock()
	items := make([]item, 0, len(l.leases))
	for id, le := range l.leases {
		items = append(items, item{id, le.expiry})
	}
	l.mu.Unlock()
	// Sorting a million takes long, so not under the lock.
	slices.SortFunc(items, func(a, b item) int {
		return cmp.Or(cmp.Compare(a.expiry, b.expiry), cmp.Compare(a.id, b.id))
	})
	ids := make([]int64, len(items))
	for i, it := range items {
		ids[i] = it.id
	}
	return ids
}

// Promote makes this member the primary: from now on leases expire, each when its TTL and extend have passed, or if it has a
// checkpoint, what was left then and extend. The primary that went before may have answered pings until now, and nobody else
// knows when. Called on a primary, it does the same again. extend allows for the time until the clients have found the
// new primary.
func (l *Lessor) Promote(extend time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.primary = true
	l.begin(extend)
}

// begin gives every lease the time that Promote says. l.mu is held, and the lessor is primary.
func (l *Lessor) begin(extend time.Duration) {
	now := l.now()
	l.queues[expiries].reset(len(l.leases))
	l.queues[checkpoints].reset(0)
	clear(l.flights)
	for _, le := range l.leases {
		le.index = [queues]int32{absent, absent}
		l.enqueue(le, now.add(le.claim(), extend))
	}
	for which := range l.queues {
		l.wakeUp(which)
	}
	l.releaseWaiting()
}

// enqueue gives a lease that is in no queue its expiry. l.mu is held.
func (l *Lessor) enqueue(le *lease, expiry instant) {
	le.expiry = expiry
	l.queues[expiries].push(le, expiry)
	if due, ok := le.checkpointDue(); ok {
		l.queues[checkpoints].push(le, due)
	}
}

// Demote ends what Promote began: no lease expires, and none can be renewed.
func (l *Lessor) Demote() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.primary = false
	for which := range l.queues {
		l.queues[which].reset(0)
	}
	clear(l.flights)
	for _, le := range l.leases {
		le.expiry, le.index = 0, [queues]int32{absent, absent}
	}
	l.releaseWaiting()
}

// now is the time of the clock. l.mu need not be held.
func (l *Lessor) now() instant { return instant(l.clock.Now().Sub(l.start)) }

// add returns the instant ttl seconds and extend later. It ends at the last instant rather than overflow.
func (t instant) add(ttl int64, extend time.Duration) instant {
	sum := t + instant(ttl)*instant(time.Second)
	if sum < t || sum > math.MaxInt64-instant(extend) {
		return math.MaxInt64
	}
	return sum + instant(extend)
}

// wakeUp tells who waits for a queue that its front has become earlier.
func (l *Lessor) wakeUp(which int) {
	select {
	case l.wake[which] <- struct{}{}:
	default: // it is told already
	}
}

// release lets every Renew that waits for a lease try again. l.mu is held.
func (l *Lessor) release(id int64) {
	if c := l.waiting[id]; c != nil {
		close(c)
		delete(l.waiting, id)
	}
}

// releaseWaiting lets every waiting Renew try again. l.mu is held.
func (l *Lessor) releaseWaiting() {
	for _, c := range l.waiting {
		close(c)
	}
	clear(l.waiting)
}
