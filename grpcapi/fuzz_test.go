package grpcapi

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

// rpcTime is how long the server may take for an RPC. Those that wait for something then end.
const rpcTime = 10 * time.Millisecond

// callRaw sends bytes as the only message of an RPC of any kind, and returns how it ended.
func callRaw(ctx context.Context, conn *grpc.ClientConn, method string, request []byte) error {
	ctx, cancel := context.WithTimeout(ctx, rpcTime)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	_ = s.SendMsg(wire.Raw(request)) // if it fails, RecvMsg says why
	_ = s.CloseSend()
	for {
		var answer wire.Raw
		if err := s.RecvMsg(&answer); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// seedRequests are valid requests of most methods that read one.
func seedRequests() map[string]proto.Message {
	key, end := []byte("a"), []byte("b")
	r := &pb.RangeRequest{Key: key, RangeEnd: end, Limit: 2, SortOrder: pb.RangeRequest_DESCEND, SortTarget: pb.RangeRequest_CREATE}
	txn := &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: key, Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 1}}},
		Success: []*pb.RequestOp{opRange(r), opPut(key, []byte("w"), 1)},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{opPut(end, nil, 0)}}}}},
	}
	watch := &pb.WatchCreateRequest{Key: key, RangeEnd: end, StartRevision: 1, PrevKv: true, Fragment: true}
	leader := &lockpb.LeaderKey{Name: key, Key: []byte("a/1"), Rev: 2, Lease: 1}
	return map[string]proto.Message{
		pb.KV_Range_FullMethodName:                 r,
		pb.KV_RangeStream_FullMethodName:           &pb.RangeRequest{Key: key, RangeEnd: end},
		pb.KV_Put_FullMethodName:                   &pb.PutRequest{Key: key, Value: []byte("v"), Lease: 1, PrevKv: true},
		pb.KV_Txn_FullMethodName:                   txn,
		pb.KV_DeleteRange_FullMethodName:           &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: true},
		pb.KV_Compact_FullMethodName:               &pb.CompactionRequest{Revision: 1},
		pb.Watch_Watch_FullMethodName:              &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: watch}},
		pb.Lease_LeaseGrant_FullMethodName:         &pb.LeaseGrantRequest{TTL: 60},
		pb.Lease_LeaseKeepAlive_FullMethodName:     &pb.LeaseKeepAliveRequest{ID: 1},
		pb.Lease_LeaseRevoke_FullMethodName:        &pb.LeaseRevokeRequest{ID: 9},
		pb.Lease_LeaseTimeToLive_FullMethodName:    &pb.LeaseTimeToLiveRequest{ID: 1, Keys: true},
		pb.Maintenance_Alarm_FullMethodName:        &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE},
		pb.Maintenance_HashKV_FullMethodName:       &pb.HashKVRequest{Revision: 3},
		pb.Maintenance_Snapshot_FullMethodName:     &pb.SnapshotRequest{},
		pb.Maintenance_Downgrade_FullMethodName:    &pb.DowngradeRequest{Version: "3.6.0"},
		pb.Cluster_MemberAdd_FullMethodName:        &pb.MemberAddRequest{PeerURLs: []string{"http://a"}},
		pb.Auth_UserAdd_FullMethodName:             &pb.AuthUserAddRequest{Name: "u", Password: "p"},
		pb.Auth_RoleGrantPermission_FullMethodName: &pb.AuthRoleGrantPermissionRequest{Name: "r"},
		lockpb.Lock_Lock_FullMethodName:            &lockpb.LockRequest{Name: key, Lease: 1},
		lockpb.Lock_Unlock_FullMethodName:          &lockpb.UnlockRequest{Key: []byte("a/1")},
		lockpb.Election_Campaign_FullMethodName:    &lockpb.CampaignRequest{Name: key, Lease: 1, Value: key},
		lockpb.Election_Proclaim_FullMethodName:    &lockpb.ProclaimRequest{Leader: leader, Value: key},
		lockpb.Election_Resign_FullMethodName:      &lockpb.ResignRequest{Leader: leader},
		lockpb.Election_Leader_FullMethodName:      &lockpb.LeaderRequest{Name: key},
		lockpb.Election_Observe_FullMethodName:     &lockpb.LeaderRequest{Name: key},
	}
}

// FuzzAnyBytesAsAnyRequest: whatever is sent, the server answers with a status and goes on. A crash would end the test.
func FuzzAnyBytesAsAnyRequest(f *testing.F) {
	methods, seeds := everyMethod(), seedRequests()
	for i, method := range methods {
		raw, err := proto.Marshal(seeds[method])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(i), raw)
		f.Add(byte(i+1), raw)
		f.Add(byte(i), []byte("\x0a\xff\xff\xff\xff\x0f"))
	}
	store := newMemStore(f)
	store.leases[1] = 100
	address := start(f, NewBackendServer(Config{Logger: quiet(), Reflection: true}, store))
	conn := dial(f, address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{})))
	f.Fuzz(func(t *testing.T, method byte, request []byte) {
		name := methods[int(method)%len(methods)]
		err := callRaw(t.Context(), conn, name, request)
		if s, ok := status.FromError(err); !ok {
			t.Errorf("%s of %x ended with %v, which is no status", name, request, err)
		} else if s.Code() == codes.Unavailable {
			t.Errorf("%s of %x: %v", name, request, err)
		}
	})
}
