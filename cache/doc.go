// Package cache is what a proxy answers reads from: the contents of ranges in memory, answers already encoded, and
// what each client has been told.
//
// The nouns:
//
//   - Snapshot: all keys of a range at its newest revision and, in a window bounded in bytes, at past ones.
//   - Loader: makes a Snapshot from a range that is read in pages at one revision.
//   - View: one state of a Snapshot, past or present, from which every option of a Range is answered.
//   - Results: encoded answers that are dearer to build than to look up.
//   - Session: the revisions that one client connection has been told, below which its later reads must not fall.
//
// Invariants: a View is exactly the state that the store had at its revision, or there is none; what has been given out
// never changes; readers of a Snapshot never wait, neither for each other nor for who writes it; what is kept is
// bounded in bytes and counted, with what the allocator adds; a result is verified before it is used, so that
// one may be missing but none is wrong.
//
// The package knows no upstream, no clock and no goroutine. Its caller is proxy/reads, which loads Snapshots, feeds them
// from the watches of a coalesce.Hub and decides how fresh an answer must be.
package cache
