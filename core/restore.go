package core

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/coreos/go-semver/semver"

	"weir/core/mvcc"
	"weir/core/wal"
)

// A restored cluster begins with what a snapshot has: keys with their history, leases, users and roles, alarms. Its members are new
// ones, who they are is computed as for any new cluster. Each begins as a founder does, with a log that is empty and a store that is
// as of firstIndex; only that this store has something in it.

// SavedSnapshot is a file that was taken with `etcdctl snapshot save` from a weir core or from etcd, and how it is to be used.
type SavedSnapshot struct {
	Path string
	// SkipHashCheck takes a file whose checksum is wrong, or that has none, because it was copied from a data directory.
	SkipHashCheck bool
	// BumpRevision raises the newest revision, and compacts at it, so that for clients revisions never go back. It should be more
	// than the cluster may have made since the snapshot. 0 leaves the revision as it is.
	BumpRevision int64
}

// SnapshotStatus is what can be said of a saved snapshot without restoring it.
type SnapshotStatus = mvcc.FileStatus

// Status reads all of the file, whose checksum does not count. It keeps the names of all keys in memory.
func (s SavedSnapshot) Status() (SnapshotStatus, error) {
	info, err := os.Stat(s.Path)
	switch {
	case err != nil:
		return SnapshotStatus{}, err
	case !info.Mode().IsRegular():
		return SnapshotStatus{}, fmt.Errorf("%s is not a file", s.Path)
	}
	return mvcc.StatusOf(s.Path, mvcc.Options{})
}

// Restore makes the data directory of one of the first members of a new cluster, for Open, from a snapshot. Of cfg it takes what
// says who the member is and where its data goes. It has to be called for each member with the same snapshot and the same
// members: clusters from different snapshots have different ids, so members of which one has another past never come together.
// (At etcd they do, and differ for ever.) When it fails, or ctx ends, nothing is left, and when the process is killed Open refuses
// what is.
func Restore(ctx context.Context, cfg Config, from SavedSnapshot) (err error) {
	if cfg, err = cfg.withDefaults(); err != nil {
		return err
	}
	self, err := ownEntry(cfg.InitialCluster, cfg.Name)
	if err != nil {
		return err
	}
	own := cfg.InitialCluster[self].PeerURLs
	if err := checkOwnURLs(ctx, own, cfg.PeerURLs); err != nil {
		return err
	}
	for _, dir := range []string{cfg.DataDir, cfg.WALDir} {
		if err := mustBeEmpty(dir); err != nil {
			return err
		}
	}
	file, err := os.Open(from.Path)
	if err != nil {
		return fmt.Errorf("open the snapshot: %w", err)
	}
	defer file.Close()
	r := restoration{
		cfg: cfg, from: from, memberDir: filepath.Join(cfg.DataDir, "member"),
		member: newMember(cfg.InitialCluster, own, cfg.ClusterToken),
	}
	return r.run(ctx, file)
}

// restoration is one Restore.
type restoration struct {
	cfg       Config
	from      SavedSnapshot
	memberDir string
	member    member
}

// run makes the files while it holds the lock of the data directory, and removes them if that fails.
func (r *restoration) run(ctx context.Context, file *os.File) (err error) {
	hadDir, err := exists(r.cfg.DataDir)
	if err != nil {
		return dirError(r.cfg.DataDir, err)
	}
	if err := r.cfg.LogFS.MkdirAll(r.memberDir); err != nil {
		return dirError(r.cfg.DataDir, err)
	}
	lock, err := lockFile(filepath.Join(r.memberDir, "lock"))
	if err != nil {
		return dirError(r.cfg.DataDir, err)
	}
	hasStore, err := exists(filepath.Join(r.memberDir, storeName)) // of a member that was started a moment ago
	if err != nil || hasStore {
		return dirError(r.cfg.DataDir, errors.Join(err, lock.Close(), fs.ErrExist))
	}
	defer func() {
		err = errors.Join(err, lock.Close())
		if err != nil {
			err = errors.Join(err, os.RemoveAll(r.memberDir), removeWithin(r.cfg.WALDir))
			if !hadDir {
				err = errors.Join(err, os.Remove(r.cfg.DataDir))
			}
		}
	}()
	return r.makeFiles(ctx, file)
}

