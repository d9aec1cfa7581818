package mvcc

import (
	"fmt"
	"hash/crc32"
	"math"

	bolt "go.etcd.io/bbolt"

	"weir/grpcapi/wire"
)

// What concerns a file in which a user keeps a snapshot: a copy of a Store's file, of this package's or of etcd's.

// FileStatus is what can be said of a file without serving it.
type FileStatus struct {
	Hash     uint32 // CRC-32C of all that is in it, as `etcdutl snapshot status` computes it
	Revision int64  // the newest that a key has; 0 if there is no key
	Keys     int    // that have a value
	Size     int64  // of the bbolt file, in bytes, without what was appended to it
	Version  string // of the layout; empty before etcd 3.6
}

// StatusOf reads all of the file at path, which nobody has open for writing. It keeps the names of all keys in memory. An error
// wraps ErrLocked when somebody has the file open, and ErrDamaged when that is what shows.
func StatusOf(path string, o Options) (s FileStatus, err error) {
	o = o.withDefaults()
	if err := guarded(o.Logger, func() error { return checkPages(path, o) }); err != nil {
		return FileStatus{}, fmt.Errorf("look into store %s: %w", path, lockError(err))
	}
	err = inspect(path, o, func(tx *bolt.Tx) error {
		s.Size, s.Version = tx.Size(), readVersion(tx)
		return s.read(tx)
	})
	return s, err
}

func (s *FileStatus) read(tx *bolt.Tx) error {
	crc := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	alive := map[string]struct{}{}
	root := tx.Cursor()
	for name, _ := root.First(); name != nil; name, _ = root.Next() {
		bucket := tx.Bucket(name)
		if bucket == nil {
			return fmt.Errorf("%w: %q is not a bucket", ErrDamaged, name)
		}
		crc.Write(name)
		holdsKeys := string(name) == bucketKey.String()
		cursor := bucket.Cursor()
		for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
			crc.Write(k)
			crc.Write(v)
			if !holdsKeys {
				continue
			}
			r, err := parseRevKey(k)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			var kv wire.KeyValue
			if err := kv.Unmarshal(v); err != nil {
				return fmt.Errorf("%w: revision %d.%d: %w", ErrDamaged, r.main, r.sub, err)
			}
			s.Revision = r.main
			if r.deleted() {
				delete(alive, string(kv.Key))
			} else {
				alive[string(kv.Key)] = struct{}{}
			}
		}
	}
	s.Hash, s.Keys = crc.Sum32(), len(alive)
	return nil
}

// readVersion returns the version of the layout, empty if the file does not say it.
func readVersion(tx *bolt.Tx) string {
	return string(tx.Bucket(bucketMeta.name()).Get([]byte(metaStorageVersion)))
}

// StorageVersion is the version of etcd whose layout the file has; empty before etcd 3.6, which did not say it.
func (s *Store) StorageVersion() (string, error) {
	st, err := s.acquire()
	if err != nil {
		return "", err
	}
	defer st.tx.release()
	return readVersion(st.tx.tx), nil
}

// maxRevision is the newest revision that Skip may reach: it leaves enough for all that is to come.
const maxRevision = math.MaxInt64 / 2

// Skip makes the newest revision one that is higher by n, which no key has, and compacts at it: what clients remember from a time
// that the file knows nothing of is then in a past that is given up, and no revision has two meanings. n is at least 1.
//
// etcdutl writes an empty record at that revision, which is a key without a name from then on. Here the compaction says which
// revision it is, to etcd 3.6 and later too.
func (e *Entry) Skip(n int64) error {
	newest := e.s.Revision()
	if n < 1 || n > maxRevision-newest {
		return fmt.Errorf("raise the revision %d by %d: it may become at most %d", newest, n, int64(maxRevision))
	}
	e.s.publish(func(st *state) { st.rev += n })
	_, err := e.Compact(newest + n)
	return err
}
