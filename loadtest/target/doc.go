// Package target starts what a client can talk to: etcd in three versions, weir's core, and weir's proxy over each of
// them, every one as separate processes with their own data directory.
//
// Its noun is the [Target]: an endpoint, and the processes behind it. Each of these is a [Server], which is asked here for
// what it tells of itself. A [Cluster] is what one member is not enough for. The tests are written once and run against every
// [Kind]; that they pass against a real etcd is what makes them worth anything.
package target
