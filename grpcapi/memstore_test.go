package grpcapi

import (
	"context"
	"maps"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/mem"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// memStore is a Backend in memory that does one request after another: enough of one for clients that read, write and watch.
// It has no user, and its leases never expire.
type memStore struct {
	*revisions // whose write lock guards the fields below
	noUsers
	oneMember

	keys   map[string][]byte // encoded KeyValues
	leases map[int64]int64   // their TTLs
	// after is called after each transaction and range, without a lock, if it is set.
	after func(wrote bool)
}

func newMemStore(t testing.TB) *memStore {
	return &memStore{revisions: newRevisions(t, 1<<20), keys: map[string][]byte{}, leases: map[int64]int64{}}
}

func (s *memStore) Header() wire.Header { return s.header() }
func (s *memStore) Hub() *coalesce.Hub  { return s.hub }

// memTxn is the state that a transaction sees, and what it has changed.
type memTxn struct {
	store  *memStore
	rev    int64 // that it makes
	keys   map[string][]byte
	events []wire.Event
	ops    []byte // encoded answers
}

// do runs a request, and makes a revision of what it changes unless it fails.
func (s *memStore) do(f func(t *memTxn) error) (h wire.Header, err error) {
	s.write.Lock()
	defer s.write.Unlock()
	t := &memTxn{store: s, rev: s.revision() + 1, keys: maps.Clone(s.keys)}
	if err := f(t); err != nil {
		return h, err
	}
	if len(t.events) > 0 {
		s.keys = t.keys
		s.publish(coalesce.Batch{Revision: t.rev, Events: t.events})
	}
	return s.header(), nil
}

// inRange returns the encoded KeyValues of a range in key order.
func (t *memTxn) inRange(key, end []byte) (kvs [][]byte) {
	if len(end) == 0 {
		if kv := t.keys[string(key)]; kv != nil {
			return [][]byte{kv}
		}
		return nil
	}
	for _, k := range slices.Sorted(maps.Keys(t.keys)) {
		if isIn([]byte(k), key, end) {
			kvs = append(kvs, t.keys[k])
		}
	}
	return kvs
}

func (t *memTxn) read(r *wire.RangeRequest) (kvs [][]byte, more bool, count int64, err error) {
	from := t
	switch {
	case r.Revision >= t.rev:
		return nil, false, 0, rpctypes.ErrGRPCFutureRev
	case r.Revision > 0 && r.Revision < t.store.compactRevision():
		return nil, false, 0, rpctypes.ErrGRPCCompacted
	case r.Revision > 0:
		from = &memTxn{keys: t.store.asOf(r.Revision)}
	}
	all := from.inRange(r.Key, r.RangeEnd)
	if r.CountOnly {
		return nil, false, int64(len(all)), nil
	}
	kvs, more, err = r.Select(all)
	return kvs, more, int64(len(all)), err
}

// asOf is the keys at an old revision.
func (s *memStore) asOf(rev int64) map[string][]byte {
	keys := map[string][]byte{}
	for _, b := range s.history[:max(rev-1, 0)] {
		for _, e := range b.Events {
			if delete(keys, string(e.Key)); !e.Delete {
				keys[string(e.Key)] = e.KeyValue()
			}
		}
	}
	return keys
}

func (t *memTxn) put(r *pb.PutRequest) (prev []byte, err error) {
	prev = t.keys[string(r.Key)]
	kv := wire.KeyValue{Key: r.Key, Value: r.Value, Lease: r.Lease, ModRevision: t.rev, CreateRevision: t.rev, Version: 1}
	if prev == nil && (r.IgnoreValue || r.IgnoreLease) {
		return nil, rpctypes.ErrGRPCKeyNotFound
	}
	if prev != nil {
		var old wire.KeyValue
		if err := old.Unmarshal(prev); err != nil {
			return nil, err
		}
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		if r.IgnoreValue {
			kv.Value = old.Value
		}
		if r.IgnoreLease {
			kv.Lease = old.Lease
		}
	}
	if _, ok := t.store.leases[kv.Lease]; kv.Lease != 0 && !ok {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	encoded := kv.Append(nil)
	e, err := wire.NewPutEvent(encoded)
	t.keys[string(r.Key)], t.events = encoded, append(t.events, e)
	return prev, err
}

func (t *memTxn) delete(key, end []byte) (prev [][]byte, err error) {
	prev = t.inRange(key, end)
	for _, encoded := range prev {
		var kv wire.KeyValue
		if err := kv.Unmarshal(encoded); err != nil {
			return nil, err
		}
		delete(t.keys, string(kv.Key))
		t.events = append(t.events, wire.NewDeleteEvent(kv.Key, t.rev))
	}
	return prev, nil
}

func (t *memTxn) run(r *pb.TxnRequest) (succeeded bool, err error) {
	for _, c := range r.Compare {
		if ok, err := wire.Holds(c, t.inRange(c.Key, c.RangeEnd)); err != nil {
			return false, err
		} else if !ok {
			return false, t.runAll(r.Failure)
		}
	}
	return true, t.runAll(r.Success)
}

func (t *memTxn) runAll(ops []*pb.RequestOp) error {
	for _, op := range ops {
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			r := wire.RangeRequestOf(o.RequestRange)
			kvs, more, count, err := t.read(&r)
			if err != nil {
				return err
			}
			t.ops = wire.AppendTxnOp(t.ops, wire.TxnRange, wire.AppendRange(nil, wire.Header{Revision: t.rev}, kvs, more, count))
		case *pb.RequestOp_RequestPut:
			if _, err := t.put(o.RequestPut); err != nil {
				return err
			}
			t.ops = wire.AppendTxnOp(t.ops, wire.TxnPut, wire.AppendPut(nil, wire.Header{Revision: t.rev}, nil))
		case *pb.RequestOp_RequestDeleteRange:
			prev, err := t.delete(o.RequestDeleteRange.Key, o.RequestDeleteRange.RangeEnd)
			if err != nil {
				return err
			}
			t.ops = wire.AppendTxnOp(t.ops, wire.TxnDeleteRange, wire.AppendDeleteRange(nil, wire.Header{Revision: t.rev}, int64(len(prev)), nil))
		case *pb.RequestOp_RequestTxn:
			outer := t.ops
			t.ops = nil
			ok, err := t.run(o.RequestTxn)
			if err != nil {
				return err
			}
			t.ops = wire.AppendTxnOp(outer, wire.TxnNested, wire.AppendTxn(nil, wire.Header{Revision: t.rev}, ok, t.ops))
		}
	}
	return nil
}

func (s *memStore) Range(_ context.Context, r *wire.RangeRequest) (resp mem.BufferSlice, err error) {
	_, err = s.do(func(t *memTxn) error {
		kvs, more, count, err := t.read(r)
		resp = wire.EncodeRange(s.header(), kvs, more, count)
		return err
	})
	s.done(false)
	return resp, err
}

func (s *memStore) done(wrote bool) {
	if s.after != nil {
		s.after(wrote)
	}
}

func (s *memStore) RangeStream(ctx context.Context, r *wire.RangeRequest, send func(mem.BufferSlice) error) error {
	var resp mem.BufferSlice
	_, err := s.do(func(t *memTxn) error {
		kvs, more, count, err := t.read(r)
		resp = wire.EncodeRangeStream(s.header(), kvs, more, count)
		return err
	})
	if err != nil {
		return err
	}
	return send(resp)
}

func (s *memStore) Put(_ context.Context, r *wire.PutRequest) (mem.BufferSlice, error) {
	var prev []byte
	h, err := s.do(func(t *memTxn) (err error) {
		prev, err = t.put(&pb.PutRequest{Key: r.Key, Value: r.Value, Lease: r.Lease, IgnoreValue: r.IgnoreValue, IgnoreLease: r.IgnoreLease})
		return err
	})
	if !r.PrevKV {
		prev = nil
	}
	return wire.EncodePut(h, prev), err
}

func (s *memStore) DeleteRange(_ context.Context, r *wire.DeleteRangeRequest) (mem.BufferSlice, error) {
	var prev [][]byte
	h, err := s.do(func(t *memTxn) (err error) {
		prev, err = t.delete(r.Key, r.RangeEnd)
		return err
	})
	return wire.EncodeDeleteRange(h, int64(len(prev)), nil), err
}

func (s *memStore) Txn(_ context.Context, r *pb.TxnRequest, _ []byte) (mem.BufferSlice, error) {
	var ops []byte
	var succeeded, wrote bool
	h, err := s.do(func(t *memTxn) (err error) {
		succeeded, err = t.run(r)
		ops, wrote = t.ops, len(t.events) > 0
		return err
	})
	s.done(wrote)
	return wire.EncodeTxn(h, succeeded, ops), err
}

func (s *memStore) Compact(_ context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	switch {
	case r.Revision > s.revision():
		return nil, rpctypes.ErrGRPCFutureRev
	case r.Revision <= s.compactRevision():
		return nil, rpctypes.ErrGRPCCompacted
	}
	s.compact(r.Revision)
	return &pb.CompactionResponse{Header: header(s.header())}, nil
}

func (s *memStore) compactRevision() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.compacted
}

