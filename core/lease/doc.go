// Package lease knows which leases exist, which keys hang on each, and when each expires on a clock it is given.
//
// # Nouns
//
// A [Lessor] is the set of all leases of one member. A lease has an id, a TTL in whole seconds, an expiry and keys; a
// key hangs on at most one lease. A [Checkpoint] is what was left of a lease, of one grant of its id, at some time. A [Record] is a
// lease as it is stored: id, TTL, grant and last checkpoint, never the expiry. A [Set] is what a Lessor is filled from: leases and
// keys, without a clock.
//
// # Who calls it
//
// core does, and only core. It applies grants, revocations, checkpoints and the lease of every put and delete from the raft log,
// so these must not depend on the clock and come out the same on every member. It stores the records with the data, and fills
// the Lessor from them at start, and when a snapshot has taken the place of the data: Reset, with a Set of each record and
// each key that has a lease.
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
// Another takes the leases that need a checkpoint, so that the next primary knows what is left of them: WaitCheckpoints, then
// Checkpoints. It proposes these, and when they come back through the log every member calls Checkpoint.
//
// On the other members core sends pings to the primary. Of a lease that it could not renew, Changed tells when to ask again.
//
// # Invariants
//
//   - A lease never expires before its TTL has passed since the grant or the last ping that was answered, on whatever member;
//     what a ping has given is not taken away by a checkpoint from before it.
//   - After a change of the primary, and but for what Promote adds, it has no more left than its TTL, nor much more than five
//     minutes more than it had.
//   - Nothing but Revoke ends a lease, and a lease that has expired cannot be renewed: who pings it waits for its end.
//   - Without a primary nothing expires and nothing can be renewed.
//   - The expiry is not stored. After a restart or a change of the leader a lease has what was left at its checkpoint, and
//     without one its whole TTL.
package lease
