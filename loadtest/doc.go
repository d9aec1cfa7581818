// Command loadtest measures weir beside a real etcd on this machine, and compares their answers for as long as wanted.
//
//	go run . bench         everything for a while: throughput, latency, processor time per operation, memory; makes a report
//	go run . bench list    what that is
//	go run . report        makes the report again, from its JSON, with what the benches below have written with -json
//	go run . bench watch   delivery of events to thousands of watchers: processor time, latency and memory for each
//	go run . bench reads   gets and lists: processor time, latency, requests upstream and memory
//	go run . bench leases  pings of leases: processor time, here and in the store, and latency
//	go run . bench fairness  what others feel of a client that asks for ten times its share: latency
//	go run . bench cluster  three members: requests, recovery when the leader is killed, start and memory with a million keys
//	go run . bench scale   how many proxies serve a million watchers: by a model, its inputs measured, its predictions checked
//	go run . differential  the same random requests to etcd and to weir, all answers compared
//
// It builds what it starts, and must be run in this module's folder. Each takes flags; see -help.
//
// The packages below it hold everything that needs real processes: proc builds and runs them, target puts them
// together, network gives them hosts, client talks to them, suite loads them and report tells of it, bench looks deeper, scale plans for more machines, and the others test them: e2e and foreign with clients of etcd's and
// of others; differential, linearizable, crash, cluster and snapshots what is promised of data; coalesce, reads and leases what many clients share; identities, tenants,
// namespaces, certificates and fairness what keeps them apart; discovery how they are found. The module is its own, so that
// etcd's server, a tool dependency here, never is a dependency of the product.
package main
