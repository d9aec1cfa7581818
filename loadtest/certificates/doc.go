// Package certificates tests with real processes that ports with TLS let in and keep out whom etcd does with the same flags,
// and that replacing certificates under load loses nothing.
//
// Its nouns are the port (one process and where it serves: etcd or weir's core, etcd's grpc-proxy or weir's), the flags
// that it was given, and the visitor: a client with a certificate of its own, or none, that tries one request. What etcd
// does with a visitor is the expected result; where weir means to differ, the case says so and why.
package certificates
