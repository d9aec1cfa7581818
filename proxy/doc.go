// Package proxy answers clients of the etcd v3 API from upstream members: weir cores, etcd servers or other proxies.
// Today it forwards every RPC unchanged.
//
// The nouns:
//
//   - Proxy: the whole; it satisfies grpcapi.Forwarder and grpcapi.Upstream.
//   - member: one upstream endpoint, with one gRPC connection that is kept up.
//   - upstream: the members, and which of them is current.
//
// Invariants: bytes pass undecoded; what leaves towards upstream is what came from the client less the metadata that
// belongs to a hop (see outgoing), and the same on the way back; a request that may have been sent is never sent
// again; of each direction of a stream no more is buffered than one message and gRPC's window of 128 KiB.
//
// Caller: cmd/proxy, which puts a grpcapi server in front. Stop that server before Close.
package proxy
