// Command loadtest measures weir beside a real etcd on this machine, and compares their answers for as long as wanted.
//
//	go run . bench         throughput, latency and processor time per operation, beside etcd's
//	go run . bench watch   delivery of events to thousands of watchers: processor time, latency and memory for each
//	go run . bench reads   gets and lists: processor time, latency, requests upstream and memory
//	go run . differential  the same random requests to etcd and to weir, all answers compared
//
// It builds what it starts, and must be run in this module's folder. Each takes flags; see -help.
//
// The packages below it hold everything that needs real processes: proc builds and runs them, target puts them
// together, e2e, coalesce, reads, linearizable, differential, crash and foreign test them, bench loads them. The module is
// its own, so that etcd's server, a tool dependency here, never is a dependency of the product.
package main
