// Command loadtest measures weir beside a real etcd on this machine, and compares their answers for as long as wanted.
//
//	go run . help          what it does, a line for each command
//	go run . bench -help   the flags of one of them
//	go run . bench         everything for a while; makes a report
//
// It builds what it starts, and must be run in this module's folder.
//
// The packages below it hold everything that needs real processes: proc builds and runs them, target puts them
// together, network gives them hosts, client talks to them, load is what clients do, suite loads everything with that and report tells
// of it, bench looks deeper at one thing, scale plans for more machines, and the others test them: e2e and foreign with clients of
// etcd's and of others; differential, linearizable, crash, cluster and snapshots what is promised of data; coalesce, reads and leases
// what many clients share; identities, tenants, namespaces, certificates and fairness what keeps them apart; discovery how they are
// found, and drain how they are stopped. The module is its own, so that etcd's server, a tool dependency here, never is a dependency of the product.
package main
