package core

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/raft/v3/raftpb"

	"weir/core/auth"
	"weir/core/lease"
	"weir/core/mvcc"
	"weir/core/wal"
)

// A snapshot that another member has sent takes the place of the store and of the log:
//
//  1. Its file is in the data directory, whole and durable, and all of it is read, before raft hears of it: nothing is given up for one
//     that is damaged or is no store at all, and who has sent that is refused.
//  2. When raft asks for it, the log is replaced: from then on it says that the snapshot stands for its beginning.
//  3. The file takes the store's place, and what is in memory of the store is replaced by what was read. Nobody has the rights of one
//     state in the other; see auth.Replacement.
//
// A crash before 2 leaves the member as it was, with a file that the log does not know of, which is removed. After a crash between
// 2 and 3 the log has a snapshot that the store has not come to, and the file is put in its place at the next start.

// stored is what the store holds besides the history of keys, and of which a part is kept in memory. It is read from the store,
// and from what takes its place.
type stored interface {
	ForEach(b mvcc.Bucket, fn func(k, v []byte) error) error
	LeasedKeys(fn func(key []byte, lease int64) error) error
}

// cutOff is what is read until over gives an error.
type cutOff struct {
	stored
	over func() error
}

func (c cutOff) ForEach(b mvcc.Bucket, fn func(k, v []byte) error) error {
	return c.stored.ForEach(b, func(k, v []byte) error { return cmp.Or(c.over(), fn(k, v)) })
}

func (c cutOff) LeasedKeys(fn func(key []byte, lease int64) error) error {
	return c.stored.LeasedKeys(func(key []byte, lease int64) error { return cmp.Or(c.over(), fn(key, lease)) })
}

// replacement is a snapshot that has been read, and what puts it in the place of what is in memory.
type replacement struct {
	file  *mvcc.Replacement
	users *auth.Replacement
	adopt func() // all but the users
}

// installSnapshot installs what was read of a snapshot, and makes hs, if it is not nil, durable with it. The member's state is then that
// of the snapshot; who waits for its index must be told. The apply goroutine calls it, when all entries before are applied, and
// nothing is appended to the log until it returns. An error is the end of this member: a restart goes on from where the installation
// was cut off.
func (n *Node) installSnapshot(r *replacement, hs *raftpb.HardState) error {
	at, revision, compacted := r.file.Applied(), r.file.Revision(), r.file.CompactRevision()
	if err := n.log.Replace(at.Index, at.Term, hs); err != nil {
		return errors.Join(err, r.file.Close())
	}
	if r.users.Begin() {
		n.hub.Recheck() // before they are told what is new to whom they may not know any more
	}
	if err := n.store.Install(r.file); err != nil {
		return err
	}
	r.adopt()
	// Watchers go on from where they are, with what the store has now.
	n.hub.Compacted(compacted)
	n.applier.feed.Jump(revision)
	r.users.End() // when nothing of before is told any more
	return nil
}

// readSnapshot reads all of the snapshot in the file at path, and refuses one that is not what its sender says of it. The member goes
// on meanwhile. When ctx ends it reads no more.
func (n *Node) readSnapshot(ctx context.Context, path string, at *raftpb.SnapshotMetadata) (*replacement, error) {
	file, err := n.store.Load(ctx, path, at.GetIndex(), at.GetTerm())
	if err != nil {
		return nil, err
	}
	r := &replacement{file: file}
	if err = at.GetConfState().Equivalent(file.Applied().ConfState); err != nil {
		err = fmt.Errorf("its members are not those that its sender says: %w", err)
	} else {
		r.users, r.adopt, err = n.readStored(cutOff{file, ctx.Err})
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return r, nil
}

// readStored reads what is kept in memory of the store, and returns what puts it in the place of what is there.
func (n *Node) readStored(file stored) (users *auth.Replacement, adopt func(), err error) {
	alarms, err := loadAlarms(file)
	if err != nil {
		return nil, nil, err
	}
	members, err := loadMembers(file)
	if err != nil {
		return nil, nil, err
	}
	version, err := loadClusterVersion(file)
	if err != nil {
		return nil, nil, err
	}
	agreement, err := loadAgreement(file, n.cfg.level)
	if err != nil {
		return nil, nil, err
	}
	leases, err := readLeases(file, n.cfg)
	if err != nil {
		return nil, nil, err
	}
	records, err := authRecords(file)
	if err != nil {
		return nil, nil, err
	}
	users, err = n.auth.Reload(records)
	if err != nil {
		return nil, nil, err
	}
	return users, func() {
		n.alarms.replace(alarms)
		n.members.replace(members)
		n.version.replace(version)
		n.agreement.replace(agreement)
		n.leases.Reset(leases)
		clear(n.applier.guard.writers) // what hangs on a lease may be another's now
		n.cutter.entries, n.cutter.bytes = 0, 0
	}, nil
}

// readLeases reads the leases and what hangs on them.
func readLeases(file stored, cfg Config) (*lease.Set, error) {
	set := lease.NewSet()
	err := file.ForEach(mvcc.BucketLease, func(_, v []byte) error {
		record, err := lease.ParseRecord(v)
		if err != nil {
			return err
		}
		return set.Add(record)
	})
	if err != nil {
		return nil, fmt.Errorf("load the leases: %w", err)
	}
	err = file.LeasedKeys(func(key []byte, id int64) error {
		// A key may name a lease that is gone when an etcd that had this bug made the data; it then stays.
		if err := set.Attach(id, key); err != nil {
			cfg.Logger.Warn("a key names a lease that does not exist", "lease", idString(uint64(id)))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("load the leases: %w", err)
	}
	return set, nil
}

// finishInstall does at start what a crash may have left of an installation. The store and the log are open; the store may be
// another one when it returns.
func (n *Node) finishInstall(recovered *wal.Recovered) error {
	path, snapshot := n.incomingPath(), recovered.Snapshot
	if snapshot.Index <= n.store.Applied().Index {
		return removeIncoming(path) // the log does not know of it
	}
	has, err := mvcc.AppliedIn(path, n.cfg.storeOptions())
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the store or the log is not the right one, which is found when they are compared
	}
	if err != nil {
		return fmt.Errorf("finish the installation of a snapshot: %w", err)
	}
	if has.Index != snapshot.Index || has.Term != snapshot.Term {
		return fmt.Errorf("finish the installation of a snapshot: %s is of entry %d of term %d, and the log wants one of entry %d of term %d: restore the whole data directory from one backup, or remove this member and add it again",
			path, has.Index, has.Term, snapshot.Index, snapshot.Term)
	}
	n.logger.Info("finishing the installation of a snapshot", "index", snapshot.Index, "term", snapshot.Term)
	store := filepath.Join(filepath.Dir(path), storeName)
	if err := n.store.Close(); err != nil {
		return fmt.Errorf("finish the installation of a snapshot: %w", err)
	}
	n.store = nil
	if err := os.Rename(path, store); err != nil {
		return fmt.Errorf("finish the installation of a snapshot: %w", err)
	}
	if err := n.cfg.LogFS.SyncDir(filepath.Dir(store)); err != nil {
		return fmt.Errorf("finish the installation of a snapshot: %w", err)
	}
	return n.openStore(store)
}

func removeIncoming(path string) error {
	for _, name := range []string{path, path + partSuffix} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove a snapshot that was not installed: %w", err)
		}
	}
	return nil
}
