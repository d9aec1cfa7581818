// Package coalesce makes one call, watch or stream out of many.
//
// The nouns:
//
//   - Hub: one ordered stream of revisions, fanned out to any number of watchers.
//   - Batch: all events of one revision, which is what the hub is given.
//   - Source: the store behind the hub, for what is older than the hub remembers.
//   - Watcher: one watch and the next revision that it is to be sent.
//   - Stream and Sink: the watchers of one client and the way to that client.
//   - Message: events that several watchers are sent, encoded once.
//
// Invariants: a watcher is sent every event of its range from its start on once and in order, or is cancelled with
// the reason; a revision is never split over two messages; progress never overtakes an event; no lock is held while
// a Sink or Source is called; nobody who publishes waits for somebody who reads.
//
// Callers: core publishes what its store commits and gives the hub to grpcapi, whose watch streams are the sinks.
package coalesce
