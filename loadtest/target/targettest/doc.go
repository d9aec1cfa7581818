// Package targettest gives targets to tests: it builds what they need, starts targets for one test each, and shows the
// logs of those whose test failed.
//
// Two nouns besides the target. A [Site] is a cluster and weir's proxies before it, whose members, data and ways a test
// can reach to do them harm. A [Relay] is such a way: TCP connections that can be slow, be cut, or freeze. The rest is what
// several packages of tests make their requests of.
package targettest
