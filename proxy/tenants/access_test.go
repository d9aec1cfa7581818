package tenants

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

const accessFile = `
tenants:
- {name: confined, users: [confined], namespace: /a/}
- {name: reader, users: [reader], namespace-of: confined, access: read-only}
- {name: looker, users: [looker], access: read-only}
- {name: free, users: [free]}
`

var callers = []string{"confined", "reader", "looker", "free"}

// Who of the callers may use a method.
const (
	everybody = "crlf"
	writers   = "c  f"
	lookers   = "  lf"
	onlyFree  = "   f"
)

func TestMethodsAreForWhomTheyCannotHarmOthers(t *testing.T) {
	table := newTable(t, accessFile, Config{Upstream: newStore(t)})
	rangeOp := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("k")}}}
	putOp := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k")}}}
	deleteOp := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("k")}}}
	inside := func(op *pb.RequestOp) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Failure: []*pb.RequestOp{op}}}}
	}
	newOp := &pb.RequestOp{}
	newOp.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 9, protowire.BytesType), []byte("k")))
	txn := func(success, failure *pb.RequestOp) proto.Message {
		return &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp, success}, Failure: []*pb.RequestOp{failure}}
	}
	for _, c := range []struct {
		method string
		req    proto.Message // nil is an empty one
		who    string
	}{
		{pb.KV_Range_FullMethodName, nil, everybody},
		{pb.KV_RangeStream_FullMethodName, nil, everybody},
		{pb.Watch_Watch_FullMethodName, nil, everybody},
		{pb.KV_Txn_FullMethodName, nil, everybody},
		{pb.KV_Txn_FullMethodName, txn(rangeOp, inside(rangeOp)), everybody},
		{pb.KV_Txn_FullMethodName, txn(rangeOp, putOp), writers},
		{pb.KV_Txn_FullMethodName, txn(deleteOp, rangeOp), writers},
		{pb.KV_Txn_FullMethodName, txn(inside(inside(putOp)), rangeOp), writers},
		{pb.KV_Txn_FullMethodName, txn(newOp, putOp), onlyFree},
		{pb.KV_Put_FullMethodName, nil, writers},
		{pb.KV_DeleteRange_FullMethodName, nil, writers},
		{pb.KV_Compact_FullMethodName, nil, onlyFree},
		{pb.Lease_LeaseGrant_FullMethodName, nil, writers},
		{pb.Lease_LeaseRevoke_FullMethodName, nil, writers},
		{pb.Lease_LeaseKeepAlive_FullMethodName, nil, writers},
		{pb.Lease_LeaseTimeToLive_FullMethodName, nil, everybody},
		{pb.Lease_LeaseLeases_FullMethodName, nil, lookers},
		{wire.PingsMethod, nil, onlyFree},
		{lockpb.Lock_Lock_FullMethodName, nil, writers},
		{lockpb.Lock_Unlock_FullMethodName, nil, writers},
		{lockpb.Election_Campaign_FullMethodName, nil, writers},
		{lockpb.Election_Proclaim_FullMethodName, nil, writers},
		{lockpb.Election_Resign_FullMethodName, nil, writers},
		{lockpb.Election_Leader_FullMethodName, nil, everybody},
		{lockpb.Election_Observe_FullMethodName, nil, everybody},
		{pb.Cluster_MemberList_FullMethodName, nil, everybody},
		{pb.Cluster_MemberAdd_FullMethodName, nil, onlyFree},
		{pb.Cluster_MemberRemove_FullMethodName, nil, onlyFree},
		{pb.Cluster_MemberUpdate_FullMethodName, nil, onlyFree},
		{pb.Cluster_MemberPromote_FullMethodName, nil, onlyFree},
		{pb.Maintenance_Status_FullMethodName, nil, everybody},
		{pb.Maintenance_Alarm_FullMethodName, nil, everybody}, // list
		{pb.Maintenance_Alarm_FullMethodName, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE}, onlyFree},
		{pb.Maintenance_Alarm_FullMethodName, &pb.AlarmRequest{Action: 7}, onlyFree},
		{pb.Maintenance_Hash_FullMethodName, nil, lookers},
		{pb.Maintenance_HashKV_FullMethodName, nil, lookers},
		{pb.Maintenance_Snapshot_FullMethodName, nil, lookers},
		{pb.Maintenance_Defragment_FullMethodName, nil, onlyFree},
		{pb.Maintenance_MoveLeader_FullMethodName, nil, onlyFree},
		{pb.Maintenance_Downgrade_FullMethodName, nil, onlyFree},
		{pb.Auth_Authenticate_FullMethodName, nil, everybody},
		{pb.Auth_AuthStatus_FullMethodName, nil, everybody},
		{pb.Auth_AuthEnable_FullMethodName, nil, onlyFree},
		{pb.Auth_AuthDisable_FullMethodName, nil, onlyFree},
		{pb.Auth_UserGet_FullMethodName, nil, lookers},
		{pb.Auth_UserGet_FullMethodName, &pb.AuthUserGetRequest{Name: "confined"}, "c lf"}, // himself
		{pb.Auth_UserList_FullMethodName, nil, lookers},
		{pb.Auth_UserAdd_FullMethodName, nil, onlyFree},
		{pb.Auth_UserDelete_FullMethodName, nil, onlyFree},
		{pb.Auth_UserChangePassword_FullMethodName, nil, onlyFree},
		{pb.Auth_UserGrantRole_FullMethodName, nil, onlyFree},
		{pb.Auth_UserRevokeRole_FullMethodName, nil, onlyFree},
		{pb.Auth_RoleGet_FullMethodName, nil, lookers},
		{pb.Auth_RoleList_FullMethodName, nil, lookers},
		{pb.Auth_RoleAdd_FullMethodName, nil, onlyFree},
		{pb.Auth_RoleDelete_FullMethodName, nil, onlyFree},
		{pb.Auth_RoleGrantPermission_FullMethodName, nil, onlyFree},
		{pb.Auth_RoleRevokePermission_FullMethodName, nil, onlyFree},
		{"/grpc.health.v1.Health/Check", nil, everybody},
		{"/etcdserverpb.KV/Erase", nil, onlyFree}, // of a newer etcd
	} {
		req := c.req
		if req == nil {
			req = &emptypb.Empty{}
		}
		for i, user := range callers {
			err := call(t, table, &caller{token: "good-" + user}, c.method, req)
			allowed := c.who[i] != ' '
			if allowed != (err == nil) {
				t.Errorf("%s %v by %s: %v", c.method, req, user, err)
			}
			want := rpctypes.ErrGRPCPermissionDenied
			if c.method == wire.PingsMethod && user == "confined" {
				continue // a proxy of a tenant's own is told to do without
			}
			if !allowed && err != want {
				t.Errorf("%s by %s: %v, want %v", c.method, user, err, want)
			}
		}
	}
}

