package mvcc

import (
	"cmp"
	"context"
	"fmt"
	"hash"
	"hash/crc32"
	"slices"
	"sync"
	"time"
)

// KVHash is the hash of all revisions up to one. Two of them can be compared if they differ in nothing but Hash, and both were
// computed (ComputeHash), or both left by compactions (CompactionHashes). Of these two kinds, hashes of the same revisions may differ:
// as at etcd, a tombstone counts as seen for the one and not for the other.
type KVHash struct {
	Hash     uint32
	Compact  int64 // what a compaction to this revision gives up is left out; -1: nothing is
	Revision int64
}

// hasher computes etcd's HashKV (server/storage/mvcc/hash.go, etcd 3.7), which is the same on members of which one
// is still deleting what the other has deleted already: CRC-32C of the key bucket's name and of key and value of each
// revision up to rev, but of those up to the compact revision only what rev still sees. A tombstone at the compact
// revision is left out, because etcd up to 3.5.15 deleted it.
type hasher struct {
	crc          hash.Hash32
	compact, rev int64
	// anyKept: when rev sees nothing at all, etcd takes this for "not known" and leaves out nothing that is there.
	anyKept bool
}

// newHasher makes a hasher; t is the index as of rev or later, rule as in keeps.
func newHasher(compact, rev int64, t *keyTree, rule func(revision, int64) bool) *hasher {
	h := &hasher{crc: crc32.New(crc32.MakeTable(crc32.Castagnoli)), compact: compact, rev: rev}
	h.crc.Write(bucketKey.name())
	t.Scan(func(_ string, k *keyIndex) bool {
		i := k.find(rev)
		h.anyKept = i >= 0 && rule(k.rev(i), rev)
		return !h.anyKept
	})
	return h
}

// keptByHash is the rule for HashKV: unlike a compaction it never counts a tombstone as seen.
func (r revision) keptByHash(int64) bool { return !r.deleted() }

// write adds a revision; kept says whether it counts if it is not above the compact revision. Revisions come in order.
func (h *hasher) write(k []byte, r revision, kv []byte, kept bool) {
	switch {
	case r.main > h.rev:
	case r.main <= h.compact && !kept:
	case r.main == h.compact && r.deleted():
	default:
		h.crc.Write(k)
		h.crc.Write(kv)
	}
}

func (h *hasher) sum() KVHash { return KVHash{h.crc.Sum32(), h.compact, h.rev} }

// hashCache keeps the hashes that compactions computed on their way. As in etcd HashKV at their revision returns
// them, with the compact revision before that compaction: members compare them without computing anything.
type hashCache struct {
	mu     sync.Mutex
	hashes []KVHash // newest revision first
}

func (c *hashCache) add(h KVHash) {
	const most = 10
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hashes = append(c.hashes, h)
	slices.SortStableFunc(c.hashes, func(a, b KVHash) int { return cmp.Compare(b.Revision, a.Revision) })
	if len(c.hashes) > most {
		c.hashes = slices.Delete(c.hashes, most, len(c.hashes))
	}
}

// forget empties the cache: its hashes were of what is no longer served.
func (c *hashCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hashes = nil
}

func (c *hashCache) all() []KVHash {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.hashes)
}

func (c *hashCache) get(rev int64) (KVHash, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hashes {
		if h.Revision == rev {
			return h, true
		}
	}
	return KVHash{}, false
}

// CompactionHashes returns the hashes of the last compactions since the start, ten at most, the newest first. It costs nothing:
// they were computed when the compactions read all that there was anyway.
func (s *Store) CompactionHashes() []KVHash { return s.hashes.all() }

// hashPause is how many revisions are hashed between two looks at whether the hash is still wanted: about a millisecond.
const hashPause = 1024

// HashKV is as ComputeHash, but at the revision of one of CompactionHashes returns that, with its compact revision: etcd's answer.
func (s *Store) HashKV(ctx context.Context, rev int64) (h KVHash, current int64, err error) {
	if h, ok := s.hashes.get(rev); ok {
		return h, s.Revision(), nil
	}
	return s.ComputeHash(ctx, rev)
}

// ComputeHash returns the hash of all revisions up to rev (0: the newest) with the newest compact revision, and the newest revision.
// It equals etcd's for the same history. It fails with ErrCompacted, ErrFutureRev, or when ctx ends.
//
// It reads all of the file up to rev, in one processor, and keeps nobody from writing or reading; for as long as it takes, pages of
// the file that are given up are not used again.
func (s *Store) ComputeHash(ctx context.Context, rev int64) (h KVHash, current int64, err error) {
	start := time.Now()
	defer func() { s.metrics.hashRev.Observe(time.Since(start).Seconds()) }()
	v := s.View()
	defer v.Close()
	switch {
	case v.err != nil:
		return KVHash{}, 0, v.err
	case rev > 0 && rev < v.state.compact:
		return KVHash{}, 0, ErrCompacted
	case rev > v.state.rev:
		return KVHash{}, 0, ErrFutureRev
	case rev == 0:
		rev = v.state.rev
	}
	hash, walked := newHasher(v.state.compact, rev, v.state.tree, revision.keptByHash), 0
	err = v.state.walk(revision{}, rev, func(k []byte, r revision, kv []byte) error {
		if walked++; walked%hashPause == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		kept := true
		if r.main <= hash.compact {
			key, err := keyOf(kv)
			if err != nil {
				return err
			}
			if hash.anyKept {
				kept = keeps(v.state.tree, key, r, rev, revision.keptByHash)
			} else { // what is there when the compaction is done
				kept = keeps(v.state.tree, key, r, hash.compact, revision.keptByCompaction)
			}
		}
		hash.write(k, r, kv, kept)
		return nil
	})
	if err != nil {
		return KVHash{}, 0, fmt.Errorf("hash: %w", err)
	}
	return hash.sum(), v.state.rev, nil
}

// Hash returns etcd's Maintenance.Hash, CRC-32C of everything in the file but the applied index, its term and the
// storage version, and the newest revision.
func (s *Store) Hash() (hash uint32, rev int64, err error) {
	start := time.Now()
	defer func() { s.metrics.hash.Observe(time.Since(start).Seconds()) }()
	if err := s.Commit(); err != nil {
		return 0, 0, fmt.Errorf("hash: %w", err)
	}
	st, err := s.acquire()
	if err != nil {
		return 0, 0, err
	}
	defer st.tx.release()
	crc := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	root := st.tx.tx.Cursor()
	for name, _ := root.First(); name != nil; name, _ = root.Next() {
		crc.Write(name)
		meta := string(name) == bucketMeta.String()
		cursor := st.tx.tx.Bucket(name).Cursor()
		for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
			if key := string(k); meta && (key == metaIndex || key == metaTerm || key == metaStorageVersion) {
				continue
			}
			crc.Write(k)
			crc.Write(v)
		}
	}
	return crc.Sum32(), st.rev, nil
}
