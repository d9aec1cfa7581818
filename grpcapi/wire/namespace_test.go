package wire

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

var someNamespaces = []Namespace{"/app/", "x", "\x00", "a\xff", "\xff\xff", Namespace(strings.Repeat("long/", 60))}

func TestRangesStayInTheirNamespace(t *testing.T) {
	for _, c := range []struct {
		n                          Namespace
		key, end, wantKey, wantEnd string
	}{
		{"/app/", "a", "", "/app/a", ""},
		{"/app/", "a", "b", "/app/a", "/app/b"},
		{"/app/", "b", "a", "/app/b", "/app/a"},
		{"/app/", "a", "\x00", "/app/a", "/app0"},
		{"/app/", "\x00", "\x00", "/app/\x00", "/app0"},
		{"/app/", "a", "\x00\x00", "/app/a", "/app/\x00\x00"},
		{"a\xff", "k", "\x00", "a\xffk", "b"},
		{"\xff\xff", "k", "\x00", "\xff\xffk", "\x00"},
		{"\xff\xff", "k", "l", "\xff\xffk", "\xff\xffl"},
	} {
		if key, end := c.n.Key([]byte(c.key)), c.n.RangeEnd([]byte(c.end)); string(key) != c.wantKey || string(end) != c.wantEnd {
			t.Errorf("%q in %q: got %q to %q, want %q to %q", []string{c.key, c.end}, c.n, key, end, c.wantKey, c.wantEnd)
		}
	}
}

func TestRequestsAreAsIfTheirKeysHadBeenPrefixed(t *testing.T) {
	rnd := newRand()
	for _, n := range someNamespaces {
		for _, k := range keyedRequests {
			for range 300 {
				m := k.make()
				randomMessage(rnd, n, m.ProtoReflect(), false, 8)
				b := mustMarshal(t, m)
				if k.kind != WatchRequestKeys && rnd.IntN(2) == 0 { // fields that are given twice
					twice := k.make()
					randomMessage(rnd, n, twice.ProtoReflect(), false, 8)
					b = append(b, mustMarshal(t, twice)...)
					proto.Merge(m, twice)
				}
				before := bytes.Clone(b)
				got, err := n.Request(k.kind, b)
				if err != nil {
					t.Fatalf("%v: %v", m, err)
				}
				modelRequest(n, m)
				checkSameMessage(t, fmt.Sprintf("in %q", n), got, m)
				if !bytes.Equal(b, before) {
					t.Fatal("the client's message was changed")
				}
			}
		}
	}
}

func TestAnswersAreAsIfTheirKeysHadLostThePrefix(t *testing.T) {
	rnd := newRand()
	foreign := 0
	for _, n := range someNamespaces {
		for _, k := range keyedAnswers {
			for range 300 {
				m := k.make()
				randomMessage(rnd, n, m.ProtoReflect(), true, 8)
				got, err := n.Answer(k.kind, mustMarshal(t, m))
				if !modelAnswer(n, m) {
					foreign++
					if !errors.Is(err, ErrForeignKey) {
						t.Fatalf("a foreign key was answered: %v, error %v", m, err)
					}
					continue
				}
				if err != nil {
					t.Fatalf("%v: %v", m, err)
				}
				checkSameMessage(t, fmt.Sprintf("out of %q", n), got, m)
			}
		}
	}
	if foreign == 0 {
		t.Error("no answer had a foreign key")
	}
}

func TestEventsAreAsInAnAnswer(t *testing.T) {
	rnd := newRand()
	for _, n := range someNamespaces {
		for range 200 {
			m := &pb.WatchResponse{}
			randomMessage(rnd, n, m.ProtoReflect(), false, 8)
			for _, e := range m.Events {
				e.Kv = &mvccpb.KeyValue{Key: n.Key([]byte("k")), Value: make([]byte, rnd.IntN(300)), ModRevision: 7}
			}
			var r WatchResponse
			if err := r.Unmarshal(mustMarshal(t, m)); err != nil {
				t.Fatal(err)
			}
			before := slices.Clone(r.Events)
			for _, prevKV := range []bool{true, false} {
				got, err := n.AnswerEvents(r.Events, prevKV)
				if err != nil {
					t.Fatal(err)
				}
				want := proto.Clone(&pb.WatchResponse{Events: m.Events})
				modelAnswer(n, want)
				var b []byte
				for i := range got {
					if string(got[i].Key) != "k" {
						t.Fatalf("key %q", got[i].Key)
					}
					if prevKV == false {
						want.(*pb.WatchResponse).Events[i].PrevKv = nil
					}
					b = AppendEvent(b, &got[i], true)
				}
				checkSameMessage(t, "events", b, want)
			}
			for i := range before {
				if !bytes.Equal(before[i].Data, r.Events[i].Data) || !bytes.Equal(before[i].Prev, r.Events[i].Prev) {
					t.Fatal("shared events were changed")
				}
			}
		}
	}
}