func TestEveryMethodOfEtcdHasBeenThoughtOf(t *testing.T) {
	// What is not in classOf may do anything, and that is right for these.
	changing := map[string]bool{}
	for _, m := range []string{
		pb.KV_Compact_FullMethodName, pb.Cluster_MemberAdd_FullMethodName, pb.Cluster_MemberRemove_FullMethodName,
		pb.Cluster_MemberUpdate_FullMethodName, pb.Cluster_MemberPromote_FullMethodName, pb.Maintenance_Alarm_FullMethodName,
		pb.Maintenance_Defragment_FullMethodName, pb.Maintenance_MoveLeader_FullMethodName, pb.Maintenance_Downgrade_FullMethodName,
		pb.Auth_AuthEnable_FullMethodName, pb.Auth_AuthDisable_FullMethodName, pb.Auth_UserAdd_FullMethodName,
		pb.Auth_UserDelete_FullMethodName, pb.Auth_UserChangePassword_FullMethodName, pb.Auth_UserGrantRole_FullMethodName,
		pb.Auth_UserRevokeRole_FullMethodName, pb.Auth_RoleAdd_FullMethodName, pb.Auth_RoleDelete_FullMethodName,
		pb.Auth_RoleGrantPermission_FullMethodName, pb.Auth_RoleRevokePermission_FullMethodName,
	} {
		changing[m] = true
	}
	services := pb.File_rpc_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			name := "/" + string(services.Get(i).FullName()) + "/" + string(methods.Get(j).Name())
			if (classOf(name) == changesAll) != changing[name] {
				t.Errorf("%s is of class %d", name, classOf(name))
			}
		}
	}
}

func TestMalformedRequestIsRefusedAsAtEtcd(t *testing.T) {
	table := newTable(t, accessFile, Config{Upstream: newStore(t)})
	for _, method := range []string{
		pb.KV_Put_FullMethodName, pb.KV_Txn_FullMethodName, pb.Lease_LeaseRevoke_FullMethodName, pb.Lease_LeaseTimeToLive_FullMethodName,
		pb.Maintenance_Alarm_FullMethodName, pb.Auth_UserGet_FullMethodName, lockpb.Lock_Lock_FullMethodName,
		lockpb.Election_Campaign_FullMethodName, lockpb.Election_Proclaim_FullMethodName,
	} {
		_, err := table.Enter((&caller{token: "good-confined"}).ctx(t.Context()), method, wire.Raw("\x0a\x05k"))
		if status.Code(err) != codes.Internal {
			t.Errorf("%s: %v", method, err)
		}
	}
	c := &caller{token: "good-confined"}
	v, err := table.Enter(c.ctx(t.Context()), pb.Lease_LeaseKeepAlive_FullMethodName, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Message(wire.Raw("\x08")); status.Code(err) != codes.Internal {
		t.Errorf("a ping: %v", err)
	}
	v.Leave(nil, nil)
	if a := accountOf(t, table, c); a.open != [lanes]int{} {
		t.Errorf("what was refused is still counted: %v", a.open)
	}
}
