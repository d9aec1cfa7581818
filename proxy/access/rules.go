package access

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

// rule refuses a request that its sender may not make, with the error that etcd has for it.
type rule func(j *judgement, req wire.Raw) error

// rules are by method. A method that is not here is for administrators only: what it does is not known. They are etcd's
// (server/etcdserver: apply/auth.go, v3_server.go, api/v3rpc), with one exception: at etcd anybody may compact, who has no
// user too. As a core does, the proxy lets only administrators.
var rules = map[string]rule{
	pb.KV_Range_FullMethodName:       judgeRange,
	pb.KV_RangeStream_FullMethodName: judgeRange,
	pb.KV_Put_FullMethodName:         judgePut,
	pb.KV_DeleteRange_FullMethodName: judgeDelete,
	pb.KV_Txn_FullMethodName:         judgeTxn,
	pb.KV_Compact_FullMethodName:     adminOnly,

	pb.Watch_Watch_FullMethodName: judgeWatch,

	pb.Lease_LeaseGrant_FullMethodName:      anyUser,
	pb.Lease_LeaseRevoke_FullMethodName:     judgeLeaseRevoke,
	pb.Lease_LeaseKeepAlive_FullMethodName:  judgeKeepAlive,
	pb.Lease_LeaseTimeToLive_FullMethodName: judgeTimeToLive,
	pb.Lease_LeaseLeases_FullMethodName:     judgeLeases,

	pb.Cluster_MemberList_FullMethodName: anyUser,

	pb.Maintenance_Status_FullMethodName: anyUser,
	pb.Maintenance_Alarm_FullMethodName:  judgeAlarm,

	pb.Auth_Authenticate_FullMethodName: anybody,
	pb.Auth_AuthStatus_FullMethodName:   anybody,
	pb.Auth_UserGet_FullMethodName:      judgeUserGet,
	pb.Auth_RoleGet_FullMethodName:      judgeRoleGet,

	// etcd makes of these what a client of the KV and Lease services would send, and answers errors without their code.
	lockpb.Lock_Lock_FullMethodName:         codeless(judgeLock),
	lockpb.Lock_Unlock_FullMethodName:       codeless(judgeUnlock),
	lockpb.Election_Campaign_FullMethodName: codeless(judgeCampaign),
	lockpb.Election_Proclaim_FullMethodName: codeless(judgeProclaim),
	lockpb.Election_Leader_FullMethodName:   codeless(judgeLeader),
	lockpb.Election_Observe_FullMethodName:  codeless(judgeLeader),
	lockpb.Election_Resign_FullMethodName:   codeless(judgeResign),

	"/grpc.health.v1.Health/Check": anybody,
	"/grpc.health.v1.Health/Watch": anybody,
}

func anybody(*judgement, wire.Raw) error       { return nil }
func anyUser(j *judgement, _ wire.Raw) error   { return j.known() }
func adminOnly(j *judgement, _ wire.Raw) error { return j.admin() }