func TestForeignEventsAreNotAnswered(t *testing.T) {
	own, err := NewPutEvent(mustMarshal(t, &mvccpb.KeyValue{Key: []byte("/app/a"), ModRevision: 2}))
	if err != nil {
		t.Fatal(err)
	}
	prev := own
	prev.Prev = mustMarshal(t, &mvccpb.KeyValue{Key: []byte("/app")})
	for _, e := range []Event{NewDeleteEvent([]byte("/ap"), 3), NewDeleteEvent([]byte("/apq/a"), 3), {}, prev} {
		if got, err := Namespace("/app/").AnswerEvents([]Event{own, e}, true); !errors.Is(err, ErrForeignKey) {
			t.Errorf("%q: got %v, error %v", e.Key, got, err)
		}
	}
}

// What upstream makes of a name that is empty or missing is a key all the same.
func TestMissingNamesAreThoseOfTheNamespace(t *testing.T) {
	lease := protowire.AppendVarint([]byte{2 << 3}, 77)
	name := append([]byte{1<<3 | 2, 5}, "/app/"...)
	for _, c := range []struct {
		kind     Keyed
		in, want []byte
	}{
		{LockRequestKeys, lease, slices.Concat(lease, name)},
		{LockRequestKeys, slices.Concat([]byte{1<<3 | 2, 0}, lease), slices.Concat(name, lease)},
		{LockRequestKeys, nil, name},
		{CampaignRequestKeys, lease, slices.Concat(lease, name)},
		{LeaderRequestKeys, nil, name},
		{ResignRequestKeys, nil, nil}, // upstream asks for the leader
		{ResignRequestKeys, []byte{1<<3 | 2, 0}, slices.Concat([]byte{1<<3 | 2, 7}, name)},
		{UnlockRequestKeys, nil, nil}, // upstream asks for the key
		{WatchRequestKeys, []byte{1<<3 | 2, 0}, []byte("\x0a\x08\x0a\x06/app/\x00")},
		{WatchRequestKeys, []byte{1<<3 | 2, 2, 1<<3 | 2, 0}, []byte("\x0a\x08\x0a\x06/app/\x00")},
	} {
		got, err := Namespace("/app/").Request(c.kind, c.in)
		if err != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%s %x: got %x, want %x, error %v", layouts[c.kind].name, c.in, got, c.want, err)
		}
	}
}

func TestUnknownFieldsStayUnlessTheyCouldHoldAKey(t *testing.T) {
	tag := func(kind protowire.Type) []byte { return protowire.AppendTag(nil, 99, kind) }
	for _, c := range []struct {
		field []byte
		ok    bool
	}{
		{protowire.AppendVarint(tag(protowire.VarintType), 7), true},
		{protowire.AppendFixed32(tag(protowire.Fixed32Type), 7), true},
		{protowire.AppendFixed64(tag(protowire.Fixed64Type), 7), true},
		{protowire.AppendBytes(tag(protowire.BytesType), []byte("k")), false},
		{protowire.AppendGroup(tag(protowire.StartGroupType), 99, nil), false},
		{protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), []byte("k")), false}, // limit, as bytes
	} {
		request := append(mustMarshal(t, &pb.RangeRequest{Key: []byte("k")}), c.field...)
		inTxn := func(b []byte) []byte { // as the first operation
			return protowire.AppendBytes([]byte{2<<3 | 2}, protowire.AppendBytes([]byte{1<<3 | 2}, b))
		}
		for kind, b := range map[Keyed][]byte{RangeRequestKeys: request, TxnRequestKeys: inTxn(request)} {
			got, err := Namespace("/").Request(kind, b)
			var unknown *UnknownFieldError
			switch {
			case c.ok && (err != nil || !bytes.HasSuffix(got, c.field)):
				t.Errorf("field %x: got %x, error %v", c.field, got, err)
			case !c.ok && (!errors.As(err, &unknown) || unknown.Message != "RangeRequest"):
				t.Errorf("field %x: got %x, error %v", c.field, got, err)
			}
		}
		answer := append(mustMarshal(t, &pb.PutResponse{PrevKv: &mvccpb.KeyValue{Key: []byte("/k")}}), c.field...)
		if got, err := Namespace("/").Answer(PutResponseKeys, answer); err != nil || !bytes.HasSuffix(got, c.field) {
			t.Errorf("field %x of an answer: got %x, error %v", c.field, got, err)
		}
	}
}

