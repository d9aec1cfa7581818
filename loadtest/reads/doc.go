// Package reads tests with real processes that a proxy answers reads from its memory as upstream would have answered
// them, and that this costs upstream next to nothing.
//
// Its nouns are the site (members, and proxies before them) and the client (one connection to one server: a session). A
// client of a member says what is so; clients of the proxy must be told the same. What upstream was asked is read from
// etcd's metrics, what was answered from memory from the proxy's status.
//
// -seed repeats a failed run of what is random; -huge and -distinct make the tests of memory larger than CI has time for:
//
//	go test ./reads -run 'Large|Distinct' -timeout 2h -args -huge -distinct=10000000
//
// What holds for a member too is tested at a plain etcd first, which proves the test.
package reads
