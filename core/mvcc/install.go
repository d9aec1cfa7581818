package mvcc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	bolt "go.etcd.io/bbolt"
)

// Replacement is a store's file that another member has sent, read and indexed as far as Install needs it, but not served
// yet. It is made apart from Install because reading takes long and may find the file damaged: the store goes on meanwhile, and
// the log is given up for the file only when it is known to be good.
//
// Its methods may be called by one goroutine at a time.
type Replacement struct{ *contents }

// Load opens the file at path to take the store's place. It must be a Snapshot of a store of the same history, as of the entry
// at index, which is of term; any other is refused. The Replacement must be given to Install or closed. Load takes as long and
// as much memory as Open, unless ctx ends before; the store can be used meanwhile.
func (s *Store) Load(ctx context.Context, path string, index, term uint64) (*Replacement, error) {
	if _, err := os.Stat(path); err != nil { // else an empty one would be made
		return nil, fmt.Errorf("load a store: %w", err)
	}
	db, mapped, err := openFile(path, s.options)
	if err != nil {
		return nil, err
	}
	c, err := readContents(ctx, db, mapped, s.log)
	if err != nil {
		return nil, fmt.Errorf("load store %s: %w", path, err)
	}
	has, newest := c.Applied(), s.Revision()
	switch {
	case has.Index != index || has.Term != term:
		err = fmt.Errorf("it is as of entry %d of term %d, not %d of term %d", has.Index, has.Term, index, term)
	case c.state.rev < newest:
		err = fmt.Errorf("its newest revision is %d, and the store to be replaced has %d: they are not of one history", c.state.rev, newest)
	default:
		return &Replacement{c}, nil
	}
	return nil, fmt.Errorf("load store %s: %w", path, errors.Join(err, c.Close()))
}

// Applied is how far the raft log is in the file.
func (r *Replacement) Applied() Applied { return r.contents.Applied() }

// Revision is the newest revision in the file.
func (r *Replacement) Revision() int64 { return r.state.rev }

// CompactRevision is as Store.CompactRevision.
func (r *Replacement) CompactRevision() int64 { return r.state.compact }

// ForEach is as Store.ForEach.
func (r *Replacement) ForEach(b Bucket, fn func(k, v []byte) error) error {
	return r.state.tx.forEach(b, fn)
}

// LeasedKeys is as Store.LeasedKeys.
func (r *Replacement) LeasedKeys(fn func(key []byte, lease int64) error) error {
	return r.state.leasedKeys(fn)
}

// Close lets go of the file, which stays where it is.
func (r *Replacement) Close() error { return r.contents.Close() }

// Install makes r the store's file, durably, and serves it from then on. Who reads what was there before, with a View, a
// Snapshot or a call under way, reads on undisturbed. What was applied and not committed is dropped: r is further on. Compactions
// that were going on are given up, and those who wait for them are told when the one that is unfinished in r, if any, is done.
//
// It is for the goroutine that writes, between two entries. Install takes r over, whether it succeeds or not. When it fails the
// store is as it was, or is reported by Failed, and the file is either where it was or in the store's place. On Windows, where a
// file that is open cannot be replaced, it fails with errors.ErrUnsupported: the file can be renamed when the store is closed.
func (s *Store) Install(r *Replacement) error {
	if runtime.GOOS == "windows" {
		return errors.Join(fmt.Errorf("install store: %w on windows while it is open", errors.ErrUnsupported), r.Close())
	}
	installed := false
	err := s.committer.do(func() (err error) {
		installed, err = s.committer.install(r.contents)
		return err
	})
	if !installed {
		err = errors.Join(err, r.Close())
	}
	if err != nil {
		return fmt.Errorf("install store %s: %w", s.path, err)
	}
	return nil
}

// install puts fresh in the place of the file. It returns whether it is there.
func (c *committer) install(fresh *contents) (installed bool, err error) {
	s := c.s
	s.writing.Lock()
	err = s.failure
	s.writing.Unlock()
	if err == nil {
		err = os.Rename(fresh.db.Path(), s.path)
	}
	if err != nil {
		return false, err
	}
	// From here on the new file is the store. It is locked already, as it has been open since it was loaded.
	tx := s.state.Load().tx
	before := s.Revision()
	s.serve(fresh)
	tx.release()
	c.replace(fresh.db, fresh.mapped)
	s.log.Info("installed a store", "revision", s.Revision(), "revision-before", before, "size", s.Size())
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		// A crash might bring the old file back, without what is committed from now on.
		return true, c.fail(err)
	}
	return true, nil
}

// replace has the committer write to another file, and closes the one before when its readers have ended.
func (c *committer) replace(db *file, mapped int64) {
	s, old := c.s, c.db
	c.db, c.mapped = db, mapped
	s.tasks.Go(func() {
		if err := old.closeUnread(); err != nil {
			s.log.Warn("close the file that was replaced", "err", err)
		}
	})
}

// AppliedIn is how far the raft log is in the store's file at path, which nobody has open for writing. An error wraps ErrLocked
// when somebody has, and ErrDamaged when that is what shows.
func AppliedIn(path string, o Options) (a Applied, err error) {
	err = inspect(path, o.withDefaults(), func(tx *bolt.Tx) (err error) {
		a, err = readApplied(tx)
		return err
	})
	return a, err
}

// inspect calls fn with a transaction that reads the file at path. If it fails, fn's results are void.
func inspect(path string, o Options, fn func(*bolt.Tx) error) error {
	err := guarded(o.Logger, func() error {
		db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: o.LockTimeout})
		if err != nil {
			return err
		}
		err = db.View(func(tx *bolt.Tx) error {
			if tx.Bucket(bucketMeta.name()) == nil {
				return fmt.Errorf("%w: it has no bucket %s", ErrDamaged, bucketMeta)
			}
			return fn(tx)
		})
		return errors.Join(err, db.Close())
	})
	if err != nil {
		return fmt.Errorf("look into store %s: %w", path, lockError(err))
	}
	return nil
}
