// Package grpcapi speaks the etcd v3 API on the wire, once for core and proxy.
//
// The nouns:
//
//   - Server: one port or several, each with gRPC and HTTP/1 on it. NewBackendServer answers from data that the
//     process holds, NewForwardServer passes RPCs on.
//   - Backend: what the core gives. By the time a request reaches it, it is decoded and has been checked for all
//     that can be checked without the data.
//   - Forwarder: what the proxy gives. It sees encoded messages.
//   - WatchSharer: the proxy's hub of watches, from which a forwarding server serves streams that carry no identity.
//   - Reads: the proxy's answers to reads that carry no identity; sharedReads decides which are given to it.
//   - connection: what RPCs of one client connection share: its TLS state, and the cache.Session that remembers the newest
//     revision which the client was told.
//   - watchService, watchStream: the Watch service over a hub, the same for core and proxy, and one RPC of it.
//
// Invariants: a request that etcd refuses is refused with etcd's code and text, in etcd's order of checks; nothing
// is decoded that is not needed to route or check it; a forwarding server gives Reads nothing that has an identity, is
// invalid, or is not understood to the last field; every error that leaves here is a gRPC status; Stop returns only when
// every goroutine that the Server started has ended.
//
// Callers: cmd/core and cmd/proxy make Servers; core and proxy implement Backend, Forwarder, WatchSharer and Reads without
// importing this package.
package grpcapi
