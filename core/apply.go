package core

import (
	"encoding/binary"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/core/lease"
	"weir/core/mvcc"
	"weir/grpcapi/wire"
)

// applier carries out committed requests. Only the apply goroutine calls it.
//
// What it does depends on nothing but the request and the state before it, so that every member that applies
// the same entries has the same state, and a replay after a crash ends where the first run would have.
type applier struct {
	store  *mvcc.Store
	leases *lease.Lessor
	alarms *alarms
	hub    *coalesce.Hub
	feed   *coalesce.Feed // of the hub
	header func(revision int64) wire.Header
}

// apply is the goroutine that applies entries, in order.
func (n *Node) apply() {
	defer n.goroutines.Done()
	for {
		select {
		case <-n.toApply.wake:
		case <-n.stopped:
			return
		}
		for _, m := range n.toApply.takeAll() {
			for _, entry := range m.GetEntries() {
				if err := n.applyEntry(entry); err != nil {
					n.fail(fmt.Errorf("apply entry %d: %w", entry.GetIndex(), err))
					return
				}
			}
			n.raft.inbox.put(stored{messages: m.GetResponses()})
		}
	}
}

// applyEntry applies one entry and gives the results to those who wait. An error means that this member cannot
// go on; a request that merely fails has it in its result.
func (n *Node) applyEntry(entry *raftpb.Entry) error {
	index := entry.GetIndex()
	if applied := n.applied.Load(); index != applied+1 {
		return fmt.Errorf("it follows entry %d", applied)
	}
	if t := entry.GetType(); t != raftpb.EntryNormal {
		return fmt.Errorf("entry of type %v: this weir knows clusters of one member only", t)
	}
	tx := n.store.Begin(index, entry.GetTerm())
	batchID, results, err := n.applyBatch(tx, entry.GetData())
	if err != nil {
		return err
	}
	tx.End()
	n.applied.Store(index)
	n.reads.reached(index)
	if len(results) > 0 {
		for i, r := range n.queue.settle(batchID) {
			r.done <- results[i]
		}
	}
	n.countForCut(entry)
	return nil
}

// applyBatch carries out the requests of an entry; an empty one is raft's own.
func (n *Node) applyBatch(tx *mvcc.Entry, data []byte) (batchID uint64, results []result, err error) {
	if len(data) == 0 {
		return 0, nil, nil
	}
	batchID, rest, err := readEntryHeader(data)
	if err != nil {
		return 0, nil, err
	}
	proposed := n.queue.batch(batchID)
	results = make([]result, 0, max(len(proposed), 1))
	for len(rest) > 0 {
		var (
			k       kind
			payload []byte
			decoded any
		)
		if k, payload, rest, err = readEntryRequest(rest); err != nil {
			return 0, nil, err
		}
		if len(results) < len(proposed) {
			decoded = proposed[len(results)].decoded
		} else if decoded, err = decode(k, payload); err != nil {
			return 0, nil, err
		}
		res, err := n.applier.apply(tx, k, decoded)
		if err != nil {
			return 0, nil, err
		}
		results = append(results, res)
	}
	return batchID, results, nil
}

// decode makes of a payload what apply takes for that kind.
func decode(k kind, payload []byte) (any, error) {
	var m proto.Message
	switch k {
	case kindPut:
		r := new(wire.PutRequest)
		return r, r.Unmarshal(payload)
	case kindDeleteRange:
		r := new(wire.DeleteRangeRequest)
		return r, r.Unmarshal(payload)
	case kindTxn:
		m = new(pb.TxnRequest)
	case kindCompact:
		m = new(pb.CompactionRequest)
	case kindLeaseGrant:
		m = new(pb.LeaseGrantRequest)
	case kindLeaseRevoke:
		m = new(pb.LeaseRevokeRequest)
	case kindAlarm:
		m = new(pb.AlarmRequest)
	default:
		return nil, fmt.Errorf("the log holds a request of %v, which this weir does not know: run the weir that wrote it", k)
	}
	if err := proto.Unmarshal(payload, m); err != nil {
		return nil, fmt.Errorf("decode %v request: %w", k, err)
	}
	return m, nil
}

// apply carries out one request. A request that etcd would refuse has etcd's error in its result and has changed
// nothing; an error beside it is the end of this member.
func (a *applier) apply(tx *mvcc.Entry, k kind, decoded any) (result, error) {
	if a.alarms.has(pb.AlarmType_CORRUPT) && k != kindAlarm {
		return result{err: rpctypes.ErrGRPCCorrupt}, nil
	}
	full := a.alarms.has(pb.AlarmType_NOSPACE)
	switch r := decoded.(type) {
	case *wire.PutRequest:
		if full {
			return result{err: rpctypes.ErrGRPCNoSpace}, nil
		}
		return a.put(tx, r)
	case *wire.DeleteRangeRequest:
		return a.deleteRange(tx, r)
	case *pb.TxnRequest:
		if full && txnCost(r) > 0 {
			return result{err: rpctypes.ErrGRPCNoSpace}, nil
		}
		return a.txn(tx, r)
	case *pb.CompactionRequest:
		done, err := tx.Compact(r.Revision)
		if err != nil {
			return result{err: apiError(err), physical: done}, nil
		}
		a.hub.Compacted(r.Revision)
		return result{physical: done}, nil
	case *pb.LeaseGrantRequest:
		if full {
			return result{err: rpctypes.ErrGRPCNoSpace}, nil
		}
		return a.leaseGrant(tx, r)
	case *pb.LeaseRevokeRequest:
		return a.leaseRevoke(tx, r)
	case *pb.AlarmRequest:
		return a.alarm(tx, r)
	}
	return result{}, fmt.Errorf("no way to apply %v as %T", k, decoded)
}

