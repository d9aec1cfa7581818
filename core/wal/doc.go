// Package wal keeps the raft log on disk, so that what a member has acknowledged survives the loss of power.
//
// The nouns:
//
//   - Log: what core holds. Append queues, Cut forgets the beginning, Replace forgets everything for a snapshot, Close writes
//     what is queued and stops.
//   - batch: what many Appends queued while the disk was busy; it is written by one write and one fdatasync, and is
//     recovered whole or not at all.
//   - appender: writes batches; it belongs to the one goroutine that does, the writer.
//   - segment: a file of batches, zeroed before its first use, and removed as a whole when all of it was cut.
//   - recovery: reads the segments at Open, and decides between a torn end and corruption.
//   - FS: the file operations that all of this needs, so that tests can fail and tear each of them.
//
// The caller is core: its raft loop appends, its store cuts, its applier replaces. The package knows nothing of raft but the two messages
// that it stores, and does not lock its directory.
//
// # Format
//
// A log is a directory of segments, named by their numbers in 16 hexadecimal digits: 0000000000000001.wal. The numbers
// go up by one; the lowest are removed by Cut. All integers are little-endian. All checksums are CRC-32C.
//
//	segment   | header | first batch | batch | ... | batch | zeros to the end of the file |
//
//	header    magic, "weir-wal"         8 bytes
//	          format version, 2         4
//	          log id                    8
//	          number of the segment     8
//	          number of its first batch 8
//	          zeros                     472
//	          checksum                  4         of the 508 bytes before it
//
//	batch     header checksum           4 bytes   of the 28 bytes after it
//	          payload checksum          4         of records and padding
//	          log id                    8
//	          number of the batch       8
//	          previous header checksum  4         that of the batch before
//	          length of the payload     4         in bytes, without padding
//	          payload                             | record | record | ... |
//	          padding                             zeros up to the next sector of 512 bytes
//
//	record    kind                      1 byte
//	          length of the body        4
//	          body                                kind 1, metadata: what Create was given
//	                                              kind 2, hard state: a raftpb.HardState; the last one holds
//	                                              kind 3, entry: a raftpb.Entry; it ends those of its index and above
//	                                              kind 4, cut: 8 bytes; entries up to this index are not needed
//	                                              kind 5, snapshot: index and term, 8 bytes each; if the index is
//	                                              beyond the cut, what is before it in the log is void, and the index
//	                                              is the cut
//
// The log id is a random number that Create draws. It tells this log's bytes from those of another log, and from a
// client's value that looks like a batch. Batch numbers go up by one through the whole log. The first batch of each
// segment repeats metadata, hard state, cut, and the snapshot if there is one, so that no earlier segment is needed for
// them.
//
// A reader refuses a version or a kind that it does not know. Whoever adds a kind raises the version. Version 1 had no
// snapshots, and is read; a snapshot that was put into a segment of it is refused, by its kind, by those who know only that.
//
// # Invariants
//
// A batch is written only after the one before it is synced. The sectors of one batch may land in any order, or not.
// So a batch that is not whole is the torn end of the log exactly if no later batch was begun, which a later
// header shows. A torn end is zeroed, durably, before anything is appended. Anything else that is not whole is refused
// with file and offset.
//
// A batch begins on a sector that no other batch uses: writing it cannot harm what is already durable. This costs 256
// bytes a sync on average. The last sector of a segment is kept for a cut, which must be possible on a full disk.
//
// A segment is begun by a write and a sync of its header and first batch. A file that did not get that far can only be
// the last one; it is removed at Open.
//
// Segments are removed from the oldest on, each durably before the next, and only once the cut that allows it is
// durable. So the first entry on disk is never later than the cut + 1, and nothing is missing after it. Once a snapshot's record
// is durable, the segments before it hold nothing that is needed; they go with the next cut.
//
// After a failed write or sync nothing more is written: which bytes are on disk is not known until the next Open,
// which writes the last batch that it can read once more, before it counts as durable.
package wal
