// Package e2e is the end-to-end tests: etcd's own client library, raw gRPC and etcdctl against every target.
//
// The suite is one list of cases, each written as a promise about etcd's API. It runs against plain etcds first, which
// proves the cases, then against weir's core and proxies, where the same must hold. A case says what an older etcd
// answers where that differs; it never asks whether weir is being tested.
package e2e
