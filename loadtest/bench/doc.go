// Package bench measures servers side by side: throughput, latency, and the servers' processor time per operation.
//
// Package suite loads servers with everything for a while, and makes a report of it; the benches here look deeper at one thing each.
// All start their targets as processes of their own, and load them in turns, A B C A B C, so that what else happens on the machine
// happens to all of them. Clients and servers share the machine: throughput tells what a machine that is shared so gives,
// processor time per operation what a server costs.
//
// For watches the nouns are the [Scenario], who watches what, and the [WatchResult]; [RunWatches] measures what it costs to
// deliver an event, and to keep a watcher, at a fixed rate of writes.
//
// For the memory of a proxy that keeps what it is read for it is the [MemoryResult]; [RunMemory] measures it.
//
// For fairness they are the [Crowd], the [Flood] and the [Bounds], who else there is, who asks for too much, and what the proxy does
// about it, and the [FairnessResult]; [RunFairness] measures what the crowd feels of the flood.
//
// For clusters they are the [ClusterScenario], how many clients ask whom for what, and the [ClusterResult], the [RecoveryResult] and the
// [ClusterStartResult]; [RunCluster] measures requests, [RunRecovery] what the loss of a leader costs, and [RunClusterStart] starts with
// much data, and memory.
package bench
