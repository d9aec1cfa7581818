package tenants

import (
	"context"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
)

// ledger is to whom each lease belongs: to everybody in whose namespace all its keys are; without keys, to whom it was granted
// here, else to the first who uses it here.
//
// Upstream has no such thing. Whoever knows the number of a lease may put a key under it, revoke it with all the keys it has,
// or keep it alive; so for those who must not reach each other's keys a lease is looked up before it is used. What was found
// holds for claimAge, because a lease is pinged far more often than it changes hands: only when it has ended, and somebody
// grants another one with the same number by another proxy. Before a lease is revoked it is always looked up.
//
// Lookups are bounded, of all and of each namespace, because a lease may have any number of keys, and so is in bytes what waits for one.
// So that who pings a lease that is gone again and again does not have it looked up each time, that is remembered too, for goneAge. It
// counts for pings only: by one that comes a moment too early a lease is kept alive once that somebody else has just been granted,
// while a key that is put on it would be there to stay, and make it nobody's.
//
// All methods may be called concurrently. Lookups of one lease that meet are not shared: it is pinged by one client.
type ledger struct {
	up    Upstream
	max   int
	slots *coalesce.Slots

	mu      sync.Mutex // guards what follows
	longest int        // of all namespaces that are asked for
	claims  map[int64]claim
	gone    map[int64]time.Time // when leases were found to be gone, or before
}

// claim says that a lease belongs to whom a prefix of keys belongs to.
type claim struct {
	prefix string
	at     time.Time // when that was found, or before
}

// leaseUse is what is done with a lease.
type leaseUse uint8

const (
	used leaseUse = iota
	pinged
	revoked // and all its keys with it
)

const (
	claimAge       = time.Minute
	maxClaims      = 1 << 18 // some 20 MB
	goneAge        = time.Second
	maxGone        = 1 << 16 // some 3 MB
	lookupPatience = 5 * time.Second
	// maxLookups bounds those that are upstream at a time, and maxLookupsOfOne those of one namespace.
	maxLookups, maxLookupsOfOne = 64, 16
	// maxLookupBytes bounds the memory of the requests that wait for one, and of what they ask for.
	maxLookupBytes = 64 << 20
)

func newLedger(up Upstream, limit, longest int) *ledger {
	return &ledger{
		up: up, max: limit, longest: longest, slots: coalesce.NewSlots(maxLookups, maxLookupsOfOne, maxLookupBytes),
		claims: map[int64]claim{}, gone: map[int64]time.Time{},
	}
}

// check returns nil if who has the namespace may do this with a lease, else the client's error. While it waits so many bytes are kept.
func (l *ledger) check(ctx context.Context, namespace string, id int64, size int, use leaseUse) error {
	now := time.Now()
	if c, ok := l.claimed(id); ok && now.Sub(c.at) < claimAge {
		if !c.within(namespace) {
			return rpctypes.ErrGRPCPermissionDenied
		}
		if use != revoked {
			return nil
		}
	}
	if use == pinged && l.isGone(id, now) {
		return nil
	}
	lease, err := l.lookUp(ctx, namespace, id, size)
	if err != nil {
		return err
	}
	if lease.TTL < 0 && lease.GrantedTTL == 0 { // it is gone: upstream will say so
		l.forget(id, now)
		return nil
	}
	if l.settle(id, lease.Keys, claim{namespace, now}).within(namespace) {
		return nil
	}
	return rpctypes.ErrGRPCPermissionDenied
}

// allows tells whether it is known, and not for too long, that who has the namespace may use a lease. It does not look it up.
func (l *ledger) allows(namespace string, id int64) bool {
	c, ok := l.claimed(id)
	return ok && time.Since(c.at) < claimAge && c.within(namespace)
}

// within tells whether what belongs to c's prefix is in a namespace.
func (c claim) within(namespace string) bool { return strings.HasPrefix(c.prefix, namespace) }

// lookUp asks upstream for a lease, when the namespace of who asks has its turn.
func (l *ledger) lookUp(ctx context.Context, namespace string, id int64, size int) (*pb.LeaseTimeToLiveResponse, error) {
	req, err := proto.Marshal(&pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
	if err != nil {
		return nil, err // it never is
	}
	ctx, cancel := context.WithTimeout(ctx, lookupPatience)
	defer cancel()
	resp, asked := &pb.LeaseTimeToLiveResponse{}, false
	err = l.slots.Do(ctx, namespace, size, func() error {
		asked = true
		raw, err := l.up.Call(ctx, pb.Lease_LeaseTimeToLive_FullMethodName, req)
		if err != nil {
			return err
		}
		return proto.Unmarshal(raw, resp)
	})
	switch {
	case err != nil && !asked:
		return nil, status.Errorf(codes.Unavailable, "weir: find out whose lease %016x is: too much is being looked up: %v", uint64(id), err)
	case err != nil:
		return nil, status.Errorf(codes.Unavailable, "weir: find out whose lease %016x is: %v", uint64(id), err)
	}
	return resp, nil
}

// ask says that namespaces of so many bytes are asked for from now on. Then what was known of leases by their keys may have been cut off too
// early, and is looked up again when it is used.
func (l *ledger) ask(longest int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if longest <= l.longest {
		return
	}
	l.longest = longest
	for id, c := range l.claims {
		l.claims[id] = claim{prefix: c.prefix}
	}
}

// granted says that a lease has been granted just now.
func (l *ledger) granted(namespace string, id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(id, claim{namespace, time.Now()})
}

func (l *ledger) claimed(id int64) (c claim, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok = l.claims[id]
	return c, ok
}

// settle says whose a lease is that has these keys, and remembers it. Without keys it is whose it was before, or the asker's.
func (l *ledger) settle(id int64, keys [][]byte, asker claim) claim {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := asker
	if len(keys) > 0 {
		c.prefix = commonPrefix(keys, l.longest)
	} else if before, ok := l.claims[id]; ok {
		c.prefix = before.prefix
	}
	l.set(id, c)
	return c
}

// commonPrefix is what all keys begin with, or the first bytes of that.
func commonPrefix(keys [][]byte, most int) string {
	p := keys[0][:min(len(keys[0]), most)]
	for _, k := range keys[1:] {
		n := 0
		for n < min(len(p), len(k)) && p[n] == k[n] {
			n++
		}
		p = p[:n]
	}
	return string(p)
}

// set is called with mu held. Where there is no room any other claim goes: its lease is looked up when it is used again.
func (l *ledger) set(id int64, c claim) {
	if _, ok := l.claims[id]; !ok && len(l.claims) >= l.max {
		for other := range l.claims {
			delete(l.claims, other)
			break
		}
	}
	l.claims[id] = c
	delete(l.gone, id)
}

// forget says that a lease was found to be gone by who asked then. It may have been granted here since.
func (l *ledger) forget(id int64, asked time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.claims[id].at.After(asked) {
		return
	}
	delete(l.claims, id)
	if len(l.gone) >= maxGone {
		clear(l.gone)
	}
	l.gone[id] = asked
}

// isGone tells whether a lease was found to be gone a moment ago, and has not been granted here since.
func (l *ledger) isGone(id int64, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.gone[id]
	return ok && now.Sub(at) < goneAge
}
