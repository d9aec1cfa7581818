package reads

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/cache"
)

// reachPatience is how long a read waits for a snapshot to reach a revision that upstream had; then it is forwarded.
const reachPatience = 100 * time.Millisecond

// read is one read on its way through memory: begin, find the snapshots it needs, settle how far they must be, build the
// answer, finish.
//
// Every doubt on the way ends in ErrForward, because upstream's own answer is always right. What is of another era than
// the one in which the read began is a doubt, also when it turns up only after the answer was built: era by era
// revisions start anew, so that numbers of two eras compare as if they meant something.
type read struct {
	k            *Keeper
	session      *cache.Session
	serializable bool
	standing     Standing      // of upstream when the read began
	stale        time.Duration // how old the answer may be if upstream is away, else 0
}

// begin starts a read that may be answered in an era. It fails with ErrForward when nothing may be answered from memory.
func (k *Keeper) begin(s *cache.Session, serializable bool, era uint64) (read, error) {
	standing := k.up.Standing()
	if !standing.Shared || standing.Era != era {
		return read{}, ErrForward
	}
	return read{k: k, session: s, serializable: serializable, standing: standing}, nil
}

// find returns a snapshot that contains [key, end), or nil.
func (a *read) find(key, end []byte) *hot {
	if h := a.k.find(key, end); h != nil && h.era == a.standing.Era {
		return h
	}
	return nil
}

// settle makes sure that what hots are at may be answered, and returns the highest revision that they all know. They
// may have gone further when it returns.
//
// A linearizable read is answered from what upstream had reached after the read came. A serializable one is answered
// from what is in memory if that is not behind what the connection was told, and is either known to be fresh or the
// best there is while upstream is away.
func (a *read) settle(ctx context.Context, hots ...*hot) (int64, error) {
	if !a.serializable {
		rev, err := a.check(ctx)
		if err != nil {
			return 0, forwardUnlessDone(ctx)
		}
		err = a.reach(ctx, rev, hots)
		return lowest(hots), err
	}
	if floor := a.session.Floor(a.standing.Era); lowest(hots) < floor {
		if !a.standing.Connected {
			return 0, ErrForward // there is nobody to bring them there
		}
		if err := a.reach(ctx, floor, hots); err != nil {
			return 0, err
		}
	}
	at := lowest(hots)
	if age, known := a.age(at, hots); known && a.standing.Confirmed && age <= time.Duration(a.k.staleness.Load()) {
		return at, nil
	}
	rev, err := a.check(ctx)
	if err != nil {
		return at, a.settleAway(ctx, at, hots, err)
	}
	err = a.reach(ctx, rev, hots)
	return lowest(hots), err
}

// settleAway settles a serializable read at revision at although upstream cannot be asked, if cause says that it is away:
// a refusal says that it is there and has something against the read.
func (a *read) settleAway(ctx context.Context, at int64, hots []*hot, cause error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	switch status.Code(cause) {
	case codes.Unavailable, codes.DeadlineExceeded:
	default:
		return ErrForward
	}
	age, known := a.age(at, hots)
	if !known {
		return ErrForward
	}
	a.stale = max(age, 1)
	if a.k.away.CompareAndSwap(false, true) {
		a.k.log.Warn("upstream cannot be asked; serializable reads are answered from memory all the same, and say so", "age", age, "reason", cause)
	}
	return nil
}

// age tells for how long a state of revision rev, which all of hots have, may have been lacking something, if that is
// known. Upstream remembers only what was proven of late; a range, since when it has been where it is.
func (a *read) age(rev int64, hots []*hot) (age time.Duration, known bool) {
	if proven := a.k.up.ProvenAt(rev); !proven.IsZero() {
		return elapsed(proven), true
	}
	for _, h := range hots {
		at := h.proven.Load()
		if at == nil {
			return 0, false
		}
		age = max(age, elapsed(*at))
	}
	return age, true
}

// elapsed is how long ago a moment was by the clock that says more: the monotonic one stands still while a machine is
// suspended, and the wall's can be set.
func elapsed(since time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}

// check returns a revision that upstream had reached after the call began. Upstream is not waited for longer than it
// says there, so that no timer is needed for each read.
func (a *read) check(ctx context.Context) (int64, error) {
	start := time.Now()
	rev, err := a.k.up.Check(ctx)
	if err == nil {
		a.k.pace.observe(time.Since(start))
		if a.k.away.Load() && a.k.away.CompareAndSwap(true, false) {
			a.k.log.Info("upstream can be asked again")
		}
	}
	return rev, err
}

// reach waits until all of hots are at rev or later, which upstream has reached: they are only to be told.
func (a *read) reach(ctx context.Context, rev int64, hots []*hot) error {
	if lowest(hots) >= rev {
		return nil
	}
	a.k.stats.waits.Add(1)
	waiting, cancel := context.WithTimeout(ctx, max(reachPatience, 3*a.k.pace.typical()))
	defer cancel()
	for _, h := range hots {
		if h.snap.Revision() >= rev {
			continue
		}
		if err := h.await(waiting, rev); err != nil {
			return forwardUnlessDone(ctx)
		}
	}
	return nil
}

// finish ends a read whose answer, of revision rev, is built: the connection is told so. It fails with ErrForward when
// upstream has become another one meanwhile.
func (a *read) finish(rev int64) error {
	if now := a.k.up.Standing(); !now.Shared || now.Era != a.standing.Era {
		return ErrForward
	}
	a.session.Told(a.standing.Era, rev)
	return nil
}

// answered counts a read whose answer is given.
func (a *read) answered() {
	stats := &a.k.stats
	if !a.serializable {
		stats.linearizable.Add(1)
		return
	}
	stats.serializable.Add(1)
	if a.stale > 0 {
		stats.stale.Add(1)
	}
}

// lowest returns the highest revision that all of hots know.
func lowest(hots []*hot) int64 {
	rev := hots[0].snap.Revision()
	for _, h := range hots[1:] {
		rev = min(rev, h.snap.Revision())
	}
	return rev
}

// forwardUnlessDone is ErrForward for a client who still waits.
func forwardUnlessDone(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return ErrForward
}

// pace is how long checks have been taking. Updates may get lost to each other; it is an estimate.
type pace struct{ smoothed atomic.Int64 }

// observe counts a check that took d.
func (p *pace) observe(d time.Duration) {
	old := p.smoothed.Load()
	p.smoothed.Store(old + (int64(d)-old)/8)
}

func (p *pace) typical() time.Duration { return time.Duration(p.smoothed.Load()) }

// spared is the work of upstream that an answer of so many bytes would have been.
func spared(bytes int) time.Duration {
	return time.Duration(work(float64(bytes)) * float64(time.Microsecond))
}
