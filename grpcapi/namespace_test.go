package grpcapi

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"weir/cache"
	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

// namespaces is a Gate that lets everybody into the namespace that they ask for by metadata.
type namespaces struct{}

type namespaceVisit string

func (namespaces) Enter(ctx context.Context, _ string, _ wire.Raw) (wire.Visit, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if values := md["namespace"]; len(values) > 0 {
		return namespaceVisit(values[0]), nil
	}
	return namespaceVisit(""), nil
}

func (n namespaceVisit) Namespace() string         { return string(n) }
func (namespaceVisit) Message(wire.Raw) error      { return nil }
func (namespaceVisit) Context() context.Context    { return nil }
func (namespaceVisit) PingRights() wire.PingRights { return nil }
func (namespaceVisit) Watch() error                { return nil }
func (namespaceVisit) Unwatch()                    {}
func (namespaceVisit) Sent(int)                    {}
func (namespaceVisit) Leave(wire.Raw, error)       {}

// in is the context of a client in a namespace.
func in(ctx context.Context, namespace string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "namespace", namespace)
}

// scriptedUpstream keeps the last request and gives an answer, of each kind of method.
type scriptedUpstream struct {
	Upstream
	request, answer wire.Raw
}

func (u *scriptedUpstream) Unary(_ context.Context, _ string, req wire.Raw, _ *cache.Session) (wire.Raw, error) {
	u.request = req
	return u.answer, nil
}

func (u *scriptedUpstream) Stream(_ string, gs grpc.ServerStream, _ *cache.Session) error {
	if err := gs.RecvMsg(&u.request); err != nil {
		return err
	}
	return gs.SendMsg(u.answer)
}

func kvOf(key string) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: []byte(key), Value: []byte("value of " + key[len(key)-1:]), ModRevision: 7}
}

