package identities

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// answerOf is what somebody is told, as far as it does not depend on when.
func (p *badgePlace) answerOf(visitor, addr, method string, req proto.Message) string {
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	conn := p.as(visitor, addr)
	var kvs []string
	err := func() error {
		switch method {
		case pb.KV_RangeStream_FullMethodName, pb.Watch_Watch_FullMethodName, pb.Lease_LeaseKeepAlive_FullMethodName,
			v3electionpb.Election_Observe_FullMethodName, pb.Maintenance_Snapshot_FullMethodName:
			s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
			if err != nil {
				return err
			}
			if err := s.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if method != pb.Watch_Watch_FullMethodName && method != pb.Lease_LeaseKeepAlive_FullMethodName {
				_ = s.CloseSend()
			}
			var r pb.WatchResponse // of which other answers have no fields that would be misread
			if method != pb.Watch_Watch_FullMethodName {
				return s.RecvMsg(&pb.AuthDisableResponse{})
			}
			if err := s.RecvMsg(&r); err != nil {
				return err
			}
			kvs = append(kvs, fmt.Sprint(r.Created, r.Canceled, r.CancelReason))
			return nil
		case pb.KV_Range_FullMethodName:
			var r pb.RangeResponse
			err := conn.Invoke(ctx, method, req, &r)
			for _, kv := range r.Kvs {
				if len(kv.Key) > 2 {
					continue // somebody's lock
				}
				kvs = append(kvs, string(kv.Key)+"="+string(kv.Value))
			}
			return err
		}
		return conn.Invoke(ctx, method, req, &pb.AuthDisableResponse{}) // other fields are skipped
	}()
	s := status.Convert(err)
	return fmt.Sprint(s.Code(), ": ", s.Message(), kvs)
}

// badgeRequest is what certificate users ask for. Names are of whom they ask, so that nobody waits for another's lock.
type badgeRequest struct {
	method string
	req    func(of string) proto.Message
	admin  bool // root does not ask: it would be done
}

func ask(method string, m proto.Message) badgeRequest {
	return badgeRequest{method: method, req: func(string) proto.Message { return m }}
}

func demand(method string, m proto.Message) badgeRequest {
	r := ask(method, m)
	r.admin = true
	return r
}

