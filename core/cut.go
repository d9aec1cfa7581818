package core

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// cutter decides when the log is cut. Owned by the apply goroutine, but for wake.
type cutter struct {
	wake    chan struct{} // holds a token when the log should be cut
	entries uint64        // applied since the last cut was asked for
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

func (n *Node) cutLog() error {
	if err := n.store.Commit(); err != nil {
		return err
	}
	// Only what a committed transaction says may be relied on.
	applied := n.store.Applied()
	if err := n.log.Cut(applied.Index); err != nil {
		return err
	}
	first, err := n.raft.storage.FirstIndex()
	if err != nil {
		return err
	}
	if applied.Index < first {
		return nil
	}
	confState := proto.Clone(applied.ConfState).(*raftpb.ConfState)
	if _, err := n.raft.storage.CreateSnapshot(applied.Index, confState, nil); err != nil {
		return err
	}
	n.logger.Info("cut the log", "index", applied.Index)
	return n.raft.storage.Compact(applied.Index)
}