// visits are RPCs of a client in /app/: what the client sends and is answered, and what upstream receives and answers.
var visits = map[string]struct {
	request, received proto.Message
	given, answered   proto.Message
}{
	pb.KV_Range_FullMethodName: {
		request:  &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, Limit: 7, Serializable: true},
		received: &pb.RangeRequest{Key: []byte("/app/a"), RangeEnd: []byte("/app0"), Limit: 7, Serializable: true},
		given:    &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kvOf("/app/a"), kvOf("/app/b")}, Count: 2},
		answered: &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kvOf("a"), kvOf("b")}, Count: 2},
	},
	pb.KV_RangeStream_FullMethodName: {
		request:  &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("b")},
		received: &pb.RangeRequest{Key: []byte("/app/a"), RangeEnd: []byte("/app/b")},
		given:    &pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kvOf("/app/a")}}},
		answered: &pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kvOf("a")}}},
	},
	pb.KV_Put_FullMethodName: {
		request:  &pb.PutRequest{Key: []byte("a"), Value: []byte("1"), Lease: 3},
		received: &pb.PutRequest{Key: []byte("/app/a"), Value: []byte("1"), Lease: 3},
		given:    &pb.PutResponse{Header: &pb.ResponseHeader{Revision: 8}, PrevKv: kvOf("/app/a")},
		answered: &pb.PutResponse{Header: &pb.ResponseHeader{Revision: 8}, PrevKv: kvOf("a")},
	},
	pb.KV_DeleteRange_FullMethodName: {
		request:  &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, PrevKv: true},
		received: &pb.DeleteRangeRequest{Key: []byte("/app/\x00"), RangeEnd: []byte("/app0"), PrevKv: true},
		given:    &pb.DeleteRangeResponse{Deleted: 1, PrevKvs: []*mvccpb.KeyValue{kvOf("/app/a")}},
		answered: &pb.DeleteRangeResponse{Deleted: 1, PrevKvs: []*mvccpb.KeyValue{kvOf("a")}},
	},
	pb.KV_Txn_FullMethodName: {
		request:  txnOn("a", "b"),
		received: txnOn("/app/a", "/app/b"),
		given:    &pb.TxnResponse{Responses: []*pb.ResponseOp{rangeAnswer("/app/a"), nestedAnswer(rangeAnswer("/app/b"))}},
		answered: &pb.TxnResponse{Responses: []*pb.ResponseOp{rangeAnswer("a"), nestedAnswer(rangeAnswer("b"))}},
	},
	pb.Watch_Watch_FullMethodName: {
		request:  createRequest(&pb.WatchCreateRequest{RangeEnd: []byte{0}, PrevKv: true}),
		received: createRequest(&pb.WatchCreateRequest{Key: []byte("/app/\x00"), RangeEnd: []byte("/app0"), PrevKv: true}),
		given:    &pb.WatchResponse{Events: []*mvccpb.Event{{Kv: kvOf("/app/a"), PrevKv: kvOf("/app/a")}}},
		answered: &pb.WatchResponse{Events: []*mvccpb.Event{{Kv: kvOf("a"), PrevKv: kvOf("a")}}},
	},
	pb.Lease_LeaseTimeToLive_FullMethodName: {
		request:  &pb.LeaseTimeToLiveRequest{ID: 3, Keys: true},
		received: &pb.LeaseTimeToLiveRequest{ID: 3, Keys: true},
		given:    &pb.LeaseTimeToLiveResponse{ID: 3, Keys: [][]byte{[]byte("/ap"), []byte("/app/a"), []byte("/other/a")}},
		answered: &pb.LeaseTimeToLiveResponse{ID: 3, Keys: [][]byte{[]byte("a")}},
	},
	lockpb.Lock_Lock_FullMethodName: {
		request:  &lockpb.LockRequest{Lease: 3},
		received: &lockpb.LockRequest{Name: []byte("/app/"), Lease: 3},
		given:    &lockpb.LockResponse{Key: []byte("/app//3")},
		answered: &lockpb.LockResponse{Key: []byte("/3")},
	},
	lockpb.Lock_Unlock_FullMethodName: {
		request:  &lockpb.UnlockRequest{Key: []byte("l/3")},
		received: &lockpb.UnlockRequest{Key: []byte("/app/l/3")},
		given:    &lockpb.UnlockResponse{Header: &pb.ResponseHeader{Revision: 8}},
		answered: &lockpb.UnlockResponse{Header: &pb.ResponseHeader{Revision: 8}},
	},
	lockpb.Election_Campaign_FullMethodName: {
		request:  &lockpb.CampaignRequest{Name: []byte("e"), Lease: 3, Value: []byte("v")},
		received: &lockpb.CampaignRequest{Name: []byte("/app/e"), Lease: 3, Value: []byte("v")},
		given:    &lockpb.CampaignResponse{Leader: leaderOf("/app/e")},
		answered: &lockpb.CampaignResponse{Leader: leaderOf("e")},
	},
	lockpb.Election_Proclaim_FullMethodName: {
		request:  &lockpb.ProclaimRequest{Leader: leaderOf("e"), Value: []byte("v")},
		received: &lockpb.ProclaimRequest{Leader: leaderOf("/app/e"), Value: []byte("v")},
		given:    &lockpb.ProclaimResponse{},
		answered: &lockpb.ProclaimResponse{},
	},
	lockpb.Election_Leader_FullMethodName: {
		request:  &lockpb.LeaderRequest{Name: []byte("e")},
		received: &lockpb.LeaderRequest{Name: []byte("/app/e")},
		given:    &lockpb.LeaderResponse{Kv: kvOf("/app/e/3")},
		answered: &lockpb.LeaderResponse{Kv: kvOf("e/3")},
	},
	lockpb.Election_Observe_FullMethodName: {
		request:  &lockpb.LeaderRequest{},
		received: &lockpb.LeaderRequest{Name: []byte("/app/")},
		given:    &lockpb.LeaderResponse{Kv: kvOf("/app//3")},
		answered: &lockpb.LeaderResponse{Kv: kvOf("/3")},
	},
	lockpb.Election_Resign_FullMethodName: {
		request:  &lockpb.ResignRequest{Leader: leaderOf("e")},
		received: &lockpb.ResignRequest{Leader: leaderOf("/app/e")},
		given:    &lockpb.ResignResponse{},
		answered: &lockpb.ResignResponse{},
	},
	pb.Lease_LeaseGrant_FullMethodName: {
		request:  &pb.LeaseGrantRequest{TTL: 5},
		received: &pb.LeaseGrantRequest{TTL: 5},
		given:    &pb.LeaseGrantResponse{ID: 3, TTL: 5},
		answered: &pb.LeaseGrantResponse{ID: 3, TTL: 5},
	},
}