func (s *memStore) LeaseGrant(_ context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	s.write.Lock()
	defer s.write.Unlock()
	id := r.ID
	if id == 0 {
		id = int64(1000 + len(s.leases))
	}
	if _, ok := s.leases[id]; ok {
		return nil, rpctypes.ErrGRPCLeaseExist
	}
	s.leases[id] = r.TTL
	return &pb.LeaseGrantResponse{Header: header(s.header()), ID: id, TTL: r.TTL}, nil
}

func (s *memStore) LeaseRevoke(_ context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	h, err := s.do(func(t *memTxn) error {
		if _, ok := s.leases[r.ID]; !ok {
			return rpctypes.ErrGRPCLeaseNotFound
		}
		delete(s.leases, r.ID)
		for _, encoded := range t.inRange([]byte{0}, []byte{0}) {
			var kv wire.KeyValue
			if err := kv.Unmarshal(encoded); err != nil {
				return err
			}
			if kv.Lease == r.ID {
				if _, err := t.delete(kv.Key, nil); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return &pb.LeaseRevokeResponse{Header: header(h)}, err
}

// ttl fails if there is no such lease.
func (s *memStore) ttl(id int64) (int64, error) {
	s.write.Lock()
	defer s.write.Unlock()
	ttl, ok := s.leases[id]
	if !ok {
		return 0, rpctypes.ErrGRPCLeaseNotFound
	}
	return ttl, nil
}

func (s *memStore) LeaseRenew(_ context.Context, id int64) (int64, error) { return s.ttl(id) }

func (s *memStore) LeaseRenewNow(_ context.Context, ids, ttls []int64) {
	for i, id := range ids {
		ttls[i], _ = s.ttl(id) // 0 if it is not there
	}
}

func (s *memStore) LeaseTimeToLive(_ context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	ttl, err := s.ttl(r.ID)
	return &pb.LeaseTimeToLiveResponse{Header: header(s.header()), ID: r.ID, TTL: ttl, GrantedTTL: ttl}, err
}

func (s *memStore) LeaseLeases(context.Context, *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	s.write.Lock()
	defer s.write.Unlock()
	resp := &pb.LeaseLeasesResponse{Header: header(s.header())}
	for id := range s.leases {
		resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: id})
	}
	return resp, nil
}

// noUsers is an Auth that is off.
type noUsers struct{}

func (noUsers) AuthEnable(context.Context, *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	return nil, rpctypes.ErrGRPCRootUserNotExist
}
func (noUsers) AuthDisable(context.Context, *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	return new(pb.AuthDisableResponse), nil
}
func (noUsers) AuthStatus(context.Context, *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	return new(pb.AuthStatusResponse), nil
}
func (noUsers) Authenticate(context.Context, *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	return nil, rpctypes.ErrGRPCAuthNotEnabled
}
func (noUsers) UserAdd(context.Context, *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	return nil, rpctypes.ErrGRPCUserEmpty
}
func (noUsers) UserGet(context.Context, *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}
func (noUsers) UserList(context.Context, *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	return new(pb.AuthUserListResponse), nil
}
func (noUsers) UserDelete(context.Context, *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}
func (noUsers) UserChangePassword(context.Context, *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}
func (noUsers) UserGrantRole(context.Context, *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}
func (noUsers) UserRevokeRole(context.Context, *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}
func (noUsers) RoleAdd(context.Context, *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	return nil, rpctypes.ErrGRPCRoleEmpty
}
func (noUsers) RoleGet(context.Context, *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	return nil, rpctypes.ErrGRPCRoleNotFound
}
func (noUsers) RoleList(context.Context, *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	return new(pb.AuthRoleListResponse), nil
}
func (noUsers) RoleDelete(context.Context, *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	return nil, rpctypes.ErrGRPCRoleNotFound
}
func (noUsers) RoleGrantPermission(context.Context, *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	return nil, rpctypes.ErrGRPCRoleNotFound
}
func (noUsers) RoleRevokePermission(context.Context, *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	return nil, rpctypes.ErrGRPCRoleNotFound
}
func (noUsers) PermitWatch(context.Context, []byte, []byte) (string, error) { return "", nil }
func (noUsers) PermitUser(string, []byte, []byte) error                     { return nil }
func (noUsers) PermitKnown(context.Context) error                           { return nil }

// oneMember is a Cluster and its Maintenance that does not change.
type oneMember struct{}

func (oneMember) MemberList(context.Context, *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	return &pb.MemberListResponse{Members: []*pb.Member{{ID: 12, Name: "one"}}}, nil
}
func (oneMember) MemberAdd(context.Context, *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	return nil, rpctypes.ErrGRPCMemberExist
}
func (oneMember) MemberRemove(context.Context, *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	return nil, rpctypes.ErrGRPCMemberNotFound
}
func (oneMember) MemberUpdate(context.Context, *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	return nil, rpctypes.ErrGRPCMemberNotFound
}
func (oneMember) MemberPromote(context.Context, *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	return nil, rpctypes.ErrGRPCMemberNotFound
}
func (oneMember) Alarm(context.Context, *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	return new(pb.AlarmResponse), nil
}
func (oneMember) Alarms() []*pb.AlarmMember { return nil }
func (oneMember) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Version: "3.7.3", Leader: 12}, nil
}
func (oneMember) Defragment(context.Context, *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	return new(pb.DefragmentResponse), nil
}
func (oneMember) Hash(context.Context, *pb.HashRequest) (*pb.HashResponse, error) {
	return new(pb.HashResponse), nil
}
func (oneMember) HashKV(context.Context, *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	return new(pb.HashKVResponse), nil
}
func (oneMember) Snapshot(_ context.Context, send func(*pb.SnapshotResponse) error) error {
	return send(&pb.SnapshotResponse{Blob: []byte("all of it")})
}
func (oneMember) MoveLeader(context.Context, *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	return nil, rpctypes.ErrGRPCBadLeaderTransferee
}
func (oneMember) Downgrade(context.Context, *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	return nil, rpctypes.ErrGRPCNoInflightDowngrade
}
