package tenants

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// reservation is the puts of one write in flight.
type reservation struct {
	puts  map[keyHash]uint32
	ended time.Time
	// What the tracker has to pass; 0 if it is not known whether the write was done.
	revision int64
}

// outcome is how a write has ended. The zero value is that nobody knows.
type outcome struct {
	refused  bool  // it has not been done, and will not be
	revision int64 // it has been done not later than this
}

// isFinal tells whether what failed with err has not been done, and will not be. What else is said may be of a write that has been
// done: etcd answers ErrNoSpace after a write too, which was the one that took it above its quota; gRPC has ResourceExhausted for
// an answer that is too large, and Unimplemented for one that it cannot decompress.
func isFinal(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
		codes.FailedPrecondition, codes.OutOfRange:
		return true
	case codes.ResourceExhausted: // etcd says this, and so does a proxy, before a write is proposed
		return rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooManyRequests)
	}
	return false
}

// What is answered to who would write where there is a quota, while nobody knows what there is.
var (
	errUnknownUsage = status.Error(codes.Unavailable, "weir: the quota of the namespace cannot be checked yet")
	errBarredUsage  = status.Error(codes.Unavailable, "weir: the quota of the namespace cannot be checked: the cluster does not let the proxy read it, which needs --user")
)

// reserve makes room for the branches of a write, of which one will be done. It is nil if none puts anything. The error is the
// client's.
func (u *usage) reserve(branches [][]put) (*reservation, error) {
	r := &reservation{}
	var wants []map[keyHash]uint32
	for _, b := range branches {
		w := u.hash(b)
		wants = append(wants, w)
		if r.puts == nil {
			r.puts = maps.Clone(w)
		}
		for k, size := range w {
			r.puts[k] = max(r.puts[k], size)
		}
	}
	if len(r.puts) == 0 {
		return nil, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, w := range wants {
		if err := u.admit(w); err != nil {
			return nil, err
		}
	}
	if u.puts+len(r.puts) > maxPuts {
		return nil, rpctypes.ErrGRPCRequestTooManyRequests
	}
	for k, size := range r.puts {
		u.change(k, func() { u.pending[k] = append(u.pending[k], size) })
	}
	u.puts += len(r.puts)
	return r, nil
}

// hash returns the largest size that a branch gives to each key. Without a key upstream refuses it.
func (u *usage) hash(branch []put) map[keyHash]uint32 {
	wants := make(map[keyHash]uint32, len(branch))
	for _, p := range branch {
		var k keyHash
		switch {
		case p.unnamed:
			binary.BigEndian.PutUint64(k[:], u.unnamed.Add(1))
		case len(p.key) > 0:
			k = hashOf(p.key)
		default:
			continue
		}
		wants[k] = max(wants[k], uint32(p.size))
	}
	return wants
}

// admit tells whether all of wants can be there. mu is held.
//
// What is as large already needs no room. That it has been reserved for somebody else is not enough: of his branches another
// one may be done.
func (u *usage) admit(wants map[keyHash]uint32) error {
	switch {
	case len(wants) == 0:
		return nil
	case u.state == unknown:
		return errUnknownUsage
	case u.state == barred:
		return errBarredUsage
	case u.state == tooLarge:
		return rpctypes.ErrGRPCNoSpace
	}
	sum := u.most
	newKeys, moreBytes := false, false
	for k, size := range wants {
		is := u.held.sizes[k]
		newKeys = newKeys || is == 0
		moreBytes = moreBytes || size > is
		if most := u.largest(k); size > most {
			sum.add(-1, most)
			sum.add(1, size)
		}
	}
	if newKeys && sum.keys > u.maxKeys || moreBytes && sum.bytes > u.maxBytes {
		return rpctypes.ErrGRPCNoSpace
	}
	return nil
}

// largest is the most that a key may have. mu is held.
func (u *usage) largest(k keyHash) uint32 {
	size := u.held.sizes[k]
	for _, p := range u.pending[k] {
		size = max(size, p)
	}
	return size
}

// change does something that concerns one key. mu is held.
func (u *usage) change(k keyHash, do func()) {
	u.most.add(-1, u.largest(k))
	do()
	u.most.add(1, u.largest(k))
}

// settle ends a reservation, at once or as soon as what was reserved is counted otherwise.
func (u *usage) settle(r *reservation, o outcome) {
	u.mu.Lock()
	defer u.mu.Unlock()
	r.ended, r.revision = time.Now(), o.revision
	if o.refused || u.passed(r) {
		u.release(r)
		return
	}
	u.owe(r)
	select {
	case u.wake <- struct{}{}:
	default: // it will look
	}
}

// release is called with mu held.
func (u *usage) release(r *reservation) {
	for k, size := range r.puts {
		u.change(k, func() {
			all := u.pending[k]
			if len(all) == 1 {
				delete(u.pending, k)
				return
			}
			i := slices.Index(all, size)
			u.pending[k] = slices.Delete(all, i, i+1)
		})
	}
	u.puts -= len(r.puts)
}

// dues is what ends the reservations of writes that have ended.
type dues struct {
	any      bool
	passing  int64 // a revision that it is time to have passed: the tracker may not be told without asking; 0 if there is none
	doubtful bool  // there are writes that are done by now, or will not be: they need the revision that upstream has reached
}

// due says what is needed at a moment.
func (u *usage) due(now time.Time) (d dues) {
	u.mu.Lock()
	defer u.mu.Unlock()
	d.any = len(u.owed) > 0
	for _, r := range u.owed {
		if now.Sub(r.ended) >= progressAfter {
			d.passing = max(d.passing, r.revision)
		}
		d.doubtful = d.doubtful || r.isOld(now)
	}
	return d
}

// date gives the writes that were doubtful, and old at a moment, a revision that upstream had reached after that.
func (u *usage) date(now time.Time, rev int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, r := range u.owed {
		if r.isOld(now) {
			r.revision = rev
		}
	}
	u.forgive(u.passed)
}

// isOld tells whether a write that nobody knows the end of has had the time to be done.
func (r *reservation) isOld(now time.Time) bool { return r.revision == 0 && now.Sub(r.ended) >= doubt }

// passed tells whether what a write has done is counted. mu is held.
func (u *usage) passed(r *reservation) bool {
	return r.revision > 0 && r.revision <= u.reached && u.state == current
}

// owe keeps the reservation of a write that has ended. mu is held.
func (u *usage) owe(r *reservation) {
	u.owed = append(u.owed, r)
	if r.revision > 0 {
		u.next = min(u.next, r.revision)
	}
}

// forgive ends those reservations that are done. mu is held.
func (u *usage) forgive(done func(*reservation) bool) {
	all := u.owed
	u.owed, u.next = u.owed[:0], math.MaxInt64
	for _, r := range all {
		if done(r) {
			u.release(r)
		} else {
			u.owe(r)
		}
	}
	clear(all[len(u.owed):])
}