func leaderOf(election string) *lockpb.LeaderKey {
	return &lockpb.LeaderKey{Name: []byte(election), Key: []byte(election + "/3"), Rev: 7, Lease: 3}
}

func rangeAnswer(key string) *pb.ResponseOp {
	r := &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kvOf(key)}}
	return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: r}}
}

func nestedAnswer(answers ...*pb.ResponseOp) *pb.ResponseOp {
	return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: &pb.TxnResponse{Responses: answers}}}
}

// txnOn compares one key, and does everything with another in a nested transaction.
func txnOn(compared, other string) *pb.TxnRequest {
	k := []byte(other)
	nested := &pb.TxnRequest{Failure: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: k}}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: k, Value: []byte("v")}}},
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: k}}},
	}}
	return &pb.TxnRequest{
		Compare: []*pb.Compare{{
			Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("v")},
			Key: []byte(compared), RangeEnd: []byte(compared + "z"),
		}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: nested}}},
	}
}

func TestEachMethodStaysInItsNamespace(t *testing.T) {
	u := &scriptedUpstream{}
	conn := dial(t, start(t, NewForwardServer(Config{Gate: namespaces{}, Logger: quiet()}, u, nil, nil)))
	for method, v := range visits {
		t.Run(method, func(t *testing.T) {
			u.answer = marshal(t, v.given)
			s, err := conn.NewStream(in(t.Context(), "/app/"), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.SendMsg(v.request); err != nil {
				t.Fatal(err)
			}
			if err := s.CloseSend(); err != nil {
				t.Fatal(err)
			}
			got := v.answered.ProtoReflect().New().Interface()
			if err := s.RecvMsg(got); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(got, v.answered) {
				t.Errorf("answered %v\nwant %v", got, v.answered)
			}
			received := v.received.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(u.request, received); err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(received, v.received) {
				t.Errorf("upstream received %v\nwant %v", received, v.received)
			}
		})
	}
}

// Every method of etcd that has bytes in its messages is in the test above, or has no keys that a namespace is about.
func TestNoMethodIsForgotten(t *testing.T) {
	keyless := []string{
		pb.Maintenance_Snapshot_FullMethodName,
		// Permissions are of the whole store, as at etcd's proxy.
		pb.Auth_RoleGrantPermission_FullMethodName, pb.Auth_RoleRevokePermission_FullMethodName, pb.Auth_RoleGet_FullMethodName,
	}
	if _, _, known := keyed(wire.PingsMethod); !known {
		t.Error("clients in a namespace cannot renew leases together")
	}
	for _, method := range everyMethod() {
		if _, tested := visits[method]; tested || slices.Contains(keyless, method) {
			continue
		}
		name := protoreflect.FullName(strings.ReplaceAll(method[1:], "/", "."))
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		m := d.(protoreflect.MethodDescriptor)
		if hasBytes(m.Input()) || hasBytes(m.Output()) {
			t.Errorf("nobody has said whether %s has keys", method)
		}
		if _, _, known := keyed(method); !known {
			t.Errorf("%s is not known", method)
		}
	}
}

func hasBytes(m protoreflect.MessageDescriptor) bool {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if f.Kind() == protoreflect.BytesKind || f.Message() != nil && hasBytes(f.Message()) {
			return true
		}
	}
	return false
}

