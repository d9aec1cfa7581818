// Package coalesce makes one call, watch or stream out of many.
//
// The nouns:
//
//   - Feed: an ordered stream of the revisions that touch a range, fanned out to any number of watchers.
//   - Hub: feeds, and the clients' streams of watchers that are served from them.
//   - Batch: all events of one revision, which is what a feed is given.
//   - Feeder: who knows which feed serves a watch, and what is now.
//   - Source: the store behind a feed, for what is older than the feed remembers.
//   - Watcher: one watch and the next revision that it is to be sent.
//   - Stream and Sink: the watchers of one client and the way to that client.
//   - Message: events that several watchers are sent, encoded once.
//   - Flight: one upstream call for identical ones.
//   - Keepalives: few upstream streams for the pings of many clients. PingRoute says whose go where, KeepaliveBudget how much
//     memory all of them may take.
//   - PingSink and PingUpstream: who has pinged, for which client, and where pings go.
//   - Slots: so many calls at a time, of all and of each account.
//   - place: one of those that pings may take upstream, or look-ups. Clients have shares of them, and sinks of those.
//
// Invariants: a watcher is sent every event of its range from its start on once and in order, or is cancelled with
// the reason, whatever feeds it is served from; a revision is never split over two messages; progress never overtakes
// an event, and does not fall; no lock is held while a Sink, Source or Feeder is called; nobody who publishes waits for
// somebody who reads; who waits for a network keeps nobody waiting who does not need it; who shares a call shares one that
// was sent after he came; no ping is sent later than a second after it came; clients that ping have their turns and
// their shares, however many pings and streams one of them has, and no place is empty while a ping waits for one.
//
// Callers: core publishes what its store commits to the one feed of a store's hub, and has it jump when the store is replaced by
// a later state; proxy/feed opens feeds on demand,
// fills each from an upstream watch, and moves watchers between them. Both give the hub to grpcapi, whose watch streams
// are the sinks. The proxy sends through a Flight what it cannot answer itself. It makes Keepalives for each
// principal, over the member that leads, and grpcapi's ping streams are their sinks. proxy/access and proxy/tenants look leases up
// in Slots.
package coalesce
