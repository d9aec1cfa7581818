// Package differential sends one long random sequence of requests to two servers and compares every answer.
//
// [Run] is the whole of it. A step is one request, valid or not, of the KV, Lease, Watch, Cluster or Maintenance service;
// both servers get it, and both answers, or both errors with code and text, must be equal field by field. Left out are only
// ids of clusters and members, raft's terms and indexes, the sizes of files, and what a clock decides. Watches are created
// and cancelled during the run over raw streams, and the events of each watch must be the same.
//
// The invariant that makes this deterministic: one request is under way at a time, and events are compared only at a
// barrier, where each stream has truthfully said (by a progress answer) that it has delivered everything up to the
// newest revision. What etcd itself leaves to timing is not asked; each such place says so. Run against two etcds it
// must never find a difference.
//
// When all steps are done, both servers are killed and started again, and what they have stored is compared once more:
// keys, history, hashes and leases.
//
// The same seed gives the same sequence, as long as the servers answer the same. A failed test says its seed; to try it
// again:
//
//	go test ./differential -run /^core$ -args -seed=4711 -steps=10000
package differential