func TestWhatCannotBeEnclosedIsRefused(t *testing.T) {
	u := &scriptedUpstream{}
	conn := dial(t, start(t, NewForwardServer(Config{Gate: namespaces{}, Logger: quiet()}, u, nil, nil)))
	unknown := protowire.AppendBytes(protowire.AppendTag(nil, 99, protowire.BytesType), []byte("outside"))
	for name, c := range map[string]struct {
		method          string
		request, answer wire.Raw
		want            error
	}{
		"a malformed request": {method: pb.KV_Range_FullMethodName, request: []byte{1<<3 | 2, 5}, want: errUndecodable},
		"a field of the future": {
			method: pb.KV_Put_FullMethodName, request: unknown,
			want: status.Error(codes.Unimplemented, "weir: field 99 of PutRequest is not known here, and might hold a key outside the namespace"),
		},
		"a request that grows too large": {
			method: pb.KV_Txn_FullMethodName, request: bytes.Repeat([]byte{1<<3 | 2, 3, 3<<3 | 2, 1, 'k'}, 400_000),
			want: rpctypes.ErrGRPCRequestTooLarge,
		},
		"a method of the future": {
			method: "/etcdserverpb.KV/FromTheFuture",
			want:   status.Error(codes.Unimplemented, "unknown method FromTheFuture for service etcdserverpb.KV"),
		},
		"another service": {method: "/some.Service/Method", want: status.Error(codes.Unimplemented, "unknown service some.Service")},
		"an answer of others": {
			method: pb.KV_Put_FullMethodName, answer: marshal(t, &pb.PutResponse{PrevKv: kvOf("/other/a")}),
			want: status.Error(codes.Internal, "weir: answer has a key outside the namespace"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			u.request, u.answer = nil, c.answer
			err := conn.Invoke(in(t.Context(), "/app/prefix/"), c.method, c.request, new(wire.Raw), grpc.ForceCodecV2(wire.Codec{}))
			if status.Code(err) != status.Code(c.want) || errText(err) != errText(c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if len(u.request) > 0 {
				t.Errorf("upstream received %d bytes", len(u.request))
			}
		})
	}
}

func TestWithoutANamespaceMessagesAreAsTheyWere(t *testing.T) {
	msg := wire.Raw("not even a message")
	request, err := namespace("").request(pb.KV_Put_FullMethodName, msg)
	if err != nil || &request[0] != &msg[0] {
		t.Errorf("got %q, error %v", request, err)
	}
	answer, err := namespace("").response("/some.Service/Method", msg)
	if raw, ok := answer.(wire.Raw); err != nil || !ok || &raw[0] != &msg[0] {
		t.Errorf("got %q, error %v", answer, err)
	}
}

// What cannot be looked into is not shown.
func TestAnswersOfAnotherFormAreNotGiven(t *testing.T) {
	got, err := namespace("/app/").response(pb.KV_Put_FullMethodName, &pb.PutResponse{PrevKv: kvOf("/other/a")})
	if status.Code(err) != codes.Internal {
		t.Errorf("got %v, error %v", got, err)
	}
	members := &pb.MemberListResponse{}
	if got, err := namespace("/app/").response(pb.Cluster_MemberList_FullMethodName, members); err != nil || got != any(members) {
		t.Errorf("got %v, error %v", got, err)
	}
}

// Answers from memory come in parts, of which others are sent the same.
func TestAnswersInPartsAreLeftAsTheyAre(t *testing.T) {
	msg := marshal(t, &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kvOf("/app/a"), kvOf("/app/b")}})
	want := marshal(t, &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kvOf("a"), kvOf("b")}})
	for cut := range msg {
		parts := mem.BufferSlice{mem.SliceBuffer(bytes.Clone(msg[:cut])), mem.SliceBuffer(bytes.Clone(msg[cut:]))}
		if cut == 0 {
			parts = parts[1:]
		}
		got, err := namespace("/app/").response(pb.KV_Range_FullMethodName, parts)
		if raw, ok := got.(wire.Raw); err != nil || !ok || !bytes.Equal(raw, want) {
			t.Fatalf("got %q, error %v, want %q", got, err, want)
		}
		if !bytes.Equal(parts.Materialize(), msg) {
			t.Fatal("the shared answer was changed")
		}
	}
}
