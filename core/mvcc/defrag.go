package mvcc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Defragment rewrites the file without its free pages. Reads go on meanwhile, in the old file until the new one is
// there; entries are gathered in memory, so Begin may wait. When it fails, or the machine does, the old file is as it
// was; if that turns out to be damaged, nothing more is committed. On Windows, where a file that is open cannot be replaced, it fails with errors.ErrUnsupported.
func (s *Store) Defragment() error {
	if runtime.GOOS == "windows" {
		return fmt.Errorf("defragment: %w on windows", errors.ErrUnsupported)
	}
	return s.committer.do(s.committer.defragment)
}

func (c *committer) defragment() error {
	s := c.s
	if err := c.commit(nil); err != nil {
		return err
	}
	s.metrics.defragmenting.Set(1)
	defer s.metrics.defragmenting.Set(0)
	before, start := s.Size(), time.Now()
	var fresh *file
	var mapped int64
	err := guarded(s.log, func() (err error) {
		fresh, mapped, err = c.rewrite()
		return err
	})
	switch {
	case errors.Is(err, ErrDamaged): // what is half written stays open, and is removed when the store is opened again
		return c.fail(fmt.Errorf("defragment %s: %w", s.path, err))
	case err != nil:
		return fmt.Errorf("defragment: %w", err)
	}
	tx, err := openReadTx(fresh)
	if err == nil {
		err = os.Rename(fresh.Path(), s.path)
	}
	if err != nil {
		if tx != nil {
			tx.release()
		}
		return fmt.Errorf("defragment: %w", errors.Join(err, discard(fresh)))
	}
	// From here on the new file is the store. It is locked already, as it has been open since it was made.
	s.measure(tx)
	s.install(tx).release()
	c.replace(fresh, mapped)
	s.metrics.defrag.Observe(time.Since(start).Seconds())
	s.log.Info("defragmented", "size-before", before, "size", s.Size())
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		// A crash might bring the old file back, without what is committed from now on.
		return c.fail(fmt.Errorf("defragment: %w", err))
	}
	return nil
}

// rewrite copies the file into a new one next to it, which is open and synced when it returns.
func (c *committer) rewrite() (fresh *file, mapped int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(c.s.path), tempPrefix(c.s.path)+"*")
	if err != nil {
		return nil, 0, err
	}
	path := f.Name()
	if err := f.Close(); err != nil {
		return nil, 0, errors.Join(err, os.Remove(path))
	}
	o := c.s.options
	o.mapSize = max(o.mapSize, c.mapped)
	fresh, mapped, err = openFile(path, o)
	if err != nil {
		return nil, 0, errors.Join(err, os.Remove(path))
	}
	const bytesPerTx = 1 << 20
	fresh.NoSync = true // once at the end is enough
	err = bolt.Compact(fresh.DB, c.db.DB, bytesPerTx)
	if err == nil && !o.NoSync {
		err = fresh.Sync()
	}
	fresh.NoSync = o.NoSync
	if err != nil {
		return nil, 0, errors.Join(err, discard(fresh))
	}
	return fresh, mapped, nil
}

// discard closes and deletes a file that will not be used.
func discard(db *file) error {
	path := db.Path()
	return errors.Join(db.Close(), os.Remove(path))
}

// syncDir makes what was renamed in a directory last.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
