package access

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/lockpb"
)

const (
	allowed  = ""
	empty    = "etcdserver: user name is empty"
	denied   = "etcdserver: permission denied"
	notFound = "etcdserver: user name not found"
	noKey    = "etcdserver: key is not provided"
)

func b(s string) []byte { return []byte(s) }

func op(m proto.Message) *pb.RequestOp {
	switch m := m.(type) {
	case *pb.RangeRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: m}}
	case *pb.PutRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: m}}
	case *pb.DeleteRangeRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: m}}
	case *pb.TxnRequest:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: m}}
	}
	panic("not an operation")
}

func compare(key, end string) *pb.Compare { return &pb.Compare{Key: b(key), RangeEnd: b(end)} }

var judgements = []struct {
	method string
	req    proto.Message
	alice  string // what she is told
	ghost  string // and who shows the certificate of no user
}{
	{"etcdserverpb.KV/Range", &pb.RangeRequest{Key: b("a")}, allowed, denied},
	{"etcdserverpb.KV/Range", &pb.RangeRequest{Key: b("a"), RangeEnd: b("b")}, allowed, denied},
	{"etcdserverpb.KV/Range", &pb.RangeRequest{Key: b("a"), RangeEnd: b("c")}, denied, denied},
	{"etcdserverpb.KV/Range", &pb.RangeRequest{Key: b("a"), RangeEnd: b("\x00")}, denied, denied},
	{"etcdserverpb.KV/Range", &pb.RangeRequest{Key: b("w")}, denied, denied},
	{"etcdserverpb.KV/Range", &pb.RangeRequest{}, noKey, noKey},
	{"etcdserverpb.KV/RangeStream", &pb.RangeRequest{Key: b("r")}, allowed, denied},
	{"etcdserverpb.KV/RangeStream", &pb.RangeRequest{Key: b("b")}, denied, denied},
	{"etcdserverpb.KV/Put", &pb.PutRequest{Key: b("w")}, allowed, denied},
	{"etcdserverpb.KV/Put", &pb.PutRequest{Key: b("r")}, denied, denied},
	{"etcdserverpb.KV/Put", &pb.PutRequest{Key: b("w"), PrevKv: true}, denied, denied},
	{"etcdserverpb.KV/Put", &pb.PutRequest{Key: b("a"), PrevKv: true}, allowed, denied},
	{"etcdserverpb.KV/Put", &pb.PutRequest{Key: b("a"), Lease: 1}, allowed, denied},
	{"etcdserverpb.KV/Put", &pb.PutRequest{Key: b("a"), Lease: 2}, denied, denied},
	{"etcdserverpb.KV/Put", &pb.PutRequest{Key: b("a"), Lease: 3}, allowed, denied},
	{"etcdserverpb.KV/Put", &pb.PutRequest{}, noKey, noKey},
	{"etcdserverpb.KV/DeleteRange", &pb.DeleteRangeRequest{Key: b("a"), RangeEnd: b("b"), PrevKv: true}, allowed, denied},
	{"etcdserverpb.KV/DeleteRange", &pb.DeleteRangeRequest{Key: b("w"), RangeEnd: b("x")}, allowed, denied},
	{"etcdserverpb.KV/DeleteRange", &pb.DeleteRangeRequest{Key: b("w"), RangeEnd: b("x"), PrevKv: true}, denied, denied},
	{"etcdserverpb.KV/DeleteRange", &pb.DeleteRangeRequest{Key: b("r")}, denied, denied},
	{"etcdserverpb.KV/DeleteRange", &pb.DeleteRangeRequest{}, noKey, noKey},
	{"etcdserverpb.KV/Txn", &pb.TxnRequest{}, allowed, allowed},
	{"etcdserverpb.KV/Txn", &pb.TxnRequest{Compare: []*pb.Compare{compare("r", "s")}}, allowed, denied},
	{"etcdserverpb.KV/Txn", &pb.TxnRequest{Compare: []*pb.Compare{compare("r", "t")}}, denied, denied},
	{"etcdserverpb.KV/Txn", &pb.TxnRequest{Success: []*pb.RequestOp{op(&pb.PutRequest{Key: b("w")})}}, allowed, denied},
	{"etcdserverpb.KV/Txn", &pb.TxnRequest{Failure: []*pb.RequestOp{op(&pb.PutRequest{Key: b("r")})}}, denied, denied},
	{"etcdserverpb.KV/Txn", &pb.TxnRequest{Failure: []*pb.RequestOp{op(&pb.PutRequest{Key: b("a"), Lease: 2})}}, denied, denied},
	{"etcdserverpb.KV/Txn", &pb.TxnRequest{Success: []*pb.RequestOp{op(&pb.TxnRequest{
		Failure: []*pb.RequestOp{op(&pb.DeleteRangeRequest{Key: b("r")})},
	})}}, denied, denied},
	{"etcdserverpb.KV/Txn", &pb.TxnRequest{Success: []*pb.RequestOp{op(&pb.TxnRequest{
		Compare: []*pb.Compare{compare("z", "")},
	})}}, denied, denied},
	{"etcdserverpb.KV/Compact", &pb.CompactionRequest{}, denied, notFound},

	{"etcdserverpb.Watch/Watch", watchOf("a", "b"), allowed, denied},
	{"etcdserverpb.Watch/Watch", watchOf("a", "c"), denied, denied},
	{"etcdserverpb.Watch/Watch", watchOf("", "\x00"), denied, denied},
	{"etcdserverpb.Watch/Watch", &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{}}}, allowed, allowed},
	{"etcdserverpb.Watch/Watch", &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{
		ProgressRequest: &pb.WatchProgressRequest{}}}, allowed, allowed},

	{"etcdserverpb.Lease/LeaseGrant", &pb.LeaseGrantRequest{}, allowed, allowed},
	{"etcdserverpb.Lease/LeaseRevoke", &pb.LeaseRevokeRequest{ID: 1}, allowed, denied},
	{"etcdserverpb.Lease/LeaseRevoke", &pb.LeaseRevokeRequest{ID: 2}, denied, denied},
	{"etcdserverpb.Lease/LeaseRevoke", &pb.LeaseRevokeRequest{ID: 3}, allowed, allowed},
	{"etcdserverpb.Lease/LeaseKeepAlive", &pb.LeaseKeepAliveRequest{ID: 1}, allowed, denied},
	{"etcdserverpb.Lease/LeaseKeepAlive", &pb.LeaseKeepAliveRequest{ID: 2}, denied, denied},
	{"etcdserverpb.Lease/LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: 2}, allowed, allowed},
	{"etcdserverpb.Lease/LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: 1, Keys: true}, allowed, denied},
	{"etcdserverpb.Lease/LeaseTimeToLive", &pb.LeaseTimeToLiveRequest{ID: 2, Keys: true}, denied, denied},
	{"etcdserverpb.Lease/LeaseLeases", &pb.LeaseLeasesRequest{}, denied, denied},

	{"etcdserverpb.Cluster/MemberList", &pb.MemberListRequest{}, allowed, allowed},
	{"etcdserverpb.Cluster/MemberAdd", &pb.MemberAddRequest{}, denied, notFound},
	{"etcdserverpb.Cluster/MemberRemove", &pb.MemberRemoveRequest{}, denied, notFound},
	{"etcdserverpb.Cluster/MemberUpdate", &pb.MemberUpdateRequest{}, denied, notFound},
	{"etcdserverpb.Cluster/MemberPromote", &pb.MemberPromoteRequest{}, denied, notFound},

	{"etcdserverpb.Maintenance/Status", &pb.StatusRequest{}, allowed, allowed},
	{"etcdserverpb.Maintenance/Alarm", &pb.AlarmRequest{}, allowed, allowed},
	{"etcdserverpb.Maintenance/Alarm", &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE}, denied, notFound},
	{"etcdserverpb.Maintenance/Defragment", &pb.DefragmentRequest{}, denied, notFound},
	{"etcdserverpb.Maintenance/Hash", &pb.HashRequest{}, denied, notFound},
	{"etcdserverpb.Maintenance/HashKV", &pb.HashKVRequest{}, denied, notFound},
	{"etcdserverpb.Maintenance/Snapshot", &pb.SnapshotRequest{}, denied, notFound},
	{"etcdserverpb.Maintenance/MoveLeader", &pb.MoveLeaderRequest{}, denied, notFound},
	{"etcdserverpb.Maintenance/Downgrade", &pb.DowngradeRequest{}, denied, notFound},

	{"etcdserverpb.Auth/Authenticate", &pb.AuthenticateRequest{}, allowed, allowed},
	{"etcdserverpb.Auth/AuthStatus", &pb.AuthStatusRequest{}, allowed, allowed},
	{"etcdserverpb.Auth/AuthEnable", &pb.AuthEnableRequest{}, denied, notFound},
	{"etcdserverpb.Auth/AuthDisable", &pb.AuthDisableRequest{}, denied, notFound},
	{"etcdserverpb.Auth/UserGet", &pb.AuthUserGetRequest{Name: "alice"}, allowed, notFound},
	{"etcdserverpb.Auth/UserGet", &pb.AuthUserGetRequest{Name: "ghost"}, denied, allowed},
	{"etcdserverpb.Auth/UserGet", &pb.AuthUserGetRequest{}, denied, notFound},
	{"etcdserverpb.Auth/RoleGet", &pb.AuthRoleGetRequest{Role: "a"}, allowed, notFound},
	{"etcdserverpb.Auth/RoleGet", &pb.AuthRoleGetRequest{Role: "root"}, denied, notFound},
	{"etcdserverpb.Auth/UserList", &pb.AuthUserListRequest{}, denied, notFound},
	{"etcdserverpb.Auth/RoleList", &pb.AuthRoleListRequest{}, denied, notFound},
	{"etcdserverpb.Auth/UserAdd", &pb.AuthUserAddRequest{}, denied, notFound},
	{"etcdserverpb.Auth/UserDelete", &pb.AuthUserDeleteRequest{}, denied, notFound},
	{"etcdserverpb.Auth/UserChangePassword", &pb.AuthUserChangePasswordRequest{Name: "alice"}, denied, notFound},
	{"etcdserverpb.Auth/UserGrantRole", &pb.AuthUserGrantRoleRequest{}, denied, notFound},
	{"etcdserverpb.Auth/UserRevokeRole", &pb.AuthUserRevokeRoleRequest{}, denied, notFound},
	{"etcdserverpb.Auth/RoleAdd", &pb.AuthRoleAddRequest{}, denied, notFound},
	{"etcdserverpb.Auth/RoleDelete", &pb.AuthRoleDeleteRequest{}, denied, notFound},
	{"etcdserverpb.Auth/RoleGrantPermission", &pb.AuthRoleGrantPermissionRequest{}, denied, notFound},
	{"etcdserverpb.Auth/RoleRevokePermission", &pb.AuthRoleRevokePermissionRequest{}, denied, notFound},

	{"v3lockpb.Lock/Lock", &lockpb.LockRequest{Name: b("a1")}, allowed, denied},
	{"v3lockpb.Lock/Lock", &lockpb.LockRequest{Name: b("w1")}, denied, denied},
	{"v3lockpb.Lock/Lock", &lockpb.LockRequest{Name: b("r1")}, denied, denied},
	{"v3lockpb.Lock/Lock", &lockpb.LockRequest{Name: b("a1"), Lease: 1}, allowed, denied},
	{"v3lockpb.Lock/Lock", &lockpb.LockRequest{Name: b("a1"), Lease: 2}, denied, denied},
	{"v3lockpb.Lock/Unlock", &lockpb.UnlockRequest{Key: b("w1/1")}, allowed, denied},
	{"v3lockpb.Lock/Unlock", &lockpb.UnlockRequest{Key: b("r1/1")}, denied, denied},
	{"v3lockpb.Lock/Unlock", &lockpb.UnlockRequest{}, noKey, noKey},
	{"v3electionpb.Election/Campaign", &lockpb.CampaignRequest{Name: b("a1")}, allowed, denied},
	{"v3electionpb.Election/Campaign", &lockpb.CampaignRequest{Name: b("r1")}, denied, denied},
	{"v3electionpb.Election/Proclaim", &lockpb.ProclaimRequest{}, allowed, allowed},
	{"v3electionpb.Election/Proclaim", &lockpb.ProclaimRequest{Leader: &lockpb.LeaderKey{Key: b("a1/1")}}, allowed, denied},
	{"v3electionpb.Election/Proclaim", &lockpb.ProclaimRequest{Leader: &lockpb.LeaderKey{Key: b("r1/1")}}, denied, denied},
	{"v3electionpb.Election/Proclaim", &lockpb.ProclaimRequest{Leader: &lockpb.LeaderKey{Key: b("w1/1")}}, denied, denied},
	{"v3electionpb.Election/Leader", &lockpb.LeaderRequest{Name: b("r1")}, allowed, denied},
	{"v3electionpb.Election/Leader", &lockpb.LeaderRequest{Name: b("w1")}, denied, denied},
	{"v3electionpb.Election/Observe", &lockpb.LeaderRequest{Name: b("b1")}, denied, denied},
	{"v3electionpb.Election/Resign", &lockpb.ResignRequest{Leader: &lockpb.LeaderKey{Key: b("a1/1")}}, allowed, denied},
	{"v3electionpb.Election/Resign", &lockpb.ResignRequest{Leader: &lockpb.LeaderKey{Key: b("r1/1")}}, denied, denied},

	{"grpc.health.v1.Health/Check", &pb.StatusRequest{}, allowed, allowed},
	{"etcdserverpb.KV/NewMethod", &pb.StatusRequest{}, denied, notFound},
	{"weir.Leases/KeepAlive", &pb.StatusRequest{}, denied, notFound},
}

func watchOf(key, end string) proto.Message {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: b(key), RangeEnd: b(end)},
	}}
}
