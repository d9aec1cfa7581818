// Package bench measures servers side by side: throughput, latency, and the servers' processor time per operation.
//
// Its nouns are the [Workload], one kind of request sent by many clients, and the [Result], what one target did under it.
// [Run] starts every target as processes of its own, and loads them in turns, A B C A B C, so that what else happens on
// the machine happens to all of them. Clients and servers share the machine: throughput tells what a machine that is
// shared so gives, processor time per operation what a server costs.
//
// For watches they are the [Scenario], who watches what, and the [WatchResult]; [RunWatches] measures what it costs to
// deliver an event, and to keep a watcher, at a fixed rate of writes.
//
// For reads that a proxy may answer from memory they are the [ReadScenario], who reads what, and the [ReadResult];
// [RunReads] measures them as Run does, and what they cost upstream, and [RunReadMemory] the memory that it takes.
package bench
