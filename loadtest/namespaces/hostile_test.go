package namespaces

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/loadtest/target/targettest"
)

// mark is in everything that is outside, and in nothing that is sent.
const mark = "OUTSIDE-AND-SECRET"

// outsideKeys are known to whoever is inside.
var outsideKeys = []string{"\x00", "a", "b", "l/1", "/ap", "/app", "/app.", "/app0", "/apq/a", "z", "\xff"}

// hostileMethods are those with keys, and what they are asked.
var hostileMethods = map[string]func() proto.Message{
	pb.KV_Range_FullMethodName:       func() proto.Message { return &pb.RangeRequest{} },
	pb.KV_RangeStream_FullMethodName: func() proto.Message { return &pb.RangeRequest{} },
	pb.KV_Put_FullMethodName:         func() proto.Message { return &pb.PutRequest{} },
	pb.KV_DeleteRange_FullMethodName: func() proto.Message { return &pb.DeleteRangeRequest{} },
	pb.KV_Txn_FullMethodName:         func() proto.Message { return &pb.TxnRequest{} },
	pb.Watch_Watch_FullMethodName:    func() proto.Message { return &pb.WatchRequest{} },

	pb.Lease_LeaseTimeToLive_FullMethodName: func() proto.Message { return &pb.LeaseTimeToLiveRequest{} },
	"/v3lockpb.Lock/Lock":                   func() proto.Message { return &v3lockpb.LockRequest{} },
	"/v3lockpb.Lock/Unlock":                 func() proto.Message { return &v3lockpb.UnlockRequest{} },
	"/v3electionpb.Election/Campaign":       func() proto.Message { return &v3electionpb.CampaignRequest{} },
	"/v3electionpb.Election/Proclaim":       func() proto.Message { return &v3electionpb.ProclaimRequest{} },
	"/v3electionpb.Election/Leader":         func() proto.Message { return &v3electionpb.LeaderRequest{} },
	"/v3electionpb.Election/Observe":        func() proto.Message { return &v3electionpb.LeaderRequest{} },
	"/v3electionpb.Election/Resign":         func() proto.Message { return &v3electionpb.ResignRequest{} },
	"/etcdserverpb.KV/FromTheFuture":        func() proto.Message { return &pb.RangeRequest{} },
}

// outside is the lease that keys outside have; those inside may have it too.
const outsideLease = 4711

func TestHostileClientsReachNothingOutside(t *testing.T) {
	at(t, everywhere, func(s *site) {
		rnd := targettest.Random(s, *seed)
		_, err := pb.NewLeaseClient(s.store.ActiveConnection()).LeaseGrant(s.Ctx, &pb.LeaseGrantRequest{ID: outsideLease, TTL: 10_000})
		s.Must(err)
		hidden := []string{"hidden " + mark, "/app" + mark, "/apo " + mark, "/l/" + mark}
		for _, key := range append(slices.Clone(outsideKeys), hidden...) {
			_, err := s.store.Put(s.Ctx, key, mark, clientv3.WithLease(outsideLease))
			s.Must(err)
		}
		before := s.outside()
		conn := targettest.Dial(s, s.Endpoint(), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})))
		var methods []string
		for m := range hostileMethods {
			methods = append(methods, m)
		}
		slices.Sort(methods) // or a seed would not repeat anything
		answered := 0
		for range *ops {
			method := methods[rnd.IntN(len(methods))]
			var messages []rawMessage
			for range 1 + rnd.IntN(2)*rnd.IntN(3) {
				if m := hostile(rnd, hostileMethods[method]()); !crashes(m, hostileMethods[method]()) {
					messages = append(messages, m)
				}
			}
			answered += s.attack(conn, method, messages)
		}
		// About every tenth is, since most of what is sent is refused; with none the test would show nothing.
		if answered < *ops/30 {
			s.Errorf("%d of %d requests were answered", answered, *ops)
		}
		targettest.Want(s, "what is outside", s.outside(), before)
		s.watchAll()
	})
}

// attack sends messages and looks for the mark in what comes back. It returns how many answers came.
func (s *site) attack(conn *grpc.ClientConn, method string, messages []rawMessage) (answers int) {
	s.Helper()
	// A lock may be another's, and a watch has no end.
	ctx, cancel := context.WithTimeout(s.Ctx, 100*time.Millisecond)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if stream.SendMsg(m) != nil {
			break
		}
	}
	_ = stream.CloseSend() // it never fails
	for {
		var m rawMessage
		err := stream.RecvMsg(&m)
		if bytes.Contains(m, []byte(mark)) || strings.Contains(fmt.Sprint(err), mark) {
			s.Fatalf("%s %q is answered\n%q, %v", method, messages, m, err)
		}
		if err != nil {
			return answers
		}
		answers++
		if method == pb.Watch_Watch_FullMethodName && answers > 2*len(messages) {
			return answers
		}
	}
}

