// Package mvcc keeps every revision of every key in one bbolt file, in etcd's own layout: etcdutl and etcd read the
// file, and the store opens etcd's.
//
// The nouns:
//
//   - Store: the whole. One goroutine writes, any number read.
//   - Entry: one raft entry being applied. Txn: one request of it, at most one new revision.
//   - state: what readers see, replaced as a whole. View: one state held for several reads.
//   - keyTree: the index, from key to keyIndex, which is the revisions of the key. It is in memory, and built from the
//     file when that is opened.
//   - batch: what is applied but not in the file. committer: the goroutine that puts it there.
//   - compactor: the goroutine that removes what a compaction gave up.
//   - readTx: the bbolt read transaction that readers share.
//   - pageCheck: the look at every page of the file before bbolt trusts it.
//   - contents: what a file holds, read and indexed. Replacement: contents that another member has sent, to be served instead.
//
// The way of a write: Txn.Put appends the encoded KeyValue to the batch, and puts the revision into the writer's tree.
// Txn.Commit publishes both in a new state, which shares all but the changed path of the tree with the one before.
// Within BatchInterval the committer takes the batch (now "flushing"), writes it in one bbolt transaction, and opens
// the read transaction that sees it. A reader finds the value of a revision in the batch, in what is flushing, or in
// the file, and these three are parts of one state, so no reader waits for the disk and none sees two states.
//
// Invariants:
//
//   - A batch ends between entries. What is in the file is the state after some entry, and consistent_index says which.
//   - Revisions ascend: in the file, in flushing, in pending, in this order and without overlap.
//   - What a View needs stays: bbolt keeps the pages of an open transaction, and the index is copied on write.
//   - Nothing that is given out points into the mapped file.
//   - After the file could not be written nothing is committed any more, and Store.Failed says so.
//   - Only the committer replaces the file. What was begun for the one before (a batch, a compaction) does not touch the new one.
//
// The file (as etcd 3.6 and later; server/storage/schema in etcd's source):
//
//	key              8 bytes main '_' 8 bytes sub ['t']  ->  encoded mvccpb.KeyValue; a tombstone's has only the key
//	meta             consistent_index, term, confState, scheduledCompactRev, finishedCompactRev, storageVersion
//	lease alarm cluster members members_removed auth authUsers authRoles: see Bucket
//
// Only core calls this package.
package mvcc
