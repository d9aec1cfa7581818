package feed

import (
	"context"
	"math"
	"slices"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/grpcapi/wire"
)

// reads is what those need who answer reads from memory: whether they may, and how fresh what they have is. It is read
// for every read, so without locks; all is written with Set.mu held.
type reads struct {
	standing  atomic.Pointer[standing]
	proofs    atomic.Pointer[proofs] // nil: none
	compacted atomic.Int64           // Set.compacted
	kept      atomic.Int64           // see Keeps
}

// Standing says whether reads may be answered from memory, and to whom.
type Standing struct {
	Shared    bool // upstream allows it, and has a version that can be relied on
	Guarded   bool // only to whom upstream would give the same: authentication is on
	Confirmed bool // upstream has allowed it within the last second
	Connected bool // there is a session, so that what is in memory goes on
	// Before37 says that upstream is an etcd before 3.7: it answers keys_only with the lease, and has no RangeStream.
	Before37 bool
	Era      uint64 // counts how often all that was known became void: a replaced cluster, authentication switched
}

// standing is Standing but for the time.
type standing struct {
	sharing   sharing
	connected bool
	confirmed time.Time
	before37  bool
	era       uint64
}

// Standing is as of now. It takes no lock.
func (s *Set) Standing() Standing {
	now := s.reads.standing.Load()
	return Standing{
		Shared: now.sharing.isShared(), Guarded: now.sharing == guarded, Connected: now.connected, Before37: now.before37, Era: now.era,
		Confirmed: now.sharing.isShared() && elapsed(now.confirmed) <= trust,
	}
}

// elapsed is how long ago a moment was by any clock: the monotonic one stands still while a machine is suspended, and the
// wall's can be set. Whoever trusts something for a time trusts it for less if they differ.
func elapsed(since time.Time) time.Duration {
	now := time.Now()
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}

// tellStanding is called with s.mu held, or before others know of s.
func (s *Set) tellStanding() {
	s.reads.standing.Store(&standing{
		sharing: s.sharing, connected: s.session != nil, confirmed: s.confirmed, before37: s.before37, era: s.era,
	})
}

// Guarded tells whether reads may be answered only to whom upstream would give the same, and in which era. It takes no lock.
func (s *Set) Guarded() (era uint64, guards bool) {
	now := s.reads.standing.Load()
	return now.era, now.sharing == guarded
}

// IsOpen tells whether reads may be answered to everybody, as they could be in this era only. It takes no lock.
func (s *Set) IsOpen(era uint64) bool {
	now := s.reads.standing.Load()
	return now.sharing == open && now.era == era
}

// Era is that of Standing.
func (s *Set) Era() uint64 { return s.reads.standing.Load().era }

// Check returns a revision that upstream had reached, as its members agree, when it was called or later. All who wait at
// the same time share a linearizable read of one key's count, which also shows that the proxy may still read. It
// fails with ctx, while there is no member at hand, and as soon as the request does, which is within checkPatience. After
// that it fails at once until a linearizable read succeeds, each call having one sent: else all would wait for it one after
// another. The error is Unavailable if upstream cannot be asked, and another one if there is something else about it.
func (s *Set) Check(ctx context.Context) (rev int64, err error) {
	if !s.reads.standing.Load().connected {
		return 0, errNoSession
	}
	if begun, err := s.agreed.failure(); err != nil && !s.ProvenAt(math.MaxInt64).After(begun) {
		s.agreed.begin(s.agreed.arrive())
		return 0, err
	}
	return s.agreed.now(ctx)
}

// Checks is how many requests Check has sent.
func (s *Set) Checks() uint64 { return s.agreed.sent.Load() }

// checkPatience is how long upstream may take to answer a check.
const checkPatience = time.Second

// askAgreed is one request of s.agreed.
func (s *Set) askAgreed(ctx context.Context) (int64, error) {
	s.mu.Lock()
	x := s.session
	s.mu.Unlock()
	if x == nil {
		return 0, errNoSession
	}
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	return s.askRevision(ctx, x, false)
}

// proof says that upstream had reached a revision, and no higher one, after it was asked.
type proof struct {
	asked time.Time
	rev   int64
}

// proofs are the newest and older ones, ascending.
type proofs struct {
	newest proof
	older  []proof // immutable
}

const (
	// proofInterval is between two proofs that are kept besides the newest: a state that is not quite new is proven fresh by
	// an older one.
	proofInterval = 50 * time.Millisecond
	maxProofs     = 64
)

// prove records a linearizable answer. s.mu is held.
func (s *Set) prove(asked time.Time, rev int64) {
	p := &proofs{newest: proof{asked, rev}}
	if old := s.reads.proofs.Load(); old != nil {
		switch n := len(old.older); {
		case !asked.After(old.newest.asked):
			return
		case n > 0 && old.newest.asked.Sub(old.older[n-1].asked) < proofInterval:
			p.older = old.older
		default:
			p.older = append(slices.Clone(old.older[max(0, n+1-maxProofs):]), old.newest)
		}
	}
	s.reads.proofs.Store(p)
}

// ProvenAt returns when the newest linearizable read was sent whose revision is not above rev; zero if there is none. What
// has everything up to rev lacks nothing that was acknowledged before then. It takes no lock.
func (s *Set) ProvenAt(rev int64) time.Time {
	p := s.reads.proofs.Load()
	if p == nil {
		return time.Time{}
	}
	if p.newest.rev <= rev {
		return p.newest.asked
	}
	for _, older := range slices.Backward(p.older) {
		if older.rev <= rev {
			return older.asked
		}
	}
	return time.Time{}
}

// Proven is the newest revision that a linearizable read has shown; 0 if there is none. It takes no lock.
func (s *Set) Proven() int64 {
	if p := s.reads.proofs.Load(); p != nil {
		return p.newest.rev
	}
	return 0
}

// Compaction is upstream's compact revision, as far as it is known, which takes a second at most. It takes no lock.
func (s *Set) Compaction() int64 { return s.reads.compacted.Load() }

// Keeps tells from what revision on reads are answered from memory; 0 is that none are. Upstream is asked again and again
// whether it has compacted it.
func (s *Set) Keeps(oldest int64) { s.reads.kept.Store(oldest) }

// Range asks the member that the feeds are on, in the proxy's own name. It fails while there is none.
func (s *Set) Range(ctx context.Context, r *wire.RangeRequest) (wire.Raw, error) {
	s.mu.Lock()
	x := s.session
	s.mu.Unlock()
	if x == nil {
		return nil, errNoSession
	}
	return x.member.Call(ctx, pb.KV_Range_FullMethodName, wire.AppendRangeRequest(nil, r))
}
