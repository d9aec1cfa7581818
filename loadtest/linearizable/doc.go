// Package linearizable tests with real processes what docs/consistency.md promises of reads: linearizable ones are what a
// direct linearizable read could have returned, and others are real past states that keep the promises of a session.
//
// Clients send random requests on few keys, at two proxies and at the members, all at the same time, while processes are
// killed and paused, the leader changes, connections break and the store is compacted. An [Op] is one request and how it
// ended; a [History] is a few dozen of them on keys of their own. The [Truth] is what the store says has happened, read with
// a watch straight at the members.
//
// Two checks, which know nothing of each other:
//
//   - Every History must be linearizable. This looks at keys and values only, as a client would, and trusts no revision. It
//     is porcupine's work (github.com/anishathalye/porcupine), and its cost is exponential, so histories are short and there
//     are thousands of them.
//   - Every Op must fit the Truth ([Truth.Check]): it has to be what the store was at the revision that its header states,
//     bit by bit, and that revision must not be behind what had been answered before.
//
// A check that never fails proves nothing. So both are given histories with one wrong answer in each, and answers of
// etcd's own proxy, which they must refuse; and a plain etcd, which they must not.
//
// To look for longer, or again with the random choices of a failed run:
//
//	go test ./linearizable -run TestReadsAreLinearizable -args -duration=10m -seed=4711
package linearizable
