package core

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/core/auth"
	"weir/core/consensus"
	"weir/core/lease"
	"weir/core/mvcc"
	"weir/grpcapi/wire"
)

// applier carries out committed requests. Only the apply goroutine calls it.
//
// What it does depends on nothing but the request and the state before it, so that every member that applies
// the same entries has the same state, and a replay after a crash ends where the first run would have.
type applier struct {
	store   *mvcc.Store
	leases  *lease.Lessor
	alarms  *alarms
	auth    *auth.Store
	guard   guard
	hub     *coalesce.Hub
	feed    *coalesce.Feed // of the hub
	version *clusterVersion
	members *members
	// agreement is the level that the entries keep to.
	agreement *agreement
	metrics   *metrics
	header    func(revision int64) wire.Header
}

// toApply is what the apply goroutine is to do: carry out entries, or install a snapshot in place of all that was before.
type toApply struct {
	entries   []*raftpb.Entry
	snapshot  *raftpb.SnapshotMetadata
	hardState *raftpb.HardState // to be made durable with the snapshot
	work      consensus.Work    // is done then
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
		for _, todo := range n.toApply.takeAll() {
			if err := n.carryOutAll(todo); err != nil {
				if !errors.Is(err, errStopping) {
					n.fail(err)
				}
				return
			}
			n.backlog.done()
			n.done(todo)
		}
	}
}

func (n *Node) carryOutAll(todo toApply) error {
	if todo.snapshot != nil {
		return n.install(todo.snapshot, todo.hardState)
	}
	for _, entry := range todo.entries {
		start := time.Now()
		if err := n.applyEntry(entry); err != nil {
			return fmt.Errorf("apply entry %d: %w", entry.GetIndex(), err)
		}
		n.backlog.applied(entry)
		if took := time.Since(start); took > n.cfg.WarnApply {
			n.metrics.slowApplies.Inc()
			n.logger.Warn("apply request took too long", "took", took, "expected-duration", n.cfg.WarnApply,
				"index", entry.GetIndex(), "bytes", len(entry.GetData()))
		}
	}
	return nil
}

// install makes a snapshot that has been received the state of this member. Called by the apply goroutine.
func (n *Node) install(snapshot *raftpb.SnapshotMetadata, hs *raftpb.HardState) error {
	start, index := time.Now(), snapshot.GetIndex()
	if err := n.installSnapshot(n.incoming.take(), hs); err != nil {
		return fmt.Errorf("install the snapshot of index %d: %w", index, err)
	}
	n.queue.superseded(snapshot.GetTerm() + 1) // what of it is in the snapshot cannot be told
	n.changes.skipped(snapshot.GetTerm())
	n.reached(index)
	n.setPeers()
	n.logger.Info("installed a snapshot", "index", index, "revision", n.store.Revision(), "took", time.Since(start))
	return nil
}

// applyEntry applies one entry and gives the results to those who wait. An error means that this member cannot
// go on; a request that merely fails has it in its result.
func (n *Node) applyEntry(entry *raftpb.Entry) error {
	index := entry.GetIndex()
	if applied := n.applied.Load(); index != applied+1 {
		return fmt.Errorf("it follows entry %d", applied)
	}
	switch t := entry.GetType(); t {
	case raftpb.EntryNormal:
	case raftpb.EntryConfChange:
		return n.applyConfChange(entry)
	default:
		return fmt.Errorf("the log holds an entry of type %v, which this weir does not know: run the weir that wrote it", t)
	}
	tx := n.store.Begin(index, entry.GetTerm())
	batchID, results, err := n.applyBatch(tx, entry.GetData())
	if err != nil {
		tx.Fail(err)
		return err
	}
	tx.End()
	n.tenure.applied(entry.GetTerm(), n.isAlone, n.promoteLeases)
	n.reached(index)
	if len(results) > 0 {
		for i, r := range n.queue.settle(batchID) {
			r.done <- results[i]
		}
	}
	n.seenTerm(entry.GetTerm())
	n.countForCut(entry)
	return nil
}

// seenTerm tells those whose requests an earlier leader has lost.
func (n *Node) seenTerm(term uint64) {
	if term > n.appliedTerm {
		n.appliedTerm = term
		n.queue.superseded(term)
		n.changes.reached(term)
	}
}

// reached tells those who wait for it that the store has come to index.
func (n *Node) reached(index uint64) {
	n.applied.Store(index)
	n.reads.reached(index)
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
	start := n.metrics.clock.now()
	for len(rest) > 0 {
		var (
			k       kind
			as      auth.Identity
			payload []byte
			decoded any
		)
		if k, as, payload, rest, err = readEntryRequest(rest); err != nil {
			return 0, nil, err
		}
		if len(results) < len(proposed) {
			decoded = proposed[len(results)].decoded
		} else if decoded, err = decode(k, payload, n.cfg.level); err != nil {
			return 0, nil, err
		}
		res, err := n.applier.apply(tx, k, as, decoded)
		if err != nil {
			return 0, nil, err
		}
		start = n.countApply(k, res.err, start)
		results = append(results, res)
	}
	return batchID, results, nil
}

// countApply notes that a request was applied since start, and returns when that was.
func (n *Node) countApply(k kind, err error, start time.Duration) (end time.Duration) {
	end = n.metrics.clock.now()
	// Whoever compacts what is compacted has what they want.
	n.metrics.applies.observe(k.operation(), err == nil || errors.Is(err, rpctypes.ErrGRPCCompacted), end-start, 1)
	return end
}

