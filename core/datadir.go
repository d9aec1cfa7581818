package core

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"weir/core/mvcc"
	"weir/core/wal"
)

// The data directory:
//
//	DataDir/member/lock       locked by the process that has the directory open
//	DataDir/member/store.db   mvcc's bbolt file
//	DataDir/member/incoming.db a snapshot that another member has sent, which is to take the store's place
//	DataDir/member/restoring.db what is to become the store when Restore has made the log, too
//	DataDir/member/wal/       the log, unless Config.WALDir says otherwise
//
// A new member's store is made first, without any state; then its log, which appears as a whole and says who the member
// is; then the store's first state, which a founder of the cluster makes and a member that joins is sent. So a store that has a state
// has had a log, and without it is of no use: what was acknowledged may be in that alone. Where there is no state yet, a start
// was cut off, and goes on from there.

// Names in DataDir/member. A snapshot that another member sends is incomingName, and before it is whole also has partSuffix.
const (
	storeName     = "store.db"
	incomingName  = "incoming.db"
	restoringName = "restoring.db"
	partSuffix    = ".part"
)

// errLocked says that another process has the data directory.
var errLocked = errors.New("in use by another process")

// whose tells whether there is a store in a data directory, and whether there are files of an etcd. It refuses one that is etcd's alone.
func whose(dir string) (hasStore, hasEtcds bool, err error) {
	hasStore, err = exists(filepath.Join(dir, "member", storeName))
	if err == nil {
		hasEtcds, err = exists(filepath.Join(dir, "member", "snap"))
	}
	switch {
	case err != nil:
		return false, false, dirError(dir, err)
	case hasEtcds && !hasStore:
		return false, false, fmt.Errorf("data directory %s is etcd's, whose files weir does not read: give another --data-dir", dir)
	}
	return hasStore, hasEtcds, nil
}

// openFiles opens or makes what is in the data directory.
func (n *Node) openFiles() (*wal.Recovered, error) {
	dir := n.cfg.DataDir
	memberDir := filepath.Join(dir, "member")
	storePath, logDir := filepath.Join(memberDir, storeName), n.cfg.WALDir
	hasStore, hasEtcds, err := whose(dir)
	if err != nil {
		return nil, err
	}
	hasLog, err := wal.Exists(logDir, n.cfg.LogFS)
	if err != nil {
		return nil, logDirError(err)
	}
	if !hasStore && !hasLog {
		// Before anything is made: a member that is refused for what it was told leaves nothing behind.
		if n.member, err = n.newIdentity(); err != nil {
			return nil, err
		}
	}
	if hasEtcds {
		n.logger.Warn("an etcd was started in this data directory too; what it left can be removed", "path", filepath.Join(memberDir, "snap"))
	}
	if err := n.cfg.LogFS.MkdirAll(memberDir); err != nil {
		return nil, dirError(dir, err)
	}
	if n.lock, err = lockFile(filepath.Join(memberDir, "lock")); err != nil {
		if errors.Is(err, errLocked) {
			return nil, fmt.Errorf("data directory %s is in use by another process: stop it, or give another --data-dir", dir)
		}
		return nil, dirError(dir, err)
	}
	if hasStore, err = exists(storePath); err != nil { // only from here on nobody else makes one
		return nil, dirError(dir, err)
	}
	isPart, err := exists(filepath.Join(memberDir, restoringName))
	if err != nil {
		return nil, dirError(dir, err)
	}
	if isPart {
		return nil, fmt.Errorf("data directory %s is of a snapshot whose restoration was cut off: remove it, and %s, and restore the snapshot again", dir, logDir)
	}
	if hasLog, err = wal.Exists(logDir, n.cfg.LogFS); err != nil {
		return nil, logDirError(err)
	}
	if hasLog && !hasStore {
		return nil, fmt.Errorf("data directory %s has no store for the log in %s: put member/store.db back, or give another directory for both", dir, logDir)
	}
	if err := n.openStore(storePath); err != nil {
		return nil, err
	}
	hasState := n.store.Applied().Index > 0 || n.store.Revision() > 1
	if !hasLog && hasState {
		return nil, fmt.Errorf("data directory %s has a store, and its log is not in %s: put it back or give the right --wal-dir, or another --data-dir", dir, logDir)
	}
	recovered, err := n.openLog(logDir, hasLog)
	if err != nil {
		return nil, err
	}
	if err := n.finishInstall(recovered); err != nil {
		return nil, err
	}
	if n.cfg.CheckToken && n.member.Token != n.cfg.ClusterToken {
		return nil, fmt.Errorf("data directory %s is of another cluster, made with --initial-cluster-token=%s: give that token, or another --data-dir", dir, n.member.Token)
	}
	if err := n.loadState(recovered); err != nil {
		return nil, err
	}
	return recovered, n.checkRestored(recovered)
}

// loadState holds the store's state against the log, and makes the first one if there is none and it is this member's to make.
func (n *Node) loadState(recovered *wal.Recovered) (err error) {
	dir, applied := n.cfg.DataDir, n.store.Applied()
	hasState := applied.Index > 0 || n.store.Revision() > 1
	isUsed := len(recovered.Entries) > 0 || recovered.FirstIndex > 1
	isFounder := len(n.member.Founders) > 0
	switch {
	case !hasState && isUsed:
		return fmt.Errorf("data directory %s has an empty store, and its log is not: put the right member/store.db back", dir)
	case !hasState && isFounder:
		if err := n.beginStore(); err != nil {
			return err
		}
	case !hasState:
		n.logger.Info("this member has yet to be sent what its cluster has", "cluster-id", idString(n.member.ClusterID))
	}
	if n.members, err = loadMembers(n.store); err != nil {
		return err
	}
	switch {
	case n.members.wasRemoved(n.member.ID):
		return ErrRemoved
	case hasState && !isIn(applied.ConfState, n.member.ID):
		return fmt.Errorf("data directory %s has a store that is not of member %s, whose log it has: they are of different clusters; put the right member/store.db back", dir, idString(n.member.ID))
	}
	return nil
}