func TestMalformedMessagesAreRefused(t *testing.T) {
	for _, c := range []struct {
		kind Keyed
		b    string
	}{
		{RangeRequestKeys, "\x0a\x05a"},                     // shorter than it says
		{RangeRequestKeys, "\x02\x01a"},                     // field 0
		{RangeRequestKeys, "\x0b"},                          // a group without an end
		{RangeRequestKeys, "\x0c"},                          // an end without a group
		{RangeRequestKeys, "\x82\x80\x80\x80\x80\x01\x01a"}, // a number that is a small one in 32 bits
		{TxnRequestKeys, "\x12\x04\x0a\x02\x0a\x05"},
		{WatchRequestKeys, "\x12\x02\x02\x00"}, // field 0 of a message that has none with bytes
		{WatchRequestKeys, "\x0a\x01\x08"},
	} {
		if got, err := Namespace("/").Request(c.kind, []byte(c.b)); err == nil {
			t.Errorf("%s %q: got %q", layouts[c.kind].name, c.b, got)
		}
	}
	for kind, b := range map[Keyed]string{RangeResponseKeys: "\x12\x03\x0a\x05a", TxnResponseKeys: "\x1a\x01\x0a", WatchResponseKeys: "\x5a\x02\x12"} {
		if got, err := Namespace("/").Answer(kind, []byte(b)); err == nil {
			t.Errorf("%s %q: got %q", layouts[kind].name, b, got)
		}
	}
}

// nestedTxn is a transaction in a transaction, and so on. Each level is two messages.
func nestedTxn(levels int) []byte {
	var room []byte
	size := func(n int) int { return 1 + protowire.SizeBytes(n) }
	lengths := []int{}
	n := 0
	for range levels {
		lengths = append(lengths, n, size(n))
		n = size(size(n))
	}
	for i := len(lengths) - 1; i > 0; i -= 2 {
		room = protowire.AppendVarint(append(room, 2<<3|2), uint64(lengths[i]))
		room = protowire.AppendVarint(append(room, 4<<3|2), uint64(lengths[i-1]))
	}
	return room
}

func TestDepthIsBoundedAsByProtobuf(t *testing.T) {
	deep, tooDeep := nestedTxn(4_000), nestedTxn(6_000)
	if err := proto.Unmarshal(deep, &pb.TxnRequest{}); err != nil {
		t.Fatal(err)
	}
	if proto.Unmarshal(tooDeep, &pb.TxnRequest{}) == nil {
		t.Fatal("protobuf takes it")
	}
	if got, err := Namespace("/").Request(TxnRequestKeys, deep); err != nil || !bytes.Equal(got, deep) {
		t.Errorf("error %v", err)
	}
	if _, err := Namespace("/").Request(TxnRequestKeys, tooDeep); err == nil {
		t.Error("too deep a transaction was not refused")
	}
}

func TestSmallRequestsDoNotBecomeHuge(t *testing.T) {
	m := &pb.TxnRequest{Compare: make([]*pb.Compare, 100_000)}
	for i := range m.Compare {
		m.Compare[i] = &pb.Compare{Key: []byte("k")}
	}
	b := mustMarshal(t, m)
	if _, err := Namespace("/app/").Request(TxnRequestKeys, b); err != nil {
		t.Error(err)
	}
	if _, err := Namespace(strings.Repeat("x", 100)).Request(TxnRequestKeys, b); !errors.Is(err, ErrNamespaceTooLarge) {
		t.Errorf("error %v", err)
	}
}

