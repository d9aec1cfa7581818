// Package reads answers reads from memory.
//
// The nouns:
//
//   - Keeper: everything that a proxy keeps in memory to answer reads from, within a bound of bytes.
//   - hot: a hot range, one of which all keys are kept: a cache.Snapshot and the watch that feeds it.
//   - interval: the keys of a range, in the form in which ranges are compared.
//   - catalog: which hot range has the keys of a read.
//   - load: how a hot range begins, by a watch and paged reads at one revision.
//   - heat: what the reads that were forwarded say about which ranges are worth keeping.
//   - tend: the goroutine that begins loads, divides the memory, and drops what is not worth it any more.
//   - read: one client's read on its way, a Range, a Txn or a RangeStream: how far snapshots must be for it, and whether
//     its answer may be given.
//   - Upstream: the cluster behind the proxy, as far as reads depend on it, which package proxy provides.
//
// Invariants: a snapshot that is found has every event of its range up to its revision, and nothing else; one that
// cannot go on is dropped, never left as it is; who feeds a snapshot waits for nobody, and who reads one takes no lock; on
// any doubt a read is forwarded, and a client cannot see the difference; whatever clients ask for, snapshots, loads
// and what is remembered of reads are bounded in bytes.
//
// Caller: proxy, which gives the Keeper the hub of proxy/feed, tells it of every call upstream for a read that it
// forwards, and closes it before the hub.
package reads
