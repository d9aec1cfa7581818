// Package core is one member of a weir cluster: it orders writes through raft, keeps them in a log and a store,
// and answers the etcd v3 API from them.
//
// The nouns:
//
//   - Node: the member. It proposes, applies and reads; grpcapi serves it.
//   - request: one write on its way through the log, with whoever waits for its result.
//   - batch: the requests that share one raft entry, because they arrived while the one before was in flight.
//   - backlog: what is committed and not applied, which bounds what is taken.
//   - applier: carries out committed entries, one after another, on the store, the leases and the alarms.
//   - guard: while authentication is on, permits what is applied for whoever sent it.
//   - readGate: makes linearizable reads wait for one shared ReadIndex.
//   - tenure: this member's time as leader, while leases expire here and are renewed.
//   - pingQueue: collects renewals of leases that this member sends to the leader.
//   - member: what identifies this member and its cluster, kept in the log's metadata and in the store.
//   - restoration: the making of a member's data from a snapshot that a user has saved, before there is a Node.
//   - members: who is in the cluster. It changes by confChanges, which go through the log as raft's own entries.
//   - reconfiguration: a confChange on its way into the log, by the leader, for whichever member was asked.
//   - standing: what is told to those who require a leader, or a voter.
//   - clusterVersion: the version of etcd that all members keep to; a downgrade lowers it.
//   - agreement: the level of weir that all members keep to; see Versions.
//   - testimony: what another member tells of the contents of its store, for a check that all hold the same (corruption.go).
//   - compactor: compacts by itself, by age or by number of revisions.
//
// A write goes request -> batch -> raft entry -> log (core/wal) -> committed -> applier -> mvcc transaction ->
// result, and its events to the hub (coalesce). The log append and the messages to other members go out at the
// same time (raft's AsyncStorageWrites).
//
// Invariants:
//
//   - A result is given only after its entry is committed, so after it is synced to the log here.
//   - The applied index is stored in the same bbolt transaction as what was applied, so replay after a crash
//     applies nothing twice and skips nothing.
//   - The log is cut, and raft's storage compacted, only up to an applied index read from a committed transaction, of which raft has
//     been told; and never while a snapshot is being installed.
//   - The goroutine that drives raft never waits for a disk, so that heartbeats do not.
//   - Nobody has the rights of a snapshot in what was there before it, nor those of before in the snapshot.
//   - A snapshot replaces first the log, then the store. Before raft hears of it there is room for its file, that is on disk, durable
//     and looked through; who has sent one that is none is refused, and the member goes on. Until the store is replaced the log says that it is to be, so what a crash has cut off is finished at the next start.
//   - The applier is the only writer of the store and of what is kept in memory of it: leases, alarms, members,
//     users and roles, the cluster's version and level. Carrying out an entry depends on nothing but the entry and the state
//     before it: no clock, no file size, no randomness.
//   - What all members know of the agreed level they all can apply. What is above it no member puts into the log, nor lets another
//     put there: so no entry passes the leader at which a follower has to end.
//   - A failed disk write ends the node (Failed); it never answers as if it had worked.
//
// Versions. Members of adjacent releases run together while a cluster is upgraded. Of what they write each thing is of a level:
//
//	level 1   all there is
//
// A cluster begins with level 1, and the leader has the level raised to the highest that all members know, never lowered; it is in
// the cluster bucket, so in snapshots. A weir that does not know the agreed level ends, does not start and does not join, with one line.
// Whoever changes what is in the log, or what carrying it out does, raises newestLevel and adds a line here:
//
//   - A kind of request, a type or a field of a confChange, a version of the entry's format: has the new level in kinds or
//     changeLevels, and is not proposed before that is agreed on (agreement.permit).
//   - A field of an etcd message that gets a meaning, a request that is to have another effect: is a new kind. Members that do not
//     know the field would pass over it and differ.
//   - A call between members (peerCalls): an older member answers that it is not implemented. If that will not do, it needs the level.
//   - The first state of a cluster stays as it is: founders make it each by itself.
//
// Apart from levels there are versions of what only one or two members have to know: the log's format (core/wal), a member's identity
// (memberFormat), and what is spoken on a connection (core/transport). Each refuses what it does not know by one line.
//
// Goroutines: run (owns raft's RawNode), apply, expire and checkpoint (leases),
// sendPings (to the leader), cut (log), watchStore (its failure), tendVersion, tendLevel,
// autoCompact, checkStores and checkCompactions (corruption), publish, watchLeader, compareTiming, and the ones of wal, mvcc and the hub. Close ends and waits for them all.
//
// Callers: cmd/core and cmd/proxy (embedded). The package knows nothing of gRPC servers or flags.
package core
