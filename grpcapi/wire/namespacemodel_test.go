package wire

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The model of Namespace works on decoded messages: it visits each field of each message in them.

// modelRoles says what the keys in etcd's messages are.
var modelRoles = map[protoreflect.FullName]role{
	"etcdserverpb.RangeRequest.key":             requiredKey,
	"etcdserverpb.RangeRequest.range_end":       rangeEnd,
	"etcdserverpb.PutRequest.key":               requiredKey,
	"etcdserverpb.DeleteRangeRequest.key":       requiredKey,
	"etcdserverpb.DeleteRangeRequest.range_end": rangeEnd,
	"etcdserverpb.Compare.key":                  requiredKey,
	"etcdserverpb.Compare.range_end":            rangeEnd,
	"etcdserverpb.WatchCreateRequest.key":       watchedKey,
	"etcdserverpb.WatchCreateRequest.range_end": rangeEnd,
	"mvccpb.KeyValue.key":                       ownKey,
	"etcdserverpb.LeaseTimeToLiveResponse.keys": listedKey,
}

// keyedMessage is a kind of message and an empty one of it.
type keyedMessage struct {
	kind Keyed
	make func() proto.Message
}

func of[M any, P interface {
	*M
	proto.Message
}](k Keyed) keyedMessage {
	return keyedMessage{k, func() proto.Message { return P(new(M)) }}
}

var keyedRequests = []keyedMessage{
	of[pb.RangeRequest](RangeRequestKeys),
	of[pb.PutRequest](PutRequestKeys),
	of[pb.DeleteRangeRequest](DeleteRangeRequestKeys),
	of[pb.TxnRequest](TxnRequestKeys),
	of[pb.WatchRequest](WatchRequestKeys),
}

var keyedAnswers = []keyedMessage{
	of[pb.RangeResponse](RangeResponseKeys),
	of[pb.RangeStreamResponse](RangeStreamResponseKeys),
	of[pb.PutResponse](PutResponseKeys),
	of[pb.DeleteRangeResponse](DeleteRangeResponseKeys),
	of[pb.TxnResponse](TxnResponseKeys),
	of[pb.WatchResponse](WatchResponseKeys),
	of[pb.LeaseTimeToLiveResponse](LeaseTimeToLiveResponseKeys),
}

// everyMessage calls visit with m and each message in it.
func everyMessage(m protoreflect.Message, visit func(protoreflect.Message)) {
	visit(m)
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				everyMessage(v.List().Get(i).Message(), visit)
			}
		default:
			everyMessage(v.Message(), visit)
		}
		return true
	})
}

// everyKey calls visit with each key in m, and what it is.
func everyKey(m proto.Message, visit func(of protoreflect.Message, f protoreflect.FieldDescriptor, r role)) {
	everyMessage(m.ProtoReflect(), func(m protoreflect.Message) {
		fields := m.Descriptor().Fields()
		for i := range fields.Len() {
			if r, ok := modelRoles[fields.Get(i).FullName()]; ok {
				visit(m, fields.Get(i), r)
			}
		}
	})
}

// modelEnd is the least string above all that begin with n.
func modelEnd(n Namespace) string {
	head := string(n)
	for strings.HasSuffix(head, "\xff") {
		head = strings.TrimSuffix(head, "\xff")
	}
	if head == "" {
		return "\x00"
	}
	return head[:len(head)-1] + string([]byte{head[len(head)-1] + 1})
}

// modelRequest puts a decoded request into the namespace.
func modelRequest(n Namespace, m proto.Message) {
	everyKey(m, func(m protoreflect.Message, f protoreflect.FieldDescriptor, r role) {
		b := string(m.Get(f).Bytes())
		switch {
		case r == rangeEnd && b == "\x00":
			b = modelEnd(n)
		case r == watchedKey && b == "":
			b = string(n) + "\x00"
		case b != "":
			b = string(n) + b
		}
		m.Set(f, protoreflect.ValueOfBytes([]byte(b)))
	})
}

