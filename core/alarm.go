package core

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"weir/core/auth"
	"weir/core/mvcc"
)

// alarms is the set of alarms that are raised. The applier changes it; anyone reads.
type alarms struct {
	mu  sync.Mutex // guards set
	set map[alarmID]bool

	nospace, corrupt atomic.Int64 // how many there are of each, for has
}

type alarmID struct {
	member uint64
	alarm  pb.AlarmType
}

// loadAlarms reads the alarms that the store holds, as etcd writes them: the message is the key.
func loadAlarms(store stored) (*alarms, error) {
	a := &alarms{set: map[alarmID]bool{}}
	err := store.ForEach(mvcc.BucketAlarm, func(k, _ []byte) error {
		var m pb.AlarmMember
		if err := proto.Unmarshal(k, &m); err != nil {
			return fmt.Errorf("decode an alarm: %w", err)
		}
		a.raise(&m)
		return nil
	})
	return a, err
}

// replace makes the alarms those of by, which nobody else knows.
func (a *alarms) replace(by *alarms) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.set = by.set
	a.nospace.Store(by.nospace.Load())
	a.corrupt.Store(by.corrupt.Load())
}

func (a *alarms) raise(m *pb.AlarmMember) {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := alarmID{m.MemberID, m.Alarm}
	if !a.set[id] {
		a.set[id] = true
		a.count(m.Alarm).Add(1)
	}
}

// count is how many alarms there are of a type.
func (a *alarms) count(t pb.AlarmType) *atomic.Int64 {
	switch t {
	case pb.AlarmType_NOSPACE:
		return &a.nospace
	case pb.AlarmType_CORRUPT:
		return &a.corrupt
	}
	return new(atomic.Int64) // of a type that has no effect
}

// clear reports whether the alarm was raised.
func (a *alarms) clear(m *pb.AlarmMember) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	id := alarmID{m.MemberID, m.Alarm}
	was := a.set[id]
	if was {
		delete(a.set, id)
		a.count(m.Alarm).Add(-1)
	}
	return was
}

// has tells whether an alarm of type t is raised. It is asked for every request.
func (a *alarms) has(t pb.AlarmType) bool { return a.count(t).Load() > 0 }

// list returns the alarms of type t, of all types for NONE, in order of member and type.
func (a *alarms) list(t pb.AlarmType) []*pb.AlarmMember {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.set) == 0 {
		return nil
	}
	var members []*pb.AlarmMember
	for id := range a.set {
		if t == pb.AlarmType_NONE || t == id.alarm {
			members = append(members, &pb.AlarmMember{MemberID: id.member, Alarm: id.alarm})
		}
	}
	slices.SortFunc(members, func(x, y *pb.AlarmMember) int {
		return cmp.Or(cmp.Compare(x.MemberID, y.MemberID), cmp.Compare(x.Alarm, y.Alarm))
	})
	return members
}

// Alarms are those that this member has applied. It asks nobody, so that they are told without a quorum too.
func (n *Node) Alarms() []*pb.AlarmMember { return n.alarms.list(pb.AlarmType_NONE) }

// Alarm lists, raises or clears alarms.
func (n *Node) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	var members []*pb.AlarmMember
	switch r.Action {
	case pb.AlarmRequest_GET:
		if err := n.linearizable(ctx); err != nil {
			return nil, err
		}
		members = n.alarms.list(r.Alarm)
	default:
		if err := n.permitAdmin(ctx); err != nil {
			return nil, err
		}
		res, err := n.proposeMessage(ctx, kindAlarm, r)
		if err != nil {
			return nil, err
		}
		members = res.resp.([]*pb.AlarmMember)
		for _, m := range members {
			n.logger.Info("alarm changed", "action", r.Action.String(), "alarm", m.Alarm.String(), "member-id", idString(m.MemberID))
		}
	}
	return &pb.AlarmResponse{Header: n.pbHeader(), Alarms: members}, nil
}

// What a request is taken to add to the store's file, in bytes. etcd's estimates.
const (
	leaseCost = 64
	kvCost    = 256
)

func putCost(key, value int) int { return kvCost + key + value }

// txnCost is the cost of the dearer branch; 0 means that the transaction puts nothing.
func txnCost(r *pb.TxnRequest) int { return max(opsCost(r.Success), opsCost(r.Failure)) }

func opsCost(ops []*pb.RequestOp) (cost int) {
	for _, op := range ops {
		switch req := op.Request.(type) {
		case *pb.RequestOp_RequestPut:
			cost += putCost(len(req.RequestPut.GetKey()), len(req.RequestPut.GetValue()))
		case *pb.RequestOp_RequestTxn:
			cost += txnCost(req.RequestTxn)
		}
	}
	return cost
}

// checkSpace refuses a request that would make the store's file larger than the quota, or any that adds something
// when the disk is nearly full, and raises the NOSPACE alarm, which makes the whole cluster refuse such writes until
// it is cleared. It is checked before the request goes into the log, since sizes differ between members; several
// requests at once may go a little over.
func (n *Node) checkSpace(ctx context.Context, cost int) error {
	overQuota := n.cfg.QuotaBytes > 0 && n.store.Size()+int64(cost) >= n.cfg.QuotaBytes
	if cost == 0 || !overQuota && !n.disk.isLow(cost) {
		return nil
	}
	if !n.alarms.has(pb.AlarmType_NOSPACE) {
		if overQuota {
			n.logger.Warn("the store has reached its quota: writes are refused", "size", n.store.Size(), "quota", n.cfg.QuotaBytes)
		}
		alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: n.member.ID, Alarm: pb.AlarmType_NOSPACE}
		// The alarm is for all, so it does not end with the client that met it.
		if _, err := n.proposeAs(context.WithoutCancel(ctx), kindAlarm, auth.Identity{}, alarm); err != nil {
			n.logger.Warn("could not raise the NOSPACE alarm", "error", err)
		}
	}
	return rpctypes.ErrGRPCNoSpace
}
