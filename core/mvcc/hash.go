package mvcc

import (
	"cmp"
	"fmt"
	"hash"
	"hash/crc32"
	"slices"
	"sync"
	"time"
)

// kvHash is the hash of the revisions up to rev, without those that were gone at compact.
type kvHash struct {
	hash         uint32
	compact, rev int64
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

func (h *hasher) sum() kvHash { return kvHash{h.crc.Sum32(), h.compact, h.rev} }

// hashCache keeps the hashes that compactions computed on their way. As in etcd HashKV at their revision returns
// them, with the compact revision before that compaction: members compare them without computing anything.
type hashCache struct {
	mu     sync.Mutex
	hashes []kvHash // by revision
}

func (c *hashCache) add(h kvHash) {
	const most = 10
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hashes = append(c.hashes, h)
	slices.SortStableFunc(c.hashes, func(a, b kvHash) int { return cmp.Compare(a.rev, b.rev) })
	if len(c.hashes) > most {
		c.hashes = slices.Delete(c.hashes, 0, len(c.hashes)-most)
	}
}

func (c *hashCache) get(rev int64) (kvHash, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hashes {
		if h.rev == rev {
			return h, true
		}
	}
	return kvHash{}, false
}

// HashKV returns the hash of all revisions up to rev (0: the newest), the newest revision, and the compact revision
// and revision that the hash is for. It equals etcd's for the same history. It fails with ErrCompacted or
// ErrFutureRev.
func (s *Store) HashKV(rev int64) (hash uint32, current, compact, hashRev int64, err error) {
	start := time.Now()
	defer func() { s.metrics.hashRev.Observe(time.Since(start).Seconds()) }()
	if h, ok := s.hashes.get(rev); ok {
		return h.hash, s.Revision(), h.compact, h.rev, nil
	}
	v := s.View()
	defer v.Close()
	switch {
	case v.err != nil:
		return 0, 0, 0, 0, v.err
	case rev > 0 && rev < v.state.compact:
		return 0, 0, 0, 0, ErrCompacted
	case rev > v.state.rev:
		return 0, 0, 0, 0, ErrFutureRev
	case rev == 0:
		rev = v.state.rev
	}
	h := newHasher(v.state.compact, rev, v.state.tree, revision.keptByHash)
	err = v.state.walk(revision{}, rev, func(k []byte, r revision, kv []byte) error {
		kept := true
		if r.main <= h.compact {
			key, err := keyOf(kv)
			if err != nil {
				return err
			}
			if h.anyKept {
				kept = keeps(v.state.tree, key, r, rev, revision.keptByHash)
			} else { // what is there when the compaction is done
				kept = keeps(v.state.tree, key, r, h.compact, revision.keptByCompaction)
			}
		}
		h.write(k, r, kv, kept)
		return nil
	})
	if err != nil {
		return 0, 0, 0, 0, fmt.Errorf("hash: %w", err)
	}
	sum := h.sum()
	return sum.hash, v.state.rev, sum.compact, sum.rev, nil
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