func judgeRange(j *judgement, req wire.Raw) error {
	var r wire.RangeRequest
	if r.Unmarshal(req) != nil {
		return errMalformed
	}
	if len(r.Key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if err := j.understood(isKnown(req, 13)); err != nil {
		return err
	}
	return j.read(r.Key, r.RangeEnd)
}

func judgePut(j *judgement, req wire.Raw) error {
	var r wire.PutRequest
	if r.Unmarshal(req) != nil {
		return errMalformed
	}
	if err := j.understood(isKnown(req, 6)); err != nil {
		return err
	}
	return j.put(r.Key, r.Lease, r.PrevKV)
}

// put judges a put by itself. Who may not write a key of the lease could not revoke it either, and must not hang a key on it.
func (j *judgement) put(key []byte, lease int64, prevKV bool) error {
	if err := j.putKey(key, prevKV); err != nil {
		return err
	}
	return j.leaseKeys(lease, j.writeOne)
}

// putKey judges a put, but for its lease.
func (j *judgement) putKey(key []byte, prevKV bool) error {
	if len(key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if err := j.writeOne(key); err != nil || !prevKV {
		return err
	}
	return j.readOne(key)
}

func judgeDelete(j *judgement, req wire.Raw) error {
	var r wire.DeleteRangeRequest
	if r.Unmarshal(req) != nil {
		return errMalformed
	}
	if err := j.understood(isKnown(req, 3)); err != nil {
		return err
	}
	return j.delete(r.Key, r.RangeEnd, r.PrevKV)
}

func (j *judgement) delete(key, end []byte, prevKV bool) error {
	if len(key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if err := j.write(key, end); err != nil || !prevKV {
		return err
	}
	return j.read(key, end)
}

func judgeTxn(j *judgement, req wire.Raw) error {
	var r pb.TxnRequest
	if err := j.decode(req, &r); err != nil {
		return err
	}
	leases := map[int64]struct{}{}
	if err := j.txn(&r, leases); err != nil || j.isAdmin() {
		return err
	}
	if len(leases) > maxPutLeases {
		return rpctypes.ErrGRPCTooManyOps
	}
	for id := range leases {
		if err := j.leaseKeys(id, j.writeOne); err != nil {
			return err
		}
	}
	return nil
}

// maxPutLeases bounds the leases that a transaction puts keys on, because upstream is asked about each: the two branches of one have
// 256 at most, of the 128 operations that etcd's --max-txn-ops lets a branch have by default. The proxy does not know upstream's,
// which may be higher, and those inside a transaction have some of their own: so there is room for as many again.
const maxPutLeases = 512

// txn judges all branches, also those that will not be taken, but for the leases of puts. These it gathers, though no more than one
// too many.
func (j *judgement) txn(r *pb.TxnRequest, leases map[int64]struct{}) error {
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
		if err := j.read(c.Key, c.RangeEnd); err != nil {
			return err
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if err := j.op(op, leases); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j *judgement) op(op *pb.RequestOp, leases map[int64]struct{}) error {
	switch op := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		r := op.RequestRange
		if len(r.GetKey()) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
		return j.read(r.GetKey(), r.GetRangeEnd())
	case *pb.RequestOp_RequestPut:
		r := op.RequestPut
		if id := r.GetLease(); id != 0 && len(leases) <= maxPutLeases {
			leases[id] = struct{}{}
		}
		return j.putKey(r.GetKey(), r.GetPrevKv())
	case *pb.RequestOp_RequestDeleteRange:
		r := op.RequestDeleteRange
		return j.delete(r.GetKey(), r.GetRangeEnd(), r.GetPrevKv())
	case *pb.RequestOp_RequestTxn:
		return j.txn(op.RequestTxn, leases)
	}
	return nil // upstream refuses an empty operation; a new kind is an unknown field
}

// judgeWatch judges a message. Those that cancel a watch or ask for progress, and the opening of the stream, are for anybody.
func judgeWatch(j *judgement, req wire.Raw) error {
	var r pb.WatchRequest
	if err := j.decode(req, &r); err != nil {
		return err
	}
	if c := r.GetCreateRequest(); c != nil {
		return j.read(watchKey(c.Key), c.RangeEnd)
	}
	return nil
}

func judgeLeaseRevoke(j *judgement, req wire.Raw) error {
	var r pb.LeaseRevokeRequest
	if err := j.decode(req, &r); err != nil {
		return err
	}
	if err := j.known(); err != nil {
		return err
	}
	return j.leaseKeys(r.ID, j.writeOne)
}

// judgeKeepAlive judges a ping. The opening of the stream is for any user, and so is the ping of a lease that is not there: who
// sends such ones all the time does not have upstream asked about each.
func judgeKeepAlive(j *judgement, req wire.Raw) error {
	var r pb.LeaseKeepAliveRequest
	if err := j.decode(req, &r); err != nil {
		return err
	}
	if err := j.known(); err != nil || j.guard.goneLeases.has(r.ID, j.guard.clock.now()) {
		return err
	}
	return j.leaseKeys(r.ID, j.writeOne)
}

// judgeTimeToLive lets any user ask for the time, and for the keys who may read them.
func judgeTimeToLive(j *judgement, req wire.Raw) error {
	var r pb.LeaseTimeToLiveRequest
	if err := j.decode(req, &r); err != nil {
		return err
	}
	if err := j.known(); err != nil || !r.Keys {
		return err
	}
	return j.leaseKeys(r.ID, j.readOne)
}

// judgeLeases lets those list leases who may read all their keys.
func judgeLeases(j *judgement, _ wire.Raw) error {
	if err := j.known(); err != nil {
		return err
	}
	if j.isAdmin() || j.read([]byte{0}, []byte{0}) == nil {
		return nil
	}
	leases, err := j.leases()
	if err != nil {
		return err
	}
	for _, id := range leases {
		if err := j.leaseKeys(id, j.readOne); err != nil {
			return err
		}
	}
	return nil
}

func judgeAlarm(j *judgement, req wire.Raw) error {
	var r pb.AlarmRequest
	if err := j.decode(req, &r); err != nil {
		return err
	}
	if r.Action == pb.AlarmRequest_GET {
		return j.known()
	}
	return j.admin()
}

func judgeUserGet(j *judgement, req wire.Raw) error {
	var r pb.AuthUserGetRequest
	if err := j.decode(req, &r); err != nil {
		return err
	}
	if err := j.admin(); err != nil && (!j.who.known || r.Name != j.who.name) {
		return err
	}
	return nil
}

func judgeRoleGet(j *judgement, req wire.Raw) error {
	var r pb.AuthRoleGetRequest
	if err := j.decode(req, &r); err != nil {
		return err
	}
	if err := j.admin(); err != nil && !j.hasRole(j.who, r.Role) {
		return err
	}
	return nil
}

// queue is the keys of those who wait for a lock or to be elected: all that begin with the name and a slash.
func queue(name []byte) (prefix, end []byte) {
	prefix = fmt.Appendf(nil, "%s/", name)
	end = fmt.Appendf(nil, "%s0", name) // the byte after the slash
	return prefix, end
}

// claim judges who enters a queue, with a key of its lease or of a new one, of which only the prefix is known.
func (j *judgement) claim(name []byte, lease int64) error {
	prefix, end := queue(name)
	if err := j.read(prefix, end); err != nil {
		return err
	}
	if lease == 0 {
		if err := j.known(); err != nil {
			return err
		}
		return j.write(prefix, end)
	}
	if err := j.writeOne(fmt.Appendf(nil, "%s%x", prefix, lease)); err != nil {
		return err
	}
	return j.leaseKeys(lease, j.writeOne)
}

func judgeLock(j *judgement, req wire.Raw) error {
	var r lockpb.LockRequest
	if err := j.decode(req, &r); err != nil {
		return err
	}
	return j.claim(r.Name, r.Lease)
}

func judgeUnlock(j *judgement, req wire.Raw) error {
	var r lockpb.UnlockRequest
	if err := j.decode(req, &r); err != nil {
		return err
	}
	return j.delete(r.Key, nil, false)
}

func judgeCampaign(j *judgement, req wire.Raw) error {
	var r lockpb.CampaignRequest
	if err := j.decode(req, &r); err != nil {
		return err
	}
	return j.claim(r.Name, r.Lease)
}

// judgeProclaim looks at a request without a leader as one for no key, which upstream refuses.
func judgeProclaim(j *judgement, req wire.Raw) error {
	var r lockpb.ProclaimRequest
	if err := j.decode(req, &r); err != nil {
		return err
	}
	if err := j.known(); err != nil || r.Leader == nil {
		return err
	}
	if err := j.readOne(r.Leader.Key); err != nil {
		return err
	}
	return j.put(r.Leader.Key, r.Leader.Lease, false)
}

func judgeLeader(j *judgement, req wire.Raw) error {
	var r lockpb.LeaderRequest
	if err := j.decode(req, &r); err != nil {
		return err
	}
	return j.read(queue(r.Name))
}

func judgeResign(j *judgement, req wire.Raw) error {
	var r lockpb.ResignRequest
	if err := j.decode(req, &r); err != nil {
		return err
	}
	if err := j.known(); err != nil || r.Leader == nil {
		return err
	}
	if err := j.readOne(r.Leader.Key); err != nil {
		return err
	}
	return j.delete(r.Leader.Key, nil, false)
}

// codeless is a rule whose errors etcd answers without their code.
func codeless(r rule) rule {
	return func(j *judgement, req wire.Raw) error {
		err := r(j, req)
		if isRefusal(err) || says(err, rpctypes.ErrGRPCEmptyKey) {
			return status.Error(codes.Unknown, textOf(err))
		}
		return err
	}
}
