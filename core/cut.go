package core

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"weir/core/consensus"
	"weir/core/mvcc"
)

// cutter decides when the log is cut. Owned by the apply goroutine, but for wake.
type cutter struct {
	wake chan struct{} // holds a token when the log should be cut
	// turn is taken by who cuts the log, and from when raft takes a snapshot until that is installed. Else a cut could find the
	// snapshot in the store, and make it raft's in place of an entry of the log that is to be void.
	turn turn
	// told is how far raft has been told that entries are applied. It looks at those behind that before it holds an election.
	told    atomic.Uint64
	entries uint64 // applied since the last cut was asked for
	bytes   int
}

// countForCut asks for a cut once enough entries, or bytes of them, have been applied.
func (n *Node) countForCut(entry *raftpb.Entry) {
	n.cutter.entries++
	n.cutter.bytes += len(entry.GetData())
	if n.cutter.entries < n.cfg.SnapshotCount && n.cutter.bytes < cutBytes {
		return
	}
	n.cutter.entries, n.cutter.bytes = 0, 0
	select {
	case n.cutter.wake <- struct{}{}:
	default:
	}
}

// cut is the goroutine that removes from the log, and from raft's memory, what the store holds for good. The
// store is the snapshot: there is no other file.
func (n *Node) cut() {
	defer n.goroutines.Done()
	for {
		select {
		case <-n.cutter.wake:
			if err := n.cutLog(); err != nil {
				n.fail(fmt.Errorf("cut the log: %w", err))
				return
			}
		case <-n.stopped:
			return
		}
	}
}

// turn is had by one at a time.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits until the turn is free; it tells whether it was before over is closed.
func (t turn) take(over <-chan struct{}) bool {
	select {
	case t <- struct{}{}:
		return true
	case <-over:
		return false
	}
}

// tryTake takes the turn if it is free.
func (t turn) tryTake() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}

func (t turn) end() { <-t }

// cutLog cuts the log now, or after a snapshot that is being installed.
func (n *Node) cutLog() error {
	if !n.cutter.turn.take(n.stopped) {
		return nil
	}
	defer func() {
		n.cutter.turn.end()
		n.raft.inbox.put(func(*consensus.Machine) {}) // a snapshot may wait for that
	}()
	if err := n.store.Commit(); err != nil {
		return err
	}
	// Only what a committed transaction says may be relied on.
	applied := n.store.Applied()
	storage := n.raft.machine.Storage()
	first, err := storage.FirstIndex()
	if err != nil {
		return err
	}
	last, err := storage.LastIndex()
	if err != nil {
		return err
	}
	if applied.Index < first || applied.Index > last { // nothing is new, or raft has yet to hear that what is applied is durable
		return nil
	}
	index, err := n.cutIndex(applied, first)
	if err != nil {
		return err
	}
	index = min(index, n.cutter.told.Load())
	if err := n.log.Cut(index); err != nil {
		return err
	}
	confState := proto.Clone(applied.ConfState).(*raftpb.ConfState)
	if _, err := storage.CreateSnapshot(applied.Index, confState, nil); err != nil && !errors.Is(err, raft.ErrSnapOutOfDate) {
		return err
	}
	if index < first {
		return nil
	}
	n.logger.Debug("cut the log", "index", index, "applied-index", applied.Index)
	if err := storage.Compact(index); err != nil && !errors.Is(err, raft.ErrCompacted) {
		return err
	}
	return nil
}

// maxCatchUpBytes bounds the entries that are kept for members that lag, and maxOutgoingBytes those that are kept while a
// snapshot is on its way to one, who would need the next snapshot else.
const (
	maxCatchUpBytes  = 16 << 20
	maxOutgoingBytes = 512 << 20
)

// cutIndex is up to which entry the log may be cut: what is applied for good, but for what others may still ask for.
func (n *Node) cutIndex(applied mvcc.Applied, first uint64) (uint64, error) {
	if n.isAlone() {
		return applied.Index, nil
	}
	entries, err := n.raft.machine.Storage().Entries(first, applied.Index+1, math.MaxUint64)
	if err != nil {
		return 0, err
	}
	var near, wanted uint64 // near is up to which it may be cut but for snapshots
	var isOutgoing bool
	bytes := 0
	for i := len(entries) - 1; i >= 0; i-- {
		index := entries[i].GetIndex()
		bytes += messageOverhead + len(entries[i].GetData())
		if near == 0 && (applied.Index-index >= n.cfg.SnapshotCatchUpEntries || bytes > maxCatchUpBytes) {
			near = index
			outgoing := n.raft.machine.Outgoing()
			outgoing.Release(near + (applied.Index-near)/2)
			wanted, isOutgoing = outgoing.Oldest(n.reaches)
		}
		if near != 0 && !(isOutgoing && index > wanted && bytes <= maxOutgoingBytes) {
			return index, nil
		}
	}
	return first - 1, nil
}
