package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/core"
	"weir/grpcapi"
	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

// fuzzMethods are the paths of all RPCs.
func fuzzMethods() (paths []string) {
	for _, s := range []grpc.ServiceDesc{
		pb.KV_ServiceDesc, pb.Watch_ServiceDesc, pb.Lease_ServiceDesc, pb.Cluster_ServiceDesc, pb.Maintenance_ServiceDesc,
		pb.Auth_ServiceDesc, lockpb.Lock_ServiceDesc, lockpb.Election_ServiceDesc,
	} {
		for _, m := range s.Methods {
			paths = append(paths, "/"+s.ServiceName+"/"+m.MethodName)
		}
		for _, m := range s.Streams {
			paths = append(paths, "/"+s.ServiceName+"/"+m.StreamName)
		}
	}
	return paths
}

// startMember runs a member and its server until the test ends.
func startMember(t testing.TB) (*core.Node, *grpc.ClientConn) {
	logger := slog.New(slog.DiscardHandler)
	node, err := core.Open(core.Config{DataDir: t.TempDir(), Logger: logger, UnsafeNoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { node.Close() })
	if err := node.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpcapi.NewBackendServer(grpcapi.Config{Logger: logger}, node)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l, grpcapi.Port{}) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		server.Stop(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return node, conn
}

// call sends bytes as the only message of an RPC of any kind, and returns how it ended. RPCs that wait for something end soon.
func call(ctx context.Context, conn *grpc.ClientConn, method string, request []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
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

// FuzzMemberTakesAnyBytes: whatever is sent to a whole member, it answers with a status and goes on. What it takes for valid
// goes through the log and into the store.
func FuzzMemberTakesAnyBytes(f *testing.F) {
	methods := fuzzMethods()
	key := []byte("a")
	for i, request := range []proto.Message{
		&pb.RangeRequest{Key: key, RangeEnd: []byte("b"), Limit: 2, SortOrder: pb.RangeRequest_DESCEND, Revision: 2},
		&pb.PutRequest{Key: key, Value: []byte("v"), PrevKv: true},
		&pb.TxnRequest{
			Compare: []*pb.Compare{{Key: key, Target: pb.Compare_LEASE}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key}}}},
		},
		&pb.LeaseGrantRequest{ID: 1, TTL: 60},
		&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 1, Alarm: 7},
		&pb.DowngradeRequest{Action: pb.DowngradeRequest_ENABLE, Version: "3.6.0"},
		&pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}, IsLearner: true},
		&pb.AuthUserAddRequest{Name: "u", Options: nil, HashedPassword: "cA=="},
		&pb.AuthUserGrantRoleRequest{User: "u", Role: "r"},
		&lockpb.LockRequest{Name: key, Lease: 1},
	} {
		raw, err := proto.Marshal(request)
		if err != nil {
			f.Fatal(err)
		}
		for method := range methods {
			f.Add(byte(method+i), raw)
		}
	}
	node, conn := startMember(f)
	f.Fuzz(func(t *testing.T, method byte, request []byte) {
		name := methods[int(method)%len(methods)]
		err := call(t.Context(), conn, name, request)
		if s, ok := status.FromError(err); !ok || s.Code() == codes.Unavailable {
			t.Errorf("%s of %x ended with %v", name, request, err)
		}
		select {
		case <-node.Failed():
			t.Fatalf("%s of %x: the member has failed: %v", name, request, node.Err())
		default:
		}
	})
}
