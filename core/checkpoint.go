package core

import (
	"encoding/binary"
	"errors"
	"fmt"

	"weir/core/lease"
	"weir/core/mvcc"
)

// checkpointBatch is how many checkpoints of leases are proposed in one request.
const checkpointBatch = 1000

// checkpoint is the goroutine that, on the leader, has checkpoints of leases put into the log, so that the next leader knows about
// what is left of them.
func (n *Node) checkpoint() {
	defer n.goroutines.Done()
	for n.leases.WaitCheckpoints(n.ctx) == nil {
		under := n.tenure.ofTerm()
		due := n.leases.Checkpoints(checkpointBatch)
		if len(due) == 0 {
			continue
		}
		err := errTenureOver
		if under != 0 && under == n.tenure.ofTerm() { // else it is open under which leadership they are true
			err = n.proposeCheckpoints(due, under)
		}
		if err != nil {
			n.leases.Withdraw(due)
			n.logger.Warn("could not propose checkpoints of leases", "leases", len(due), "error", err)
		}
	}
}

var errTenureOver = errors.New("this member has ceased to be the leader")

// proposeCheckpoints puts checkpoints into the log. They are applied in the order in which they are proposed: under one leadership
// nothing that is queued is lost. Nobody waits for the result.
func (n *Node) proposeCheckpoints(due []lease.Checkpoint, under uint64) error {
	m := leaseCheckpoints(due)
	return n.queue.add(&request{kind: kindLeaseCheckpoint, payload: m.encode(), decoded: m, under: under, done: make(chan result, 1)})
}

// leaseCheckpoints are checkpoints as they are in the log: of each the lease's id, the seconds that were left, and the index of the
// entry that has granted the lease, as uvarints. (etcd's message does not tell leases apart that have the same id.)
type leaseCheckpoints []lease.Checkpoint

func (m leaseCheckpoints) encode() []byte {
	var b []byte
	for _, c := range m {
		b = appendNumbers(b, c.ID, c.Remaining, c.Granted)
	}
	return b
}

func parseCheckpoints(b []byte) (m leaseCheckpoints, err error) {
	for len(b) > 0 {
		var c lease.Checkpoint
		for _, field := range []*int64{&c.ID, &c.Remaining, &c.Granted} {
			v, n := binary.Uvarint(b)
			if n <= 0 {
				return nil, fmt.Errorf("checkpoint %d of leases is cut off", len(m))
			}
			*field, b = int64(v), b[n:]
		}
		m = append(m, c)
	}
	return m, nil
}

// leaseCheckpoint notes what was left of leases, here and in the store. Those that have ended meanwhile are left out.
func (a *applier) leaseCheckpoint(tx *mvcc.Entry, m leaseCheckpoints) (result, error) {
	for _, c := range m {
		record, err := a.leases.Checkpoint(c)
		if errors.Is(err, lease.ErrNotFound) {
			continue
		}
		if err != nil {
			return result{}, fmt.Errorf("checkpoint lease %x: %w", uint64(c.ID), err)
		}
		tx.Put(mvcc.BucketLease, leaseKey(c.ID), lease.AppendRecord(nil, record))
	}
	return result{}, nil
}