// modelAnswer takes a decoded answer out of the namespace. It returns false if that has a key outside.
func modelAnswer(n Namespace, m proto.Message) bool {
	ok := true
	everyKey(m, func(m protoreflect.Message, f protoreflect.FieldDescriptor, r role) {
		if r == listedKey {
			old, kept := m.Get(f).List(), m.NewField(f).List()
			for i := range old.Len() {
				if k, has := bytes.CutPrefix(old.Get(i).Bytes(), []byte(n)); has {
					kept.Append(protoreflect.ValueOfBytes(k))
				}
			}
			m.Set(f, protoreflect.ValueOfList(kept))
			return
		}
		k, has := bytes.CutPrefix(m.Get(f).Bytes(), []byte(n))
		ok = ok && has
		m.Set(f, protoreflect.ValueOfBytes(k))
	})
	return ok
}

// escapes tells whether a decoded request reaches beyond the namespace, or may.
func escapes(n Namespace, m proto.Message) bool {
	out := false
	end := []byte(modelEnd(n))
	everyKey(m, func(m protoreflect.Message, f protoreflect.FieldDescriptor, r role) {
		b := m.Get(f).Bytes()
		inside := bytes.HasPrefix(b, []byte(n)) || r != watchedKey && len(b) == 0 || r == rangeEnd && bytes.Equal(b, end)
		out = out || !inside
	})
	everyMessage(m.ProtoReflect(), func(m protoreflect.Message) {
		for b := m.GetUnknown(); len(b) > 0; {
			num, kind, size := protowire.ConsumeField(b)
			out = out || kind == protowire.BytesType || kind == protowire.StartGroupType || num == 0
			b = b[size:]
		}
	})
	return out
}

// randomMessage fills m with what may matter, and numbers. Without foreign keys, those of answers are in the namespace.
func randomMessage(rnd *rand.Rand, n Namespace, m protoreflect.Message, foreign bool, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		r := modelRoles[f.FullName()]
		if r != ownKey && rnd.IntN(3) == 0 {
			continue
		}
		if f.Message() != nil && depth == 0 {
			continue
		}
		value := func(into protoreflect.Value) protoreflect.Value {
			switch f.Kind() {
			case protoreflect.MessageKind:
				randomMessage(rnd, n, into.Message(), foreign, depth-1)
				return into
			case protoreflect.BytesKind:
				return protoreflect.ValueOfBytes(randomKey(rnd, n, r, foreign))
			case protoreflect.StringKind:
				return protoreflect.ValueOfString("text")
			case protoreflect.BoolKind:
				return protoreflect.ValueOfBool(rnd.IntN(2) == 0)
			case protoreflect.EnumKind:
				return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rnd.IntN(4)))
			case protoreflect.Uint64Kind:
				return protoreflect.ValueOfUint64(rnd.Uint64())
			}
			return protoreflect.ValueOfInt64(randomInt(rnd))
		}
		if f.IsList() {
			l := m.Mutable(f).List()
			for range rnd.IntN(4) {
				l.Append(value(l.NewElement()))
			}
			continue
		}
		m.Set(f, value(m.NewField(f)))
	}
}

func randomKey(rnd *rand.Rand, n Namespace, r role, foreign bool) []byte {
	key := []string{"", "\x00", "a", "b", "\xff\xff", "longer/key", string(n), string(make([]byte, 200))}[rnd.IntN(8)]
	if (r == ownKey || r == listedKey) && !(foreign && rnd.IntN(8) == 0) {
		key = string(n) + key
	}
	return []byte(key)
}

func checkSameMessage(t *testing.T, what string, got []byte, want proto.Message) {
	t.Helper()
	m := want.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(got, m); err != nil {
		t.Fatalf("%s: %x cannot be decoded: %v", what, got, err)
	}
	if !proto.Equal(m, want) {
		t.Fatalf("%s:\n got %v\nwant %v", what, m, want)
	}
}
