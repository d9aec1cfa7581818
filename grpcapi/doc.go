// Package grpcapi speaks the etcd v3 API on the wire, once for core and proxy.
//
// The nouns:
//
//   - Server: one Port or several, each with gRPC and HTTP on it, or with one of them. NewBackendServer answers from data that
//     the process holds, NewForwardServer passes RPCs on.
//   - endpoints: what a Server serves over HTTP: health, version, metrics, profiles, and the status page, which is statuspage's.
//     Behind accessGuard, which knows CORS.
//   - ListedWatch: a watch as it is shown to people.
//   - gateway: the API as JSON over HTTP, translated for the Server's own gRPC, which it reaches over loopback.
//   - Backend: what the core gives. By the time a request reaches it, it is decoded and has been checked for all
//     that can be checked without the data.
//   - Forwarder, and Upstream, which can also tell how upstream is: what the proxy gives. It sees encoded messages.
//   - WatchSharer: the proxy's hub of watches, from which a forwarding server serves streams that carry no identity.
//   - Reads: the proxy's answers to reads that carry no identity; sharedReads decides which are given to it.
//   - connection: what RPCs of one client connection share: its TLS state, the cache.Session that remembers the newest
//     revision which the client was told, and when its streams are to end. conns are those of a Server, which are retired one by
//     one when it drains; goAwayConn is how gRPC's clients are told.
//   - watchService, watchStream: the Watch service over a hub, the same for core and proxy, and one RPC of it.
//   - pingStream: one RPC of lease keepalives that are shared, or come many in a message. Its pinger does what they ask, and
//     waitingPings are those that have to wait for that, each for a second from when it was read.
//   - lockQueues, claim: the Lock and Election services of a Backend keep who wants a name in the store, and this waits for it.
//   - watcher: watches of the server's own, which an RPC follows.
//
// Invariants: a request that etcd refuses is refused with etcd's code and text, in etcd's order of checks; nothing
// is decoded that is not needed to route or check it; a forwarding server gives Reads nothing that has an identity, is
// invalid, or is not understood to the last field; every error that leaves here is a gRPC status; Stop returns only when
// every goroutine that the Server started has ended.
//
// Callers: cmd/core and cmd/proxy make Servers; core and proxy implement Backend, Upstream, WatchSharer and Reads without
// importing this package.
package grpcapi
