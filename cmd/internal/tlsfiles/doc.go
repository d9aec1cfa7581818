// Package tlsfiles makes TLS configurations from files, as etcd's flags name them, and keeps them true to the files.
//
// The nouns:
//
//   - Server: the flags of a port that others connect to. Load checks them and returns a configuration.
//   - Client: the flags of connections that this process opens.
//   - Set: all TLS files of a process, which can be looked at without a handshake.
//   - source: what a few files hold, read anew when they have changed.
//   - Doubts: what is accepted, and probably not meant.
//   - rules: what a client certificate must satisfy beyond its chain: names, revocation, address.
//
// Invariants: a handshake uses what the files hold when it begins; an established connection is never touched by a change
// of files; files that changed into something unusable change nothing but the log; each source stands alone, so that a
// broken CA bundle does not keep a new certificate out.
//
// etcd reads its certificate for every handshake, its CRL too, and its CA bundle once. The rejected alternative is to be
// told of changes by the operating system: watching a file misses the replacement of a directory above it, which is how
// Kubernetes changes secrets, and is another way on each system. A stat of each file costs little beside a handshake.
//
// Callers: cmd/core and cmd/proxy.
package tlsfiles
