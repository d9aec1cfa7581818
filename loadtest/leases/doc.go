// Package leases tests with real processes that a proxy keeps the leases of many clients alive over few streams upstream, that
// no lease is lost whose client pings it, and that none lives on for longer than upstream would let it, plus a second.
//
// Its nouns are the site (members, and proxies before them), the pinger (one raw stream of pings) and the keeper (clients of
// etcd's own library with many leases, which ping by themselves and notice when a lease is lost). How often leases were renewed,
// and over how many streams, is read from the members' metrics.
//
// What holds for a member too is tested at a plain etcd first, which proves the test.
package leases