// makeFiles makes the store under another name, which is what tells Open that it is not done, then the log.
func (r *restoration) makeFiles(ctx context.Context, file *os.File) error {
	path := filepath.Join(r.memberDir, restoringName)
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return dirError(r.cfg.DataDir, err)
	}
	if err := r.cfg.LogFS.SyncDir(r.memberDir); err != nil { // or after a loss of power an empty member might be made here
		return errors.Join(dirError(r.cfg.DataDir, err), to.Close())
	}
	sum, err := copySnapshot(ctx, to, file, r.from.SkipHashCheck)
	if err = errors.Join(err, to.Close()); err != nil {
		return fmt.Errorf("restore %s: %w", r.from.Path, err)
	}
	r.member.distinguish(sum, r.from.BumpRevision)
	revision, err := r.makeStore(path)
	if err != nil {
		return fmt.Errorf("restore %s: %w", r.from.Path, err)
	}
	if err := r.makeLog(); err != nil {
		return err
	}
	if err := os.Rename(path, filepath.Join(r.memberDir, storeName)); err != nil {
		return dirError(r.cfg.DataDir, err)
	}
	if err := r.cfg.LogFS.SyncDir(r.memberDir); err != nil {
		return dirError(r.cfg.DataDir, err)
	}
	r.cfg.Logger.Info("restored a member", "snapshot", r.from.Path, "data-dir", r.cfg.DataDir, "name", r.cfg.Name, "member-id", idString(r.member.ID),
		"cluster-id", idString(r.member.ClusterID), "members", len(r.cfg.InitialCluster), "revision", revision)
	return nil
}

// distinguish gives the cluster an id that says what it begins with: the content of a snapshot, and by how much its revision was raised.
func (m *member) distinguish(snapshot [sha256.Size]byte, bump int64) {
	b := binary.BigEndian.AppendUint64(nil, m.ClusterID)
	b = binary.BigEndian.AppendUint64(append(b, snapshot[:]...), uint64(bump))
	sum := sha1.Sum(b)
	m.ClusterID = binary.BigEndian.Uint64(sum[:8])
}

