// Package core is one member of a weir cluster: it orders writes through raft, keeps them in a log and a store,
// and answers the etcd v3 API from them.
//
// The nouns:
//
//   - Node: the member. It proposes, applies and reads; grpcapi serves it.
//   - request: one write on its way through the log, with whoever waits for its result.
//   - batch: the requests that share one raft entry, because they arrived while the one before was in flight.
//   - applier: carries out committed entries, one after another, on the store, the leases and the alarms.
//   - guard: while authentication is on, permits what is applied for whoever sent it.
//   - readGate: makes linearizable reads wait for one shared ReadIndex.
//   - member: what identifies this member and its cluster, kept in the log's metadata and in the store.
//   - members: who is in the cluster. It changes by confChanges, which go through the log as raft's own entries.
//   - clusterVersion: the version of etcd that all members keep to; a downgrade lowers it.
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
//   - The log is cut, and raft's storage compacted, only up to an applied index read from a committed transaction.
//   - The applier is the only writer of the store and of what is kept in memory of it: leases, alarms, members,
//     users and roles, the cluster's version. Carrying out an entry depends on nothing but the entry and the state
//     before it: no clock, no file size, no randomness.
//   - A failed disk write ends the node (Failed); it never answers as if it had worked.
//
// Goroutines: run (owns raft's RawNode), apply, expire (leases), cut (log), watchStore (its failure), tendVersion,
// autoCompact, and the ones of wal, mvcc and the hub. Close ends and waits for them all.
//
// Callers: cmd/core and cmd/proxy (embedded). The package knows nothing of gRPC servers or flags.
package core