// checkNothingEscapes puts any bytes as a request into a namespace.
func checkNothingEscapes(t *testing.T, n Namespace, k keyedMessage, b []byte) {
	m := k.make()
	decoded := proto.Unmarshal(b, m) == nil
	got, err := n.Request(k.kind, b)
	var unknown *UnknownFieldError
	switch {
	case errors.As(err, &unknown), errors.Is(err, ErrNamespaceTooLarge):
		return
	case decoded != (err == nil):
		t.Fatalf("%q: protobuf decodes it: %v, error %v", b, decoded, err)
	case err != nil:
		return
	}
	out := k.make()
	if err := proto.Unmarshal(got, out); err != nil {
		t.Fatalf("%q became %q, which cannot be decoded: %v", b, got, err)
	}
	if escapes(n, out) {
		t.Fatalf("%q in %q became %q: %v", b, n, got, out)
	}
	if k.kind != WatchRequestKeys { // in which half a request may be given twice, and each half has a key then
		modelRequest(n, m)
		checkSameMessage(t, fmt.Sprintf("%q in %q", b, n), got, m)
	}
}

func FuzzNothingEscapes(f *testing.F) {
	rnd := newRand()
	for i, k := range keyedRequests {
		for range 10 {
			m := k.make()
			randomMessage(rnd, "/app/", m.ProtoReflect(), false, 8)
			f.Add("/app/", uint8(i), mustMarshal(f, m))
		}
	}
	f.Add("\xff", uint8(0), []byte("\x0a\x01a\x0a\x00\x12\x01\x00"))
	f.Fuzz(func(t *testing.T, n string, kind uint8, b []byte) {
		if n == "" {
			return
		}
		checkNothingEscapes(t, Namespace(n), keyedRequests[int(kind)%len(keyedRequests)], b)
	})
}

func FuzzNothingForeignIsAnswered(f *testing.F) {
	rnd := newRand()
	for i, k := range keyedAnswers {
		for range 10 {
			m := k.make()
			randomMessage(rnd, "/app/", m.ProtoReflect(), true, 8)
			f.Add("/app/", uint8(i), mustMarshal(f, m))
		}
	}
	f.Fuzz(func(t *testing.T, n string, kind uint8, b []byte) {
		k := keyedAnswers[int(kind)%len(keyedAnswers)]
		m := k.make()
		if n == "" || proto.Unmarshal(b, m) != nil {
			return
		}
		got, err := Namespace(n).Answer(k.kind, b)
		if err != nil { // a foreign key, or one in half a KeyValue that another half overrides
			return
		}
		if !modelAnswer(Namespace(n), m) {
			t.Fatalf("%q out of %q became %q", b, n, got)
		}
		checkSameMessage(t, fmt.Sprintf("%q out of %q", b, n), got, m)
	})
}

func benchmarkNamespace(b *testing.B, rewrite func(Keyed, []byte) ([]byte, error), k Keyed, msg []byte) {
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := rewrite(k, msg); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNamespace(b *testing.B) {
	n := Namespace("/tenants/one/")
	b.Run("range", func(b *testing.B) {
		benchmarkNamespace(b, n.Request, RangeRequestKeys, mustMarshal(b, &pb.RangeRequest{Key: []byte("some/key"), RangeEnd: []byte{0}}))
	})
	b.Run("put 1 KiB", func(b *testing.B) {
		benchmarkNamespace(b, n.Request, PutRequestKeys, mustMarshal(b, &pb.PutRequest{Key: []byte("some/key"), Value: make([]byte, 1024)}))
	})
	for _, count := range []int{1, 100} {
		answer := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 7}, Count: int64(count)}
		for range count {
			answer.Kvs = append(answer.Kvs, &mvccpb.KeyValue{
				Key: n.Key([]byte("some/key")), Value: make([]byte, 1024), ModRevision: 7, CreateRevision: 5, Version: 2,
			})
		}
		msg := mustMarshal(b, answer)
		b.Run(fmt.Sprintf("answer of %d x 1 KiB", count), func(b *testing.B) { benchmarkNamespace(b, n.Answer, RangeResponseKeys, msg) })
	}
}
