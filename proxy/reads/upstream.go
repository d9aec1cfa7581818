package reads

import (
	"context"
	"errors"
	"time"

	"weir/grpcapi/wire"
)

// ErrForward says that a read is to be answered by upstream: nothing in memory holds the answer, or there is a doubt
// that memory may give it. It is never shown to a client.
var ErrForward = errors.New("reads: not to be answered from memory")

// Upstream is the cluster behind the proxy, as far as reads from memory depend on it. Every method may be called
// concurrently.
type Upstream interface {
	// Check returns a revision that upstream had reached when it was asked, by a linearizable read that is sent after
	// the call began and shared by all who wait for one. Success also says that the proxy may still read what it
	// shares. It fails at once when there is no session or upstream has just failed to answer another one, when the
	// request fails, which is within a second or two, and with ctx. It never asks twice.
	Check(ctx context.Context) (rev int64, err error)

	// Standing tells whether reads may be answered from memory. It takes no lock.
	Standing() Standing

	// ProvenAt returns when the newest linearizable check was sent whose revision is at most rev, or the zero time. A
	// state of revision rev lacks nothing that was acknowledged before then.
	ProvenAt(rev int64) time.Time

	// Header is that of the member which the feeds are on. Its revision is not current.
	Header() wire.Header

	// Compacted is upstream's compact revision as far as it is known, which is within a second; 0 when it is not. It
	// takes no lock.
	Compacted() int64

	// Keeps tells the oldest revision that can be read from memory, 0 when there is none. Upstream is asked every
	// half second whether it has compacted it.
	Keeps(oldest int64)

	// Range asks the member that the feeds are on, in the proxy's own name. It fails when there is no session.
	Range(ctx context.Context, r *wire.RangeRequest) (wire.Raw, error)
}

// Standing is what upstream is known to be.
type Standing struct {
	// Shared says that upstream lets reads be answered from memory, and has a version whose answers can be relied on.
	Shared bool
	// Guarded says that they may be given only to whom upstream would give the same. The Keeper does not know who that is:
	// its callers do.
	Guarded bool
	// Confirmed says that upstream said so within the last second.
	Confirmed bool
	// Connected says that there is a session.
	Connected bool
	// Before37 says that upstream is an etcd before 3.7: it leaves the lease in what it answers to keys_only, and has no
	// RangeStream.
	Before37 bool
	// Era counts how often upstream was found to be another one than before: its cluster replaced or restored, or
	// authentication switched. Snapshots and session floors of another era are void.
	Era uint64
}