// apply carries out one request. A request that etcd would refuse has etcd's error in its result and has changed
// nothing; an error beside it is the end of this member.
func (a *applier) apply(tx *mvcc.Entry, k kind, as auth.Identity, decoded any) (result, error) {
	if err := validate(decoded); err != nil {
		return result{err: err}, nil
	}
	if err := a.alarmed(decoded); err != nil {
		return result{err: err}, nil
	}
	if k != kindLeaseExpire { // which nobody has asked for
		if err := a.guard.permit(as, decoded); err != nil {
			return result{err: err}, nil
		}
	}
	switch r := decoded.(type) {
	case *wire.PutRequest:
		return a.put(tx, r)
	case *wire.DeleteRangeRequest:
		return a.deleteRange(tx, r)
	case *pb.TxnRequest:
		return a.txn(tx, r)
	case *pb.CompactionRequest:
		done, err := tx.Compact(r.Revision)
		if err != nil {
			return result{err: apiError(err), physical: done}, nil
		}
		a.hub.Compacted(r.Revision)
		return result{physical: done}, nil
	case *pb.LeaseGrantRequest:
		return a.leaseGrant(tx, r)
	case *pb.LeaseRevokeRequest:
		return a.leaseRevoke(tx, r)
	case leaseCheckpoints:
		return a.leaseCheckpoint(tx, r)
	case *pb.AlarmRequest:
		return a.alarm(tx, r)
	case *pb.InternalAuthenticateRequest:
		token, err := a.auth.AssignToken(r.Name, r.SimpleToken, tx.Index())
		return result{resp: token, err: err}, nil
	case *membershippb.ClusterVersionSetRequest:
		a.version.applyVersion(tx, r)
		return result{}, nil
	case *membershippb.DowngradeInfoSetRequest:
		return result{}, a.version.applyDowngrade(tx, r)
	case *levelRaise:
		return a.agreement.apply(tx, r, a.members.records())
	case *membershippb.ClusterMemberAttrSetRequest:
		return result{}, a.members.describe(tx, r.Member_ID, r.MemberAttributes.GetName(), r.MemberAttributes.GetClientUrls())
	case proto.Message: // guard.permit knows those that change users and roles, and decode no others
		return a.changeAuth(tx, r)
	}
	return result{}, fmt.Errorf("no way to apply %v as %T", k, decoded)
}

// alarmed refuses what must not be carried out while an alarm is raised, as etcd does.
func (a *applier) alarmed(decoded any) error {
	corrupt, full := a.alarms.has(pb.AlarmType_CORRUPT), a.alarms.has(pb.AlarmType_NOSPACE)
	if !corrupt && !full {
		return nil
	}
	switch r := decoded.(type) {
	case *wire.PutRequest, *pb.LeaseGrantRequest:
	case *pb.TxnRequest:
		full = full && txnCost(r) > 0
	case *wire.DeleteRangeRequest, *pb.CompactionRequest, *pb.LeaseRevokeRequest:
		full = false
	default:
		return nil
	}
	switch {
	case corrupt:
		return rpctypes.ErrGRPCCorrupt
	case full:
		return rpctypes.ErrGRPCNoSpace
	}
	return nil
}

// changeAuth changes users and roles. Watches of who has lost the right to them end before anything else is applied, so
// that they are not sent what is behind the change in the log. The applier waits for it, about 0.2 µs for each watch there
// is; but that it does only for the few changes that can take a right away.
func (a *applier) changeAuth(tx *mvcc.Entry, m proto.Message) (result, error) {
	records, err := a.auth.Apply(m)
	if err != nil {
		return result{err: err}, nil
	}
	for _, r := range records {
		if r.Value == nil {
			tx.Delete(authBuckets[r.Kind], r.Key)
		} else {
			tx.Put(authBuckets[r.Kind], r.Key, r.Value)
		}
	}
	if len(records) > 0 && a.auth.Enabled() && mayRevoke(m) {
		a.hub.Recheck()
	}
	return result{}, nil
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
// returns the store's newest revision. The writes come first: see linearizableKeys.
func (a *applier) commit(tx *mvcc.Txn) (int64, error) {
	rev, events := tx.Commit()
	for _, c := range tx.LeaseChanges() {
		if c.New == 0 {
			a.leases.Detach(c.Key)
		} else if err := a.leases.Attach(c.New, c.Key); err != nil {
			return 0, fmt.Errorf("attach a key to lease %x: %w", c.New, err)
		}
	}
	if len(events) > 0 {
		a.feed.Publish(coalesce.Batch{Revision: rev, Events: events})
	}
	return rev, nil
}

func leaseKey(id int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(id)) }

func (a *applier) leaseGrant(tx *mvcc.Entry, r *pb.LeaseGrantRequest) (result, error) {
	record, err := a.leases.Grant(r.ID, r.TTL, int64(tx.Index()))
	if err != nil {
		return result{err: apiError(err)}, nil
	}
	a.metrics.leasesGranted.Inc()
	a.metrics.leaseTTLs.Observe(float64(record.TTL))
	tx.Put(mvcc.BucketLease, leaseKey(r.ID), lease.AppendRecord(nil, record))
	return result{resp: record.TTL}, nil
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
	a.metrics.leasesRevoked.Inc()
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
