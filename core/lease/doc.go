// Package lease knows which leases exist, which keys hang on each, and when each expires on a clock it is given.
//
// # Nouns
//
// A [Lessor] is the set of all leases of one member. A lease has an id, a TTL in whole seconds, an expiry and keys; a
// key hangs on at most one lease. A [Record] is a lease as it is stored: id and TTL, never the expiry.
//
// # Who calls it
//
// core does, and only core. It applies grants, revocations and the lease of every put and delete from the raft log, so
// these must not depend on the clock and come out the same on every member. It stores the records with the data, and
// fills a new Lessor from them at start: Grant for each record, Attach for each key that has a lease.
//
// Time matters only on the member that leads, the primary: from Promote to Demote leases expire there, and pings are
// answered there. An expired lease is still a lease. One goroutine of core takes the expired ones from WaitExpired and
// proposes their revocation. When that comes back through the log, core deletes the lease's Keys, then calls Revoke:
//
//	lessor.Promote(electionTimeout)
//	for {
//		ids, err := lessor.WaitExpired(ctx, 1000)
//		if err != nil {
//			return // ctx has ended
//		}
//		propose a revocation of each id
//	}
//
// # Invariants
//
//   - A lease never expires before its TTL has passed since the grant, the last ping, or the last Promote.
//   - Nothing but Revoke ends a lease, and a lease that has expired cannot be renewed: who pings it waits for its end.
//   - Without a primary nothing expires and nothing can be renewed.
//   - The expiry is not stored. After a restart or a change of the leader every lease has its whole TTL again.
package lease
