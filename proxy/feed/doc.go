// Package feed feeds a hub of watchers from few upstream watches.
//
// The nouns:
//
//   - Set: all feeds of a proxy. It finds the feed for a watch, opens, widens, divides and closes feeds.
//   - feed: one upstream watch over a range, and the coalesce.Feed that it fills.
//   - catalog: which feed a range is served by.
//   - session: the upstream Watch RPC that all feeds share, on one member, and its position.
//   - sharing: whether watches may be served from feeds at all, which probes ask upstream again and again. What is shared under one
//     regime ends with it, and what is forwarded ends when sharing begins.
//   - identity: the cluster, revision and term that upstream has shown.
//   - check: what revision it is upstream now, asked once for all who wait.
//   - cursor: an upstream watch from the past, read at the pace of the laggards that need it.
//   - Upstream, Member, WatchStream: the way there, which package proxy provides.
//
// Invariants: a revision is published whole, once and in order; a feed's position comes from a response that ended a
// revision, or from a progress notification of its own session, never from the header of events (etcd states its current
// revision there, also on history); a session is used only on a member that has shown, linearizably, the cluster and
// at least the newest revision that was seen before; what shows that authentication is still off was asked without any
// identity; nobody who receives from upstream waits for a client.
//
// Caller: proxy, which gives the Set's hub to grpcapi.
package feed
