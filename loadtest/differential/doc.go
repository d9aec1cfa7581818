// Package differential sends one long random sequence of requests to two servers and compares every answer.
//
// [Run] is the whole of it. A step is one request, valid or not, of any service of etcd 3.7: KV, Lease, Watch, Cluster,
// Maintenance, Auth, Lock and Election, over gRPC or as JSON over the gateway. Both servers get it, and both answers, or both
// errors with code and text, must be equal field by field; of the gateway also the HTTP status, the header and the way the JSON
// is written. Left out are only ids of clusters and members, raft's terms and indexes, tokens, the sizes of files, and what a
// clock decides. Watches are created and cancelled during the run over raw streams, and the events of each watch must be the
// same.
//
// An identity asks in each step: nobody, somebody with a token that is or was good, somebody with nonsense. Authentication is
// switched on and off during the run, mostly with users of whom each may something else; then most steps ask as root, so that
// they meet more than refusals.
//
// The invariant that makes this deterministic: one request is under way at a time, and what goes on beside is compared when
// it cannot but have come to an end. Events are compared only at a barrier, where each stream has truthfully said (by a
// progress answer) that it has delivered everything up to the newest revision. A lock or a campaign that waits must be
// answered exactly when no older key is left, and what observers of an election see is awaited whenever the leader is another.
// What etcd itself leaves to timing is not asked; each such place says so, and so does each where etcd is wrong and weir is
// not. Run against two etcds it must never find a difference.
//
// When all steps are done, both servers are killed and started again, and what they have stored is compared once more:
// keys, history, hashes, leases, members, alarms, users and roles.
//
// The same seed gives the same sequence, as long as the servers answer the same. A failed test says its seed; to try it
// again:
//
//	go test ./differential -run /^core$ -args -seed=4711 -steps=10000
package differential