func badgeRequests() []badgeRequest {
	k := func(s string) []byte { return []byte(s) }
	get := func(key, end string) *pb.RangeRequest { return &pb.RangeRequest{Key: k(key), RangeEnd: k(end)} }
	txn := func(m *pb.TxnRequest) badgeRequest { return ask(pb.KV_Txn_FullMethodName, m) }
	rangeOp := func(key, end string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: get(key, end)}}
	}
	putOp := func(m *pb.PutRequest) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: m}}
	}
	watch := func(key, end string) badgeRequest {
		return ask(pb.Watch_Watch_FullMethodName, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
			CreateRequest: &pb.WatchCreateRequest{Key: k(key), RangeEnd: k(end)},
		}})
	}
	exists := []*pb.Compare{{Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{}, Key: k("r1"), RangeEnd: k("r2")}}
	return []badgeRequest{
		ask(pb.KV_Range_FullMethodName, get("a1", "")),
		ask(pb.KV_Range_FullMethodName, get("a", "b")),
		ask(pb.KV_Range_FullMethodName, get("a", "c")),
		ask(pb.KV_Range_FullMethodName, get("\x00", "\x00")),
		ask(pb.KV_Range_FullMethodName, get("w1", "")),
		ask(pb.KV_Range_FullMethodName, get("", "")),
		ask(pb.KV_Range_FullMethodName, &pb.RangeRequest{Key: k("r1"), Serializable: true}),
		ask(pb.KV_Range_FullMethodName, &pb.RangeRequest{Key: k("z"), Serializable: true}),
		ask(pb.KV_RangeStream_FullMethodName, get("r", "s")),
		ask(pb.KV_RangeStream_FullMethodName, get("r", "t")),
		ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: k("a1"), Value: k("value of a1")}),
		ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: k("r1"), Value: k("value of r1")}),
		ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: k("w1"), Value: k("value of w1"), PrevKv: true}),
		ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: k("a2"), Value: k("value of a2"), Lease: 1}),
		ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: k("a3"), Value: k("value of a3"), Lease: 2}),
		ask(pb.KV_Put_FullMethodName, &pb.PutRequest{Key: k("a1"), Lease: 99}),
		ask(pb.KV_Put_FullMethodName, &pb.PutRequest{}),
		ask(pb.KV_DeleteRange_FullMethodName, &pb.DeleteRangeRequest{Key: k("a9")}),
		ask(pb.KV_DeleteRange_FullMethodName, &pb.DeleteRangeRequest{Key: k("w8"), RangeEnd: k("w9"), PrevKv: true}),
		ask(pb.KV_DeleteRange_FullMethodName, &pb.DeleteRangeRequest{Key: k("r9")}),
		ask(pb.KV_DeleteRange_FullMethodName, &pb.DeleteRangeRequest{}),
		txn(&pb.TxnRequest{}),
		txn(&pb.TxnRequest{Compare: exists, Success: []*pb.RequestOp{rangeOp("a", "b")}}),
		txn(&pb.TxnRequest{Success: []*pb.RequestOp{rangeOp("a", "b")}, Failure: []*pb.RequestOp{rangeOp("b1", "")}}),
		txn(&pb.TxnRequest{Success: []*pb.RequestOp{putOp(&pb.PutRequest{Key: k("w1"), Value: k("value of w1")})}}),
		txn(&pb.TxnRequest{Failure: []*pb.RequestOp{putOp(&pb.PutRequest{Key: k("a3"), Value: k("value of a3"), Lease: 2})}}),
		txn(&pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{
			Failure: []*pb.RequestOp{rangeOp("z", "")},
		}}}}}),
		watch("a", "b"), watch("a", "c"), watch("", "\x00"), watch("r1", ""), watch("w1", ""),

		ask(pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantRequest{TTL: 3600}),
		ask(pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: 99}),
		demand(pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: 2}),
		ask(pb.Lease_LeaseKeepAlive_FullMethodName, &pb.LeaseKeepAliveRequest{ID: 1}),
		ask(pb.Lease_LeaseKeepAlive_FullMethodName, &pb.LeaseKeepAliveRequest{ID: 2}),
		ask(pb.Lease_LeaseKeepAlive_FullMethodName, &pb.LeaseKeepAliveRequest{ID: 3}),
		ask(pb.Lease_LeaseTimeToLive_FullMethodName, &pb.LeaseTimeToLiveRequest{ID: 2}),
		ask(pb.Lease_LeaseTimeToLive_FullMethodName, &pb.LeaseTimeToLiveRequest{ID: 1, Keys: true}),
		ask(pb.Lease_LeaseTimeToLive_FullMethodName, &pb.LeaseTimeToLiveRequest{ID: 2, Keys: true}),
		ask(pb.Lease_LeaseLeases_FullMethodName, &pb.LeaseLeasesRequest{}),

		ask(pb.Cluster_MemberList_FullMethodName, &pb.MemberListRequest{}),
		demand(pb.Cluster_MemberRemove_FullMethodName, &pb.MemberRemoveRequest{ID: 1}),
		demand(pb.Cluster_MemberPromote_FullMethodName, &pb.MemberPromoteRequest{ID: 1}),
		ask(pb.Maintenance_Status_FullMethodName, &pb.StatusRequest{}),
		ask(pb.Maintenance_Alarm_FullMethodName, &pb.AlarmRequest{}),
		demand(pb.Maintenance_Alarm_FullMethodName, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE}),
		ask(pb.Maintenance_HashKV_FullMethodName, &pb.HashKVRequest{}),
		ask(pb.Maintenance_Snapshot_FullMethodName, &pb.SnapshotRequest{}),
		demand(pb.Maintenance_Defragment_FullMethodName, &pb.DefragmentRequest{}),

		ask(pb.Auth_AuthStatus_FullMethodName, &pb.AuthStatusRequest{}),
		ask(pb.Auth_Authenticate_FullMethodName, &pb.AuthenticateRequest{Name: "alice", Password: "wrong"}),
		ask(pb.Auth_UserGet_FullMethodName, &pb.AuthUserGetRequest{Name: "alice"}),
		ask(pb.Auth_UserGet_FullMethodName, &pb.AuthUserGetRequest{Name: "ghost"}),
		ask(pb.Auth_RoleGet_FullMethodName, &pb.AuthRoleGetRequest{Role: "a"}),
		ask(pb.Auth_RoleGet_FullMethodName, &pb.AuthRoleGetRequest{Role: "everything"}),
		ask(pb.Auth_UserList_FullMethodName, &pb.AuthUserListRequest{}),
		ask(pb.Auth_RoleList_FullMethodName, &pb.AuthRoleListRequest{}),
		demand(pb.Auth_AuthDisable_FullMethodName, &pb.AuthDisableRequest{}),
		demand(pb.Auth_UserDelete_FullMethodName, &pb.AuthUserDeleteRequest{Name: "alice"}),
		demand(pb.Auth_UserGrantRole_FullMethodName, &pb.AuthUserGrantRoleRequest{User: "alice", Role: rootRole}),
		demand(pb.Auth_UserChangePassword_FullMethodName, &pb.AuthUserChangePasswordRequest{Name: "alice", Password: "x"}),
		demand(pb.Auth_RoleDelete_FullMethodName, &pb.AuthRoleDeleteRequest{Role: "a"}),

		{method: v3lockpb.Lock_Lock_FullMethodName, req: func(of string) proto.Message { return &v3lockpb.LockRequest{Name: k("a-lock-" + of)} }},
		{method: v3lockpb.Lock_Lock_FullMethodName, req: func(of string) proto.Message { return &v3lockpb.LockRequest{Name: k("w-lock-" + of)} }},
		ask(v3lockpb.Lock_Unlock_FullMethodName, &v3lockpb.UnlockRequest{Key: k("w9")}),
		ask(v3lockpb.Lock_Unlock_FullMethodName, &v3lockpb.UnlockRequest{Key: k("r9")}),
		{method: v3electionpb.Election_Campaign_FullMethodName, req: func(of string) proto.Message {
			return &v3electionpb.CampaignRequest{Name: k("a-election-" + of)}
		}},
		{method: v3electionpb.Election_Campaign_FullMethodName, req: func(of string) proto.Message {
			return &v3electionpb.CampaignRequest{Name: k("r-election-" + of)}
		}},
		ask(v3electionpb.Election_Leader_FullMethodName, &v3electionpb.LeaderRequest{Name: k("r-none")}),
		ask(v3electionpb.Election_Leader_FullMethodName, &v3electionpb.LeaderRequest{Name: k("w-none")}),
		ask(v3electionpb.Election_Proclaim_FullMethodName, &v3electionpb.ProclaimRequest{Leader: &v3electionpb.LeaderKey{Key: k("r1")}}),
		ask(v3electionpb.Election_Resign_FullMethodName, &v3electionpb.ResignRequest{Leader: &v3electionpb.LeaderKey{Key: k("r1")}}),
	}
}