// outside is all that is not in the namespace.
func (s *site) outside() string {
	s.Helper()
	r, err := s.store.Get(s.Ctx, "\x00", clientv3.WithFromKey())
	s.Must(err)
	var text strings.Builder
	for _, kv := range r.Kvs {
		if !strings.HasPrefix(string(kv.Key), s.prefix) {
			fmt.Fprintf(&text, "%q=%q @%d lease %d\n", kv.Key, kv.Value, kv.ModRevision, kv.Lease)
		}
	}
	return text.String()
}

// watchAll watches as much as there is, from the beginning, until what is put last comes.
func (s *site) watchAll() {
	s.Helper()
	w := s.inside.Watch(s.Ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(1), clientv3.WithPrevKV())
	_, err := s.inside.Put(s.Ctx, "last", "")
	s.Must(err)
	for r := range w {
		s.Must(r.Err())
		for _, e := range r.Events {
			if strings.Contains(e.Kv.String()+e.PrevKv.String(), mark) {
				s.Fatalf("event %v", e)
			}
			if string(e.Kv.Key) == "last" {
				return
			}
		}
	}
	s.Fatal("the watch has ended")
}

// hostile is an encoded request for what is outside, mostly with something wrong.
func hostile(rnd *rand.Rand, m proto.Message) rawMessage {
	fill(rnd, m.ProtoReflect(), 6)
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	for range rnd.IntN(4) {
		at := rnd.IntN(len(b) + 1)
		switch rnd.IntN(6) {
		case 0: // half of it again, so that fields are given twice
			b = append(b, b[:at]...)
		case 1:
			b = b[:at]
		case 2:
			b = slices.Insert(b, at, byte(rnd.Uint32()))
		case 3:
			if len(b) > 0 {
				b[at%len(b)] ^= 1 << rnd.IntN(8)
			}
		case 4: // an unknown field, or one of another type
			b = protowire.AppendBytes(protowire.AppendTag(b, protowire.Number(1+rnd.IntN(20)), protowire.BytesType), []byte(hostileKey(rnd)))
		case 5: // a number that is a small one if its upper bits are lost, as in decoders of old
			b = protowire.AppendVarint(b, uint64(1)<<35|uint64(1+rnd.IntN(3))<<3|uint64(protowire.BytesType))
			b = protowire.AppendBytes(b, []byte(hostileKey(rnd)))
		}
	}
	return b
}

// crashes tells whether a message, which is decoded into m, has a range that etcds before 3.7 do not survive: their sorting of
// it by what is unknown.
func crashes(b rawMessage, m proto.Message) bool {
	if proto.Unmarshal(b, m) != nil {
		return false
	}
	found := false
	var visit func(m protoreflect.Message)
	visit = func(m protoreflect.Message) {
		if r, ok := m.Interface().(*pb.RangeRequest); ok {
			found = found || pb.RangeRequest_SortTarget_name[int32(r.SortTarget)] == "" || pb.RangeRequest_SortOrder_name[int32(r.SortOrder)] == ""
		}
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case f.Message() == nil:
			case !f.IsList():
				visit(v.Message())
			default:
				for i := range v.List().Len() {
					visit(v.List().Get(i).Message())
				}
			}
			return true
		})
	}
	visit(m.ProtoReflect())
	return found
}

func hostileKey(rnd *rand.Rand) string {
	keys := append([]string{"", "/app/a", "/", "l", "e"}, outsideKeys...)
	return keys[rnd.IntN(len(keys))]
}

// fill sets fields of m.
func fill(rnd *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if rnd.IntN(3) == 0 || f.Message() != nil && depth == 0 {
			continue
		}
		switch {
		case f.IsList() && f.Message() != nil:
			for l := m.Mutable(f).List(); l.Len() < 1+rnd.IntN(2); {
				fill(rnd, l.AppendMutable().Message(), depth-1)
			}
		case f.IsList():
		case f.Message() != nil:
			fill(rnd, m.Mutable(f).Message(), depth-1)
		case f.Kind() == protoreflect.BytesKind:
			m.Set(f, protoreflect.ValueOfBytes([]byte(hostileKey(rnd))))
		case f.Kind() == protoreflect.BoolKind:
			m.Set(f, protoreflect.ValueOfBool(rnd.IntN(2) == 0))
		case f.Kind() == protoreflect.EnumKind:
			m.Set(f, protoreflect.ValueOfEnum(protoreflect.EnumNumber(rnd.IntN(3))))
		case f.Name() == "lease" || f.Name() == "ID":
			m.Set(f, protoreflect.ValueOfInt64(outsideLease))
		case f.Kind() == protoreflect.Int64Kind && rnd.IntN(3) == 0:
			m.Set(f, protoreflect.ValueOfInt64(rnd.Int64N(30)))
		}
	}
}

// rawMessage is an encoded message.
type rawMessage []byte

// raw is a codec that leaves messages as they are.
type raw struct{}

// Marshal is part of encoding.CodecV2.
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.(rawMessage))}, nil
}

// Unmarshal is part of encoding.CodecV2.
func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*rawMessage) = data.Materialize()
	return nil
}

// Name is part of encoding.CodecV2.
func (raw) Name() string { return "proto" }