func (a *applier) put(entry *mvcc.Entry, r *wire.PutRequest) (result, error) {
	if err := checkPut(a.store, a.leases, r); err != nil {
		return result{err: apiError(err)}, nil
	}
	tx := entry.Txn()
	rev, prev, err := put(tx, r)
	if err != nil {
		return result{}, err
	}
	if _, err := a.commit(tx); err != nil {
		return result{}, err
	}
	return result{resp: wire.EncodePut(a.header(rev), prev)}, nil
}

func (a *applier) deleteRange(entry *mvcc.Entry, r *wire.DeleteRangeRequest) (result, error) {
	tx := entry.Txn()
	deleted, rev, prev, err := deleteRange(tx, r.Key, r.RangeEnd, r.PrevKV)
	if err != nil {
		return result{}, err
	}
	if _, err := a.commit(tx); err != nil {
		return result{}, err
	}
	return result{resp: wire.EncodeDeleteRange(a.header(rev), deleted, prev)}, nil
}

func (a *applier) txn(entry *mvcc.Entry, r *pb.TxnRequest) (result, error) {
	run := txnRun{
		request: r, before: a.store, leases: a.leases,
		revision: a.store.Revision(), compacted: a.store.CompactRevision(),
	}
	if err := run.prepare(); err != nil {
		return result{err: apiError(err)}, nil
	}
	tx := entry.Txn()
	succeeded, ops, err := run.execute(tx)
	if err != nil {
		return result{}, err
	}
	rev, err := a.commit(tx)
	if err != nil {
		return result{}, err
	}
	return result{resp: wire.EncodeTxn(a.header(rev), succeeded, ops)}, nil
}

// commit makes the transaction's writes visible, moves its keys between leases, and publishes its events. It
// returns the store's newest revision.
func (a *applier) commit(tx *mvcc.Txn) (int64, error) {
	for _, c := range tx.LeaseChanges() {
		if c.New == 0 {
			a.leases.Detach(c.Key)
		} else if err := a.leases.Attach(c.New, c.Key); err != nil {
			return 0, fmt.Errorf("attach a key to lease %x: %w", c.New, err)
		}
	}
	rev, events := tx.Commit()
	if len(events) > 0 {
		a.feed.Publish(coalesce.Batch{Revision: rev, Events: events})
	}
	return rev, nil
}

func leaseKey(id int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(id)) }

func (a *applier) leaseGrant(tx *mvcc.Entry, r *pb.LeaseGrantRequest) (result, error) {
	ttl, err := a.leases.Grant(r.ID, r.TTL)
	if err != nil {
		return result{err: apiError(err)}, nil
	}
	tx.Put(mvcc.BucketLease, leaseKey(r.ID), lease.AppendRecord(nil, lease.Record{ID: r.ID, TTL: ttl}))
	return result{resp: ttl}, nil
}

// leaseRevoke deletes the keys of a lease in one revision, in key order, and the lease.
func (a *applier) leaseRevoke(entry *mvcc.Entry, r *pb.LeaseRevokeRequest) (result, error) {
	if !a.leases.Exists(r.ID) {
		return result{err: rpctypes.ErrGRPCLeaseNotFound}, nil
	}
	keys := a.leases.Keys(r.ID)
	tx := entry.Txn()
	for _, key := range keys {
		tx.DeleteRange(key, nil)
	}
	if _, err := a.commit(tx); err != nil {
		return result{}, err
	}
	if err := a.leases.Revoke(r.ID); err != nil {
		return result{}, fmt.Errorf("revoke lease %x: %w", r.ID, err)
	}
	entry.Delete(mvcc.BucketLease, leaseKey(r.ID))
	return result{}, nil
}

func (a *applier) alarm(tx *mvcc.Entry, r *pb.AlarmRequest) (result, error) {
	member := &pb.AlarmMember{MemberID: r.MemberID, Alarm: r.Alarm}
	var changed bool
	switch r.Action {
	case pb.AlarmRequest_ACTIVATE:
		changed = r.Alarm != pb.AlarmType_NONE
		if changed {
			a.alarms.raise(member)
		}
	case pb.AlarmRequest_DEACTIVATE:
		changed = a.alarms.clear(member)
	}
	if !changed {
		return result{resp: []*pb.AlarmMember(nil)}, nil
	}
	key, err := proto.MarshalOptions{Deterministic: true}.Marshal(member)
	if err != nil {
		return result{}, fmt.Errorf("encode an alarm: %w", err)
	}
	if r.Action == pb.AlarmRequest_ACTIVATE {
		tx.Put(mvcc.BucketAlarm, key, nil)
	} else {
		tx.Delete(mvcc.BucketAlarm, key)
	}
	return result{resp: []*pb.AlarmMember{member}}, nil
}
