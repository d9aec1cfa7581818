// Package proxy answers clients of the etcd v3 API from upstream members: weir cores, etcd servers or other proxies.
//
// The nouns:
//
//   - Proxy: the whole; it satisfies grpcapi's Upstream, WatchSharer, Reads and Pings.
//   - member: one upstream endpoint, with one gRPC connection that is kept up.
//   - upstream: the members, and which of them is current. They may change, by autosync and DNS.
//   - feed, reads, access, fair, tenants, busiest: packages of their own, each a mechanism: watches that share upstream's, answers
//     from memory, who may have them, whose turn it is upstream, how much a client may ask for, what is asked most.
//   - pings: a keeper for each principal, whom upstream takes clients for, and the streams upstream that their pings go over.
//   - Status and Detail: what the proxy says of itself, to programs and to people; busy, roll and timings are what only that needs.
//   - registry: the proxies that are registered in the cluster, this one too. balancer: how many clients to ask to go to the others.
//
// Invariants: nobody is given what upstream would not have given to them (see access); what is forwarded leaves as it came, less
// the metadata that belongs to a hop (see outgoing), and with the client's own identity, or, if that was judged here, the
// proxy's; a request that may have been sent is never sent again, unless upstream has refused it unread for the proxy's own
// token; of each direction of a stream no more is buffered than one message and gRPC's window of 128 KiB.
//
// Caller: cmd/proxy, which puts a grpcapi server in front. Stop that server before Close.
package proxy
