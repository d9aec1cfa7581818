package mvcc

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/raft/v3/raftpb"
)

// Bucket is one of etcd's buckets that the store keeps for its caller: what is in it is the caller's, but it
// changes in the same transaction as the keys and the applied index.
type Bucket uint8

// The caller's buckets.
const (
	BucketLease Bucket = iota
	BucketAlarm
	BucketCluster
	BucketMembers
	BucketMembersRemoved
	BucketAuth
	BucketAuthUsers
	BucketAuthRoles

	// The store's own.
	bucketKey
	bucketMeta

	bucketCount
)

// String returns the name that the bucket has in the file.
func (b Bucket) String() string { return string(b.name()) }

func (b Bucket) name() []byte {
	switch b {
	case BucketLease:
		return []byte("lease")
	case BucketAlarm:
		return []byte("alarm")
	case BucketCluster:
		return []byte("cluster")
	case BucketMembers:
		return []byte("members")
	case BucketMembersRemoved:
		return []byte("members_removed")
	case BucketAuth:
		return []byte("auth")
	case BucketAuthUsers:
		return []byte("authUsers")
	case BucketAuthRoles:
		return []byte("authRoles")
	case bucketKey:
		return []byte("key")
	case bucketMeta:
		return []byte("meta")
	}
	panic(fmt.Sprintf("mvcc: no bucket %d", b))
}

// ForEach commits what is pending and calls fn with all of a bucket, in key order, until fn fails.
func (s *Store) ForEach(b Bucket, fn func(k, v []byte) error) error {
	if err := s.Commit(); err != nil {
		return err
	}
	st, err := s.acquire()
	if err != nil {
		return err
	}
	defer st.tx.release()
	return st.tx.forEach(b, fn)
}

func (t *readTx) forEach(b Bucket, fn func(k, v []byte) error) error {
	return t.tx.Bucket(b.name()).ForEach(func(k, v []byte) error { return fn(bytes.Clone(k), bytes.Clone(v)) })
}

// The keys of the meta bucket.
const (
	metaIndex            = "consistent_index"    // 8 bytes big-endian
	metaTerm             = "term"                // 8 bytes big-endian
	metaConfState        = "confState"           // JSON
	metaScheduledCompact = "scheduledCompactRev" // as a revision in the key bucket
	metaFinishedCompact  = "finishedCompactRev"  // as a revision in the key bucket
	metaStorageVersion   = "storageVersion"
)

// storageVersion is the version of etcd whose layout a new file has.
const storageVersion = "3.7.0"

// Applied is how far the raft log is in a state of the store.
type Applied struct {
	Index, Term uint64
	ConfState   *raftpb.ConfState // not to be changed; nil before the first one is set
}

func readApplied(tx *bolt.Tx) (Applied, error) {
	meta := tx.Bucket(bucketMeta.name())
	var a Applied
	for key, to := range map[string]*uint64{metaIndex: &a.Index, metaTerm: &a.Term} {
		switch v := meta.Get([]byte(key)); len(v) {
		case 0:
		case 8:
			*to = binary.BigEndian.Uint64(v)
		default:
			return Applied{}, fmt.Errorf("read %s: %d bytes instead of 8", key, len(v))
		}
	}
	if v := meta.Get([]byte(metaConfState)); len(v) > 0 {
		a.ConfState = new(raftpb.ConfState)
		if err := json.Unmarshal(v, a.ConfState); err != nil {
			return Applied{}, fmt.Errorf("read %s: %w", metaConfState, err)
		}
	}
	return a, nil
}

// writeApplied stores index and term. As in etcd, 0 means not known and is not stored.
func writeApplied(meta *bolt.Bucket, index, term uint64) error {
	if index == 0 {
		return nil
	}
	if err := meta.Put([]byte(metaIndex), binary.BigEndian.AppendUint64(nil, index)); err != nil || term == 0 {
		return err
	}
	return meta.Put([]byte(metaTerm), binary.BigEndian.AppendUint64(nil, term))
}

// readCompactRev returns a compact revision of the meta bucket, or -1 when there was no compaction.
func readCompactRev(tx *bolt.Tx, name string) (int64, error) {
	v := tx.Bucket(bucketMeta.name()).Get([]byte(name))
	if len(v) == 0 {
		return -1, nil
	}
	r, err := parseRevKey(v)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	return r.main, nil
}

func compactRevValue(main int64) []byte { return revision{main: main}.appendKey(nil) }
