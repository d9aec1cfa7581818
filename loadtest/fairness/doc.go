// Package fairness tests with real processes that a client that asks for far more than its share takes nothing from the
// others: not their turns upstream, not their pings, not the memory of the proxy.
//
// Its nouns are the site (a member and a proxy before it) and the client, who has an address of the loopback to himself, by
// which the proxy tells apart those who show nothing else. What is asserted is who was served how often, and who was refused
// with what, never how fast: go run . bench fairness measures that.
package fairness
