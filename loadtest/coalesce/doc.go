// Package coalesce tests with real processes that a proxy serves thousands of watches from few upstream watches, and
// that no client can tell: every event comes once and in order, whatever a watch asks for and whatever happens upstream.
//
// Its nouns are the site (members, and proxies before them), the stream (one gRPC stream of watches, whose every
// response is checked as it comes) and the history: what the store itself says has happened, read with a watch straight
// at a member. A watch is right when it has seen exactly what the history has for its range, start and filters.
//
// What holds for a member too is tested at a plain etcd first, which proves the test. How many watches there are
// upstream is read from etcd's metrics.
package coalesce
