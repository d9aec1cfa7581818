package core

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"weir/core/consensus"
)

// incoming is the snapshot that is being received or installed. There is one at a time.
type incoming struct {
	mu   sync.Mutex // guards all below
	busy bool
	read *replacement // what was read of it, until it is installed; nil if it need not be
}

func (i *incoming) begin() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.busy {
		return false
	}
	i.busy = true
	return true
}

func (i *incoming) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.busy = false
}

func (i *incoming) keep(r *replacement) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.read = r
}

// take returns what keep was given, for who installs it.
func (i *incoming) take() *replacement {
	i.mu.Lock()
	defer i.mu.Unlock()
	r := i.read
	i.read = nil
	return r
}

// discard lets go of what will not be installed.
func (i *incoming) discard() error {
	if r := i.take(); r != nil {
		return r.file.Close()
	}
	return nil
}

var errIncoming = errors.New("another snapshot is being received or installed")

func (n *Node) incomingPath() string { return filepath.Join(n.cfg.DataDir, "member", incomingName) }

// receiveSnapshot stores a snapshot that another member sends, and hands its message to raft, which has it installed or does not
// need it.
func (n *Node) receiveSnapshot(ctx context.Context, m *raftpb.Message, size int64, body io.Reader) error {
	if !n.incoming.begin() {
		return errIncoming
	}
	from, at := m.GetFrom(), m.GetSnapshot().GetMetadata()
	read, err := n.takeIn(ctx, at, size, body)
	if err != nil {
		n.incoming.end()
		err = fmt.Errorf("take in the snapshot of index %d: %w", at.GetIndex(), err)
		if _, isMember := n.members.get(from); isMember && errors.Is(err, errOldWeir) {
			n.fail(err)
		} else if ctx.Err() == nil {
			n.logger.Error("a snapshot is refused", "from", idString(from), "bytes", size, "error", err)
		}
		return err
	}
	n.incoming.keep(read)
	n.logger.Info("received a snapshot", "from", idString(from), "index", at.GetIndex(), "bytes", size)
	stepped := make(chan error, 1)
	n.raft.inbox.put(func(*consensus.Machine) { n.raft.received = &receivedSnapshot{m, stepped} })
	select {
	case err := <-stepped:
		return err
	case <-ctx.Done(): // it is stored, and will be stepped
		return ctx.Err()
	case <-n.stopped:
		return errStopping
	}
}

// takeIn stores a snapshot, if there is room for it, and reads it, unless raft will not need it.
func (n *Node) takeIn(ctx context.Context, at *raftpb.SnapshotMetadata, size int64, body io.Reader) (*replacement, error) {
	if room, known := n.disk.room(); known && size > room {
		return nil, fmt.Errorf("it has %d bytes, and the disk of %s has room for %d: the rest is reserved for writes", size, n.cfg.DataDir, max(room, 0))
	}
	path := n.incomingPath()
	if err := storeIncoming(path, size, body, n.cfg.LogFS.SyncDir); err != nil {
		return nil, err
	}
	if at.GetIndex() <= n.committed.Load() {
		return nil, nil
	}
	return n.readNeeded(ctx, path, at)
}

// readNeeded reads the snapshot in the file at path. If the member has come as far by itself meanwhile, there is nothing wrong with one
// that does not fit: raft will not need it.
func (n *Node) readNeeded(ctx context.Context, path string, at *raftpb.SnapshotMetadata) (*replacement, error) {
	read, err := n.readSnapshot(ctx, path, at)
	switch {
	case err == nil:
		return read, nil
	case at.GetIndex() <= n.committed.Load():
		return nil, nil
	}
	return nil, errors.Join(err, os.Remove(path))
}

// storeIncoming writes a snapshot so that it appears as a whole, and durably.
func storeIncoming(path string, size int64, body io.Reader, syncDir func(string) error) (err error) {
	part := path + partSuffix
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	written, err := io.Copy(f, io.LimitReader(body, size+1))
	if err == nil && written != size {
		err = fmt.Errorf("%d bytes have come of it, not %d", written, size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return syncDir(filepath.Dir(path))
}

// receivedSnapshot is one that is stored, and that raft has not heard of.
type receivedSnapshot struct {
	message *raftpb.Message
	stepped chan<- error
}

// stepSnapshot hands a snapshot that has been received to raft, as soon as it can take it. Called by run.
func (n *Node) stepSnapshot() {
	s, m := n.raft.received, n.raft.machine
	if s == nil || !m.IsSettled() || !n.cutter.turn.tryTake() {
		return
	}
	n.raft.received = nil
	err := m.Step(s.message)
	m.Advance()
	if m.IsInstalling() {
		s.stepped <- err
		return
	}
	n.cutter.turn.end() // raft has had what is in it
	n.goroutines.Go(func() {
		err = errors.Join(err, n.incoming.discard(), os.Remove(n.incomingPath()))
		n.incoming.end()
		s.stepped <- err
	})
}
