package lease

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"
)

// MaxTTL is the longest TTL in seconds that may be asked for. It is etcd's bound, and as nanoseconds it fits an int64
// together with seven years of uptime.
const MaxTTL = 9_000_000_000

// retryInterval is how long the revocation of an expired lease may take before WaitExpired names the lease again. Proposals
// may be lost. It is etcd's interval.
const retryInterval = 3 * time.Second

// sweepLimit bounds how many queue entries are looked at before the lock is given to others.
const sweepLimit = 1000

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

	// wake tells WaitExpired that the front of the queue has become earlier.
	wake chan struct{}

	mu      sync.Mutex // guards everything below, and what the leases hold
	primary bool
	leases  map[int64]*lease
	keys    map[string]place
	queue   queue // every lease while primary, else empty
	// ended holds a channel for each expired lease that somebody tried to renew. It is closed by Revoke, and by Promote and
	// Demote, which decide anew about what has expired.
	ended map[int64]chan struct{}
}

// lease is one lease. It is kept small, since there may be a million.
type lease struct {
	id     int64
	ttl    int64   // seconds
	expiry instant // meaningful while primary
	index  int     // where it is in the queue
	keys   []string
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
		clock:  clock,
		start:  clock.Now(),
		minTTL: minTTL,
		wake:   make(chan struct{}, 1),
		leases: make(map[int64]*lease),
		keys:   make(map[string]place),
		ended:  make(map[int64]chan struct{}),
	}
}

// Grant adds a lease and returns its TTL in seconds: ttl, or the minimum when ttl is below it, negative ones included.
// The caller chooses the id, which must not be 0, the id that stands for "no lease". Errors: ErrNotFound for id 0, as etcd
// has it, ErrTTLTooLarge, ErrExists.
func (l *Lessor) Grant(id, ttl int64) (granted int64, err error) {
	if id == 0 {
		return 0, ErrNotFound
	}
	if ttl > MaxTTL {
		return 0, ErrTTLTooLarge
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leases[id] != nil {
		return 0, ErrExists
	}
	le := &lease{id: id, ttl: max(ttl, l.minTTL)}
	l.leases[id] = le
	if l.primary {
		le.expiry = l.now().add(le.ttl, 0)
		l.queue.push(le, le.expiry)
		if le.index == 0 {
			l.wakeUp()
		}
	}
	return le.ttl, nil
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
	if l.primary {
		l.queue.remove(le.index)
	}
	for _, key := range le.keys {
		delete(l.keys, key)
	}
	if c := l.ended[id]; c != nil {
		close(c)
		delete(l.ended, id)
	}
	return nil
}

// Renew gives a lease its whole TTL again and returns it in seconds. A lease that has expired is no longer
// renewed: Renew waits until it has been revoked, as at etcd. Do not call it from the goroutine that calls Revoke. Errors:
// ErrNotFound, ErrNotPrimary (also when Demote ends the wait), or that of ctx.
func (l *Lessor) Renew(ctx context.Context, id int64) (ttl int64, err error) {
	for {
		ttl, ended, err := l.tryRenew(id)
		if ended == nil {
			return ttl, err
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// tryRenew renews a lease, or returns a channel that is closed when it makes sense to try again.
func (l *Lessor) tryRenew(id int64) (ttl int64, ended <-chan struct{}, err error) {
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
	if le.expiry <= now {
		c := l.ended[id]
		if c == nil {
			c = make(chan struct{})
			l.ended[id] = c
		}
		return 0, c, nil
	}
	le.expiry = now.add(le.ttl, 0)
	return le.ttl, nil, nil
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

// Promote makes this member the primary: from now on leases expire, each when its TTL and extend have passed. The
// primary that went before may have answered pings until now, and nobody else knows when. Called on a primary, it
// does the same again. extend allows for the time until the clients have found the new primary.
func (l *Lessor) Promote(extend time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.primary = true
	now := l.now()
	l.queue.reset(len(l.leases))
	for _, le := range l.leases {
		le.expiry = now.add(le.ttl, extend)
		l.queue.push(le, le.expiry)
	}
	l.wakeUp()
	l.releaseWaiting()
}

// Demote ends what Promote began: no lease expires, and none can be renewed.
func (l *Lessor) Demote() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.primary = false
	l.queue.reset(0)
	for _, le := range l.leases {
		le.expiry = 0
	}
	l.releaseWaiting()
}

// WaitExpired waits until leases have expired and returns the ids of at most limit of them (limit > 0), those that expired
// first coming first. It sleeps exactly until the next expiry. The caller proposes their revocation; a lease still
// there three seconds later is returned again. Only one goroutine may call it at a time. The error is that of ctx.
func (l *Lessor) WaitExpired(ctx context.Context, limit int) ([]int64, error) {
	for {
		ids, next, again := l.sweep(limit)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case len(ids) > 0:
			return ids, nil
		case again:
			continue
		}
		var alarm <-chan time.Time // stays nil, which never fires, when there is nothing to wait for
		if next > 0 {
			alarm = l.clock.At(l.start.Add(time.Duration(next)))
		}
		select {
		case <-alarm:
		case <-l.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// sweep takes expired leases from the front of the queue and puts renewed ones where they belong, until the front is
// a lease that expires in the future. It returns the expired ones, and without any the next expiry (0 is none), or that it
// stopped early to let others have the lock.
func (l *Lessor) sweep(limit int) (ids []int64, next instant, again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.wake: // of something that this sweep sees
	default:
	}
	now := l.now()
	for range sweepLimit {
		if len(l.queue) == 0 || len(ids) == limit {
			return ids, 0, false
		}
		le, due := l.queue[0].lease, l.queue[0].due
		switch {
		case due < le.expiry: // it was renewed
			l.queue.postpone(le.expiry)
		case due > now:
			return ids, due, false
		default:
			ids = append(ids, le.id)
			l.queue.postpone(now + instant(retryInterval))
		}
	}
	return ids, 0, true
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

func (l *Lessor) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default: // it is told already
	}
}

// releaseWaiting lets every waiting Renew try again. l.mu is held.
func (l *Lessor) releaseWaiting() {
	for _, c := range l.ended {
		close(c)
	}
	clear(l.ended)
}
