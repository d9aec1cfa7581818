// Package namespaces tests with real processes that a client of a proxy with --namespace has a store of its own below that
// prefix, in which everything works as in a whole one, and that it can neither see nor change what is outside.
//
// The nouns: the site (members, the proxies before them, and the prefix that these put before keys), the inside (a client of
// the outermost proxy), and the store (a client of a member, which sees everything). There are two oracles. One is the
// namespace package of etcd's client, which does the same at the client: whatever that is told, and a client of a proxy is
// told, must be the same. The other is what is outside: it is marked, and neither may the mark come out of a proxy, whatever
// bytes are sent to it, nor may what is marked change.
//
// -seed repeats a failed run, and -ops makes the random ones longer:
//
//	go test ./namespaces -run Hostile -args -ops=1000000
package namespaces