// isIn tells whether a member is one of a configuration, or was when it was made: its log may say that it has been removed.
func isIn(cs *raftpb.ConfState, id uint64) bool {
	return slices.Contains(cs.GetVoters(), id) || slices.Contains(cs.GetLearners(), id)
}

// dirError says what to do about a data directory that cannot be used.
func dirError(dir string, err error) error {
	return fmt.Errorf("data directory %s: %w: give a --data-dir that is a directory, or can become one, and that this user can write", dir, err)
}

// logDirError is dirError of the log's, whose path err has.
func logDirError(err error) error {
	return fmt.Errorf("%w: give a --wal-dir that is a directory, or can become one, and that this user can write", err)
}

// openStore opens the store, or makes an empty one.
func (n *Node) openStore(path string) (err error) {
	n.store, err = mvcc.Open(path, n.cfg.storeOptions())
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("open the store: %w: let this user read and write it", err)
	case errors.Is(err, mvcc.ErrLocked):
		return fmt.Errorf("open the store: %w: stop that", err)
	case err != nil:
		return fmt.Errorf("open the store: %w: put back a copy of the whole data directory that was made while nothing ran in it, or give another --data-dir", err)
	}
	if free := n.store.Size() - n.store.SizeInUse(); n.cfg.DefragmentAtStart > 0 && free >= n.cfg.DefragmentAtStart {
		n.logger.Info("defragmenting the store", "free-bytes", free)
		if err := n.store.Defragment(); err != nil {
			return fmt.Errorf("defragment the store: %w", err)
		}
	}
	return nil
}

// openLog opens the log, or makes that of a new member, and learns from it who this member is.
func (n *Node) openLog(dir string, exists bool) (recovered *wal.Recovered, err error) {
	o := wal.Options{FS: n.cfg.LogFS, Logger: n.logger}
	if !exists {
		return n.makeLog(dir, o)
	}
	if n.log, recovered, err = wal.Open(dir, o); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	if n.member, err = decodeMember(recovered.Metadata); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return recovered, nil
}

func (n *Node) makeLog(dir string, o wal.Options) (*wal.Recovered, error) {
	if n.member.ID == 0 { // there was a store already
		var err error
		if n.member, err = n.newIdentity(); err != nil {
			return nil, err
		}
	}
	// The name of the store's file must not be lost when the log's is not: they may be on two disks.
	if err := n.cfg.LogFS.SyncDir(filepath.Join(n.cfg.DataDir, "member")); err != nil {
		return nil, fmt.Errorf("make the data directory durable: %w", err)
	}
	metadata, err := n.member.encode()
	if err != nil {
		return nil, err
	}
	if n.log, err = wal.Create(dir, metadata, o); err != nil {
		return nil, logDirError(fmt.Errorf("make the log: %w", err))
	}
	n.logger.Info("made a member", "founds-cluster", len(n.member.Founders) > 0, "members", len(n.cfg.InitialCluster), "cluster-id", idString(n.member.ClusterID), "member-id", idString(n.member.ID))
	return &wal.Recovered{HardState: &raftpb.HardState{}, FirstIndex: 1}, nil
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// firstIndex is the raft index that a new member's store starts at. Every member of a cluster starts from the
// same first state, as if it had received a snapshot of this index and term.
const firstIndex, firstTerm = 1, 1

// beginStore writes the first state.
func (n *Node) beginStore() error {
	tx := n.store.Begin(firstIndex, firstTerm)
	if err := n.member.beginCluster(tx); err != nil {
		tx.Fail(err)
		return err
	}
	tx.End()
	if err := n.store.Commit(); err != nil {
		return fmt.Errorf("write the first state: %w", err)
	}
	return nil
}

// beginCluster writes who is in a new cluster.
func (m member) beginCluster(tx *mvcc.Entry) error {
	confState := &raftpb.ConfState{AutoLeave: proto.Bool(false)}
	for _, r := range m.Founders {
		confState.Voters = append(confState.Voters, r.ID)
		if err := r.put(tx); err != nil {
			return err
		}
	}
	tx.SetConfState(confState)
	tx.Put(mvcc.BucketCluster, clusterVersionKey, []byte(layoutVersion))
	return nil
}

// checkFiles holds the log against the store, and returns the entries that raft is to start with: those that the store does not
// have yet, and those before them that were kept for members that lag.
func (n *Node) checkFiles(recovered *wal.Recovered, applied mvcc.Applied) ([]*raftpb.Entry, error) {
	entries := recovered.Entries
	before := recovered.FirstIndex - 1 // the entry before the first
	last := before + uint64(len(entries))
	switch {
	case before > applied.Index:
		return nil, fmt.Errorf("the log begins after entry %d and the store ends at %d: they are not of the same time; restore both from one backup", before, applied.Index)
	case last < applied.Index && (last != 0 || applied.Index != firstIndex):
		// Nothing is applied that is not synced to the log. A log that never had an entry was made a moment ago.
		return nil, fmt.Errorf("the log ends at entry %d and the store has %d: the log has lost what was written to it; restore both from one backup", last, applied.Index)
	case last < applied.Index:
		return nil, nil
	}
	return entries, nil
}
