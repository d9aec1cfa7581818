// Package transport carries raft messages and snapshots between the members of a core. It may lose any of them, as raft expects;
// it neither changes them nor makes any up.
//
// The nouns:
//
//   - Transport: this member's connections to all others. Handler is what it works for.
//   - peer: one other member. It has two links, a connection for other calls, and at most one snapshot on its way.
//   - link: one stream of messages to a peer, made again whenever it breaks. The small link has what must come in time, the bulk
//     link what carries entries.
//   - queue: what waits for a link.
//   - session: one stream that the peer has accepted, on a connection of its own. It pings, and ends when nobody answers.
//   - inbound: a stream that a peer has opened to this member.
//   - guest: a caller that is not known to be a member, because it may be newer than what is applied here.
//   - refusal: why a member does not talk to another: other cluster, other member, removed, other protocol, not known yet.
//   - frame, snapshotHead: what is on the wire. A frame is sent in parts.
//   - Method: what members ask each other beside raft's messages; core defines it.
//   - boundedListener: how many connections the port has open.
//
// On the wire it is a gRPC service, weir.Peers, on the peer URLs:
//
//	Messages   a stream of frames in parts, never answered; weir-channel says which link it is
//	Snapshot   a head, the bytes, their SHA-256; answered once, when it is stored and stepped into raft
//	Ping       nothing, answered by nothing
//
// Each call carries the cluster, the caller, whom it takes the other for, and the versions of the protocol that it speaks. A member
// accepts a stream by answering with headers, before anything is sent. What answers in any other way is no weir member; etcd's
// members, whose ids, flags and ports look alike, have no such service.
//
// Whoever can connect can speak for any member: it is the server's TLS that demands a certificate. What is done here is for those who
// have no business at this port, or are faulty. No byte of a message is read before it is known who says to call. Guests may only
// send what raft may need of a member that is newer: what leaders and candidates say, the answers to that, and snapshots (ofGuests). There are maxGuests of them, they keep no member out of
// anything, and who of them is quiet loses its place. What is read is bounded before it is read, and looked through (Check): what no raft
// says goes no further. What only the state of this member shows to be untrue, core/consensus finds. So no bytes make this member panic.
//
// What is untrue and possible is believed. Who speaks for a voter can have a member vote, follow it and take its entries, say that others
// have acknowledged what they have not, or that this one has, which then ends (consensus.ErrForgotten). As at etcd, that is for the
// certificates of members to prevent.
//
// Invariants:
//
//   - Send and SendSnapshot never wait for a peer, and no peer waits for another.
//   - For one peer, queues and gRPC hold at most smallQueue and bulkQueue, or one message if that is larger, and a frame each; of a
//     snapshot, two chunks. A frame has at most maxFrameSize. Entries in queues are raft's own, not copies.
//   - Of what comes in, gRPC holds at most bulkWindow and a message of partSize for one stream. Streams that last are two for each member
//     and each guest, one snapshot, and of each member maxStreams requests; others end before anything of them is read.
//   - Of a frame that is larger than partSize there is one for each link of a member, of at most maxFrameSize, and one of all guests, of at
//     most Config.MaxMessage. It takes twice as much when its parts are joined.
//   - What one peer sends on one link is received in order, though with gaps: a stream that replaces another begins when nothing more
//     is received from that.
//   - One snapshot is received at a time, to one peer one is sent at a time; a member's takes over from a guest's, the newer leader's
//     from an older one's, and the newer one of the same peer.
//   - No call of the Handler is under way when Close has returned.
//
// Goroutines, for each peer: one for each link and, while it has a session, two more, which write and ping; one that tells the Handler
// of losses; one for each snapshot, with two more. For each inbound stream: gRPC's, and one that receives.
//
// Callers: core, which registers it on the server of its peer URLs.
package transport
