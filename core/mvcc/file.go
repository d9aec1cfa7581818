package mvcc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// bbolt maps the file into memory, and to map more of it has to wait until no read transaction is open. So that a
// commit never waits for readers, more is mapped from the start than the file will need; it costs only address
// space. See committer.grows for what happens when it does not suffice.
const (
	mapAtLeast = 10 << 30 // as etcd
	mapTimes   = 4        // the size of the file
)

// file is an open bbolt file. Reads of it are counted here, because bbolt's own Close, while it waits for one, lets no other end.
type file struct {
	*bolt.DB
	reads sync.WaitGroup // read transactions that are open
}

// closeUnread closes the file when nobody reads it any more. No read may begin after it was called.
func (f *file) closeUnread() error {
	f.reads.Wait()
	return f.Close()
}

// openFile opens or creates a bbolt file and says how many bytes of it are mapped at least. A file that bbolt would not
// survive is refused.
func openFile(path string, o Options) (_ *file, mapped int64, err error) {
	var db *bolt.DB
	size := int64(0)
	if info, err := os.Stat(path); err == nil {
		if info.IsDir() {
			return nil, 0, fmt.Errorf("open store %s: it is a directory", path)
		}
		size = info.Size()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("open store: %w", err)
	}
	mapped = o.mapSize
	if mapped == 0 && mapAhead {
		mapped = max(mapAtLeast, mapTimes*size)
	}
	mapped = max(mapped, size)
	err = guarded(o.Logger, func() error {
		if size > 0 {
			if err := checkPages(path, o); err != nil {
				return err
			}
		}
		db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout:         o.LockTimeout,
			InitialMmapSize: int(mapped),
			MmapFlags:       mmapFlags,
			FreelistType:    bolt.FreelistMapType,
			NoFreelistSync:  true, // it is rebuilt when the file is opened, which reads the file anyway
			NoSync:          o.NoSync,
			NoGrowSync:      o.NoSync,
		})
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("open store %s: %w", path, lockError(err))
	}
	return &file{DB: db}, mapped, nil
}

// lockError is err in the words of this package, if it says that the file is locked.
func lockError(err error) error {
	if errors.Is(err, bolterrors.ErrTimeout) {
		return ErrLocked
	}
	return err
}

// prepareFile makes the buckets that are missing. It commits even if there are none: a process that was killed, or a
// sync that failed, may have left a state that is only in the kernel's memory. The log is cut by what is read from the
// file, so that must be on the disk before anybody relies on it.
func prepareFile(db *file) error {
	return db.Update(func(tx *bolt.Tx) error {
		isNew := tx.Bucket(bucketKey.name()) == nil
		for b := range bucketCount {
			if _, err := tx.CreateBucketIfNotExists(b.name()); err != nil {
				return fmt.Errorf("create bucket %s: %w", b, err)
			}
		}
		if isNew {
			return tx.Bucket(bucketMeta.name()).Put([]byte(metaStorageVersion), []byte(storageVersion))
		}
		return nil
	})
}

// writeBatch puts b into the transaction.
func writeBatch(tx *bolt.Tx, b *batch) error {
	keys := tx.Bucket(bucketKey.name())
	keys.FillPercent = 0.9 // revisions are appended, so pages need little room for more
	for i := range b.changes {
		c := &b.changes[i]
		if err := keys.Put(c.rev.appendKey(make([]byte, 0, maxRevKeyLen)), c.kv); err != nil {
			return fmt.Errorf("put revision %d: %w", c.rev.main, err)
		}
	}
	for _, o := range b.ops {
		bucket := tx.Bucket(o.bucket.name())
		var err error
		if o.remove {
			err = bucket.Delete(o.key)
		} else {
			err = bucket.Put(o.key, o.value)
		}
		if err != nil {
			return fmt.Errorf("change bucket %s: %w", o.bucket, err)
		}
	}
	if err := writeApplied(tx.Bucket(bucketMeta.name()), b.index, b.term); err != nil {
		return fmt.Errorf("write applied index: %w", err)
	}
	return nil
}

// tempPrefix begins the names of the files that Defragment writes, next to the store's.
func tempPrefix(path string) string { return filepath.Base(path) + ".tmp." }

// removeTemps deletes what a defragmentation left that was cut short.
func removeTemps(path string) error {
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), tempPrefix(path)) {
			continue
		}
		if err := os.Remove(filepath.Join(filepath.Dir(path), f.Name())); err != nil {
			return fmt.Errorf("remove what is left of a defragmentation: %w", err)
		}
	}
	return nil
}
