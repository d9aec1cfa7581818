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
	metrics *metrics
	header  func(revision int64) wire.Header
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
				start := time.Now()
				switch err := n.applyEntry(entry); {
				case errors.Is(err, errStopping):
					return
				case err != nil:
					n.fail(fmt.Errorf("apply entry %d: %w", entry.GetIndex(), err))
					return
				}
				if took := time.Since(start); took > n.cfg.WarnApply {
					n.metrics.slowApplies.Inc()
					n.logger.Warn("apply request took too long", "took", took, "expected-duration", n.cfg.WarnApply,
						"index", entry.GetIndex(), "bytes", len(entry.GetData()))
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
	n.reached(index)
	if len(results) > 0 {
		for i, r := range n.queue.settle(batchID) {
			r.done <- results[i]
		}
	}
	n.countForCut(entry)
	return nil
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
		} else if decoded, err = decode(k, payload); err != nil {
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

// decode makes of a payload what apply takes for that kind.
func decode(k kind, payload []byte) (any, error) {
	switch k {
	case kindPut:
		r := new(wire.PutRequest)
		return r, r.Unmarshal(payload)
	case kindDeleteRange:
		r := new(wire.DeleteRangeRequest)
		return r, r.Unmarshal(payload)
	}
	info, ok := kinds[k]
	if !ok {
		return nil, fmt.Errorf("the log holds a request of %v, which this weir does not know: run the weir that wrote it", k)
	}
	m := info.make()
	if err := proto.Unmarshal(payload, m); err != nil {
		return nil, fmt.Errorf("decode %v request: %w", k, err)
	}
	return m, nil
}

// apply carries out one request. A request that etcd would refuse has etcd's error in its result and has changed
// nothing; an error beside it is the end of this member.
func (a *applier) apply(tx *mvcc.Entry, k kind, as auth.Identity, decoded any) (result, error) {
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
	case *pb.AlarmRequest:
		return a.alarm(tx, r)
	case *pb.InternalAuthenticateRequest:
		token, err := a.auth.AssignToken(r.Name, r.SimpleToken, tx.Index())
		return result{resp: token, err: err}, nil
	case *membershippb.ClusterVersionSetRequest:
		return result{}, a.version.applyVersion(tx, r)
	case *membershippb.DowngradeInfoSetRequest:
		return result{}, a.version.applyDowngrade(tx, r)
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
	a.metrics.leasesGranted.Inc()
	a.metrics.leaseTTLs.Observe(float64(ttl))
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
