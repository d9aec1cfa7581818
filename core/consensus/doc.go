// Package consensus is raft as a member of a core uses it, without goroutines, clocks, files or connections: whoever drives it
// decides when something happens, and whether.
//
// The nouns:
//
//   - Machine: raft's state machine, the entries that it holds in memory, and the rules around it.
//   - Effects: what the machine wants done. The driver does it, and tells the machine with Done when it has been done.
//   - Work: what the machine is to be told then. It is opaque to the driver.
//   - Outgoing: the snapshots that a leader sends, and what of the log their receivers will need.
//
// Two drive it: core.Node, with the log, the store and the connections of a member, and core/coretest, which runs several
// machines in one goroutine, with a network, disks and a clock that a test scripts.
//
// Invariants:
//
//   - Nothing is said to another member that attests what is not durable here: a vote, an entry that was taken.
//   - Entries are applied only when they are durable here, in order, and each once.
//   - What the log is asked for after a snapshot waits until that has been installed.
//   - What is asked of the log, sent to a follower that does not answer, taken by a leader that cannot write, or has no majority that
//     does, and taken by a follower that does not apply, is bounded in bytes (Bounds), and works that wait are in number. So nobody who
//     drives the machine ever has to wait for a disk.
//   - No message of another member makes it panic. What shows in the message alone is refused before it comes here (core/transport).
//   - A proposal is taken by the member that it is sent to, or by nobody: it is not passed on a second time.
//   - Who leads does not let anybody read before it has committed an entry of its own term, nor before it knows that after the read had
//     begun a majority had not voted in a later term. Of three voters the one that forwards a read says so by that; others are asked.
//   - What is committed a follower is told at once if its client is known to wait for it, and else with the next append, or after two
//     intervals of the driver; not by heartbeats alone.
package consensus
