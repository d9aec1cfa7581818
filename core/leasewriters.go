package core

import "weir/core/auth"

// leaseWriters are users of whom it is known that they may write every key of a lease. Who hangs one key after another on
// a lease would otherwise have all that hang on it checked each time, by the applier, for which everybody waits: with
// 100,000 keys for seconds, if one transaction does it 128 times. (etcd does that.)
//
// It is known of one user for each lease, the one who was permitted last, and stays true while nobody else is: whatever
// that user hangs on the lease, he was permitted to write. What has been forgotten is checked again, so it changes no
// answer. Only the applier uses it.
type leaseWriters map[int64]leaseWriter

// leaseWriter is a user at a revision of users and roles.
type leaseWriter struct {
	as       auth.Identity
	revision uint64
}

// maxLeaseWriters bounds the memory, which then is less than 1 MiB.
const maxLeaseWriters = 4096

func (w leaseWriters) has(lease int64, who leaseWriter) bool {
	known, ok := w[lease]
	return ok && known == who
}

func (w leaseWriters) forget(lease int64) { delete(w, lease) }

// add forgets some other lease when there are too many. Nil remembers nothing.
func (w leaseWriters) add(lease int64, who leaseWriter) {
	if w == nil {
		return
	}
	if len(w) >= maxLeaseWriters {
		for other := range w {
			delete(w, other)
			break
		}
	}
	w[lease] = who
}