// makeStore makes the copy of a snapshot at path the store of a new member, and returns its newest revision.
func (r *restoration) makeStore(path string) (revision int64, err error) {
	store, err := mvcc.Open(path, r.cfg.storeOptions())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := checkLayout(store); err != nil {
		return 0, err
	}
	if _, err := loadAgreement(store, r.cfg.level); err != nil {
		return 0, err
	}
	stale := map[mvcc.Bucket][][]byte{}
	for _, b := range []mvcc.Bucket{mvcc.BucketMembers, mvcc.BucketMembersRemoved} {
		err := store.ForEach(b, func(k, _ []byte) error {
			stale[b] = append(stale[b], k)
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	tx := store.Begin(firstIndex, firstTerm)
	for b, keys := range stale {
		for _, k := range keys {
			tx.Delete(b, k)
		}
	}
	tx.Delete(mvcc.BucketCluster, downgradeKey)
	tx.SetStorageVersion(layoutVersion)
	err = r.member.beginCluster(tx)
	if err == nil && r.from.BumpRevision != 0 {
		err = tx.Skip(r.from.BumpRevision)
	}
	if err != nil {
		tx.Fail(err)
		return 0, err
	}
	tx.End()
	return store.Revision(), store.Commit()
}

// checkLayout refuses what a later etcd has written.
func checkLayout(store *mvcc.Store) error {
	text, err := store.StorageVersion()
	if err != nil || text == "" {
		return err
	}
	v, err := semver.NewVersion(text)
	if err != nil {
		return fmt.Errorf("read the version of its layout: %w", err)
	}
	if known := semver.New(layoutVersion); v.Major != known.Major || v.Minor > known.Minor {
		return fmt.Errorf("it has the layout of etcd %s, and this weir knows those up to %s: take one from an etcd of that version", text, layoutVersion)
	}
	return nil
}

// makeLog makes the member's log.
func (r *restoration) makeLog() error {
	// As a founder whose first state has been made: it must not be made again.
	r.member.Founders, r.member.Restored = nil, true
	metadata, err := r.member.encode()
	if err != nil {
		return err
	}
	log, err := wal.Create(r.cfg.WALDir, metadata, wal.Options{FS: r.cfg.LogFS, Logger: r.cfg.Logger})
	if err != nil {
		return logDirError(fmt.Errorf("make the log: %w", err))
	}
	return log.Close()
}

// checkRestored refuses a member that was restored again, in place of data that it had in the same cluster and that is lost: it would
// have forgotten how it has voted and what it said it had. Once it has a log there is nothing to ask.
func (n *Node) checkRestored(recovered *wal.Recovered) error {
	if !n.member.Restored || recovered.HardState.GetTerm() != 0 || len(recovered.Entries) > 0 || recovered.FirstIndex > 1 {
		return nil
	}
	var others []string
	for _, r := range n.members.records() {
		if r.ID != n.member.ID {
			others = append(others, r.PeerURLs...)
		}
	}
	known, err := n.askForMembers(others, foundTimeout)
	switch {
	case errors.Is(err, errNoAnswer): // so it is the first one, or they are down
		return nil
	case err != nil:
		return err
	case known.id == n.member.ClusterID && known.hasStarted(n.member.ID):
		return fmt.Errorf("data directory %s was restored for a member that has gone on since: remove member %s from the cluster, add it again and start it with an empty directory and --initial-cluster-state=existing",
			n.cfg.DataDir, idString(n.member.ID))
	}
	return nil
}

// A saved snapshot is a bbolt file with its SHA-256 behind it, which is told by the length: that of the file is a multiple of a page.
const snapshotSector = 512

// copySnapshot copies a saved snapshot without its checksum, and returns that.
func copySnapshot(ctx context.Context, to io.Writer, from *os.File, skipCheck bool) (sum [sha256.Size]byte, err error) {
	info, err := from.Stat()
	if err != nil {
		return sum, err
	}
	size, hasSum := info.Size(), info.Size()%snapshotSector == sha256.Size
	switch {
	case !info.Mode().IsRegular():
		return sum, errors.New("it is not a file")
	case size < snapshotSector:
		return sum, errors.New("it is too short to be a snapshot")
	case hasSum:
		size -= sha256.Size
	case !skipCheck:
		return sum, errors.New("it has no checksum at its end: it is cut off, or a copy of a store's file, for which there is --skip-hash-check")
	}
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(to, h), io.LimitReader(contextReader{ctx, from}, size)); err != nil {
		return sum, fmt.Errorf("copy it: %w", err)
	}
	h.Sum(sum[:0])
	if hasSum && !skipCheck {
		var wanted [sha256.Size]byte
		if _, err := io.ReadFull(from, wanted[:]); err != nil {
			return sum, fmt.Errorf("read its checksum: %w", err)
		}
		if !bytes.Equal(wanted[:], sum[:]) {
			return sum, fmt.Errorf("%w: its SHA-256 is %x, and %x is what it should be", mvcc.ErrDamaged, sum, wanted)
		}
	}
	return sum, nil
}

// contextReader ends with a context.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}

// mustBeEmpty refuses a directory with something in it, so that nothing is lost.
func mustBeEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look into directory %s: %w", dir, err)
	case len(entries) > 0:
		return fmt.Errorf("directory %s is not empty: a snapshot is restored into a new one", dir)
	}
	return nil
}

// removeWithin removes what is in a directory, but not that, which may be where a disk is mounted.
func removeWithin(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}
