package tenants

import (
	"crypto/sha256"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// usage is what a namespace with a quota holds, and what it may come to hold by the writes in flight.
//
// The idea: for each key there is the size that it has as of some revision, which a tracker keeps current, and the sizes that
// writes in flight would give it. Whatever order those arrive in, and whichever of them fail, the key is in the end at most as
// large as the largest of all these. So what counts is the sum of the largest ones, and a write is let through if that sum
// stays within the quota. A write is in flight until the tracker has passed its revision. What makes no key larger than it is
// is always let through: so a namespace above its quota can shrink. Of a write that does one thing or another, each of them
// must fit beside all that may be done by those before it.
//
// Rejected: to add up by how much each write in flight makes its key grow. That depends on what the key is when the write
// arrives: a put over a key that is deleted meanwhile adds all of its size, not the difference.
//
// Deletions count when the tracker has seen them, and so do the writes of others: of other proxies, of who has no namespace, and
// those that this proxy had in flight when it was started anew. By what these have in flight the quota can be overdrawn.
//
// Of each key there are 16 bytes of a hash, so that the memory depends on the number of keys alone, and has no pointers for
// the garbage collector to follow. All methods may be called concurrently.
type usage struct {
	wake    chan struct{} // has the tracker look at owed
	unnamed atomic.Uint64 // keys that have been reserved without a name

	mu                sync.Mutex // guards what follows
	maxKeys, maxBytes int64
	state             knowledge
	why               error                // it is not current; nil if that is a matter of time
	held              census               // as of reached, while state is current
	pending           map[keyHash][]uint32 // sizes that writes in flight may give
	most              amount               // of the largest of each key
	reached           int64                // the revision that the tracker has passed
	owed              []*reservation       // of writes that have ended, which the tracker may not have passed
	next              int64                // the lowest revision in owed; math.MaxInt64 if there is none
	puts              int                  // in pending
}

// amount is keys, and bytes of keys and values.
type amount struct{ keys, bytes int64 }

// add counts a key of some size, or takes it out.
func (a *amount) add(n int64, size uint32) {
	if size > 0 { // no key is empty
		a.keys += n
		a.bytes += n * int64(size)
	}
}

// census is the size of each key that is there.
type census struct {
	sizes map[keyHash]uint32
	sum   amount
}

// set gives a key another size; 0 if it is not there any more.
func (c *census) set(k keyHash, size uint32) {
	c.sum.add(-1, c.sizes[k])
	c.sum.add(1, size)
	if size == 0 {
		delete(c.sizes, k)
	} else {
		c.sizes[k] = size
	}
}

type knowledge uint8

const (
	unknown  knowledge = iota // nothing has been counted, or no longer
	barred                    // upstream does not let the proxy read the keys
	tooLarge                  // there are more keys than are counted
	current
)

// keyHash stands for a key.
type keyHash [16]byte

const (
	// maxKeysTracked bounds the keys that a quota allows. A key takes some 40 bytes.
	maxKeysTracked = 10_000_000
	// unlimitedBytes is no bound. A float64, as which the file's numbers are read, counts exactly up to there.
	unlimitedBytes = 1 << 53
	// maxPuts bounds the puts in flight.
	maxPuts = 1 << 17
	// doubt is how long a write whose client was not told how it ended may still be done. A proposal that upstream has lost is
	// given up after 5 s and two election timeouts.
	doubt = 10 * time.Second
)

func newUsage(maxKeys, maxBytes int64) *usage {
	return &usage{
		maxKeys: maxKeys, maxBytes: maxBytes, wake: make(chan struct{}, 1),
		pending: map[keyHash][]uint32{}, next: math.MaxInt64,
	}
}

// room is how many keys are counted: what a quota that has been lowered may leave, but not anything. It is called with mu held.
func (u *usage) room() int { return int(2*u.maxKeys) + 1024 }

// fits tells whether so many keys are counted.
func (u *usage) fits(keys int64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return keys <= int64(u.room())
}

// allow replaces the quota. What is counted stays.
func (u *usage) allow(maxKeys, maxBytes int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.maxKeys, u.maxBytes = maxKeys, maxBytes
}

func hashOf(key []byte) keyHash {
	sum := sha256.Sum256(key)
	return keyHash(sum[:16])
}

// sizeChange is one key that has another size since a revision; 0 if it is not there any more.
type sizeChange struct {
	key  keyHash
	size uint32
	rev  int64
}

// apply counts what has changed up to rev, in order. It returns false if there are more keys now than are counted.
func (u *usage) apply(changes []sizeChange, rev int64) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.state != current {
		return true
	}
	for _, c := range changes {
		u.change(c.key, func() { u.held.set(c.key, c.size) })
	}
	u.pass(rev)
	if len(u.held.sizes) <= u.room() {
		return true
	}
	u.forget(tooLarge, errTooManyKeys)
	return false
}

// reach says that nothing has changed up to rev but what has been applied.
func (u *usage) reach(rev int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.state == current {
		u.pass(rev)
	}
}

// pass is called with mu held.
func (u *usage) pass(rev int64) {
	if rev > u.reached {
		u.reached = rev
		if u.next <= rev {
			u.forgive(u.passed)
		}
	}
}

// know begins to count: held is everything as of a revision that upstream had reached at a moment since began.
func (u *usage) know(held census, rev int64, began time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.state, u.why, u.held, u.reached = current, nil, held, rev
	u.most = held.sum
	for k := range u.pending {
		u.most.add(-1, held.sizes[k])
		u.most.add(1, u.largest(k))
	}
	// Upstream had passed by then what had ended before; who states a later revision has written to another cluster.
	u.forgive(func(r *reservation) bool { return u.passed(r) || r.revision > 0 && r.ended.Before(began) })
}

// lose ends counting.
func (u *usage) lose(state knowledge, why error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.forget(state, why)
}

// forget is called with mu held.
func (u *usage) forget(state knowledge, why error) {
	u.state, u.why, u.held, u.most = state, why, census{}, amount{}
	for k := range u.pending {
		u.most.add(1, u.largest(k))
	}
}

// UsageStat is what a namespace with a quota holds.
type UsageStat struct {
	Tenant   string `json:"tenant"`          // "" is who is no tenant
	Known    bool   `json:"known"`           // else nothing that could grow it is let through
	Error    string `json:"error,omitempty"` // why it is not known; "" while it is being counted for the first time
	TooLarge bool   `json:"too_large"`       // for more than a count of its keys: far above the quota
	Keys     int64  `json:"keys"`
	Bytes    int64  `json:"bytes"` // of keys without the namespace, and values
	MaxKeys  int64  `json:"max_keys"`
	MaxBytes int64  `json:"max_bytes,omitempty"` // 0 is no bound
}

func (u *usage) stat(tenant string) UsageStat {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := UsageStat{
		Tenant: tenant, Known: u.state == current, TooLarge: u.state == tooLarge,
		Keys: u.held.sum.keys, Bytes: u.held.sum.bytes, MaxKeys: u.maxKeys,
	}
	if u.maxBytes < unlimitedBytes {
		s.MaxBytes = u.maxBytes
	}
	if u.why != nil {
		s.Error = u.why.Error()
	}
	return s
}
