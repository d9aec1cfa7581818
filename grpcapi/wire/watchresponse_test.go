package wire

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// checkDecodeWatchResponse holds the decoder against protobuf: an error exactly when protobuf has one, else the same
// fields, and events of which Data and Prev together are the same event.
func checkDecodeWatchResponse(t *testing.T, b []byte, r *WatchResponse) {
	t.Helper()
	input := bytes.Clone(b)
	want := &pb.WatchResponse{}
	wantErr := proto.Unmarshal(b, want)
	err := r.Unmarshal(b)
	if !bytes.Equal(b, input) {
		t.Fatalf("decoding %x changed it to %x", input, b)
	}
	if (err != nil) != (wantErr != nil) {
		t.Fatalf("decode %x: error %v, protobuf says %v", b, err, wantErr)
	}
	if err != nil {
		return
	}
	if r.WatchID != want.WatchId || r.Created != want.Created || r.Canceled != want.Canceled || r.Fragment != want.Fragment ||
		r.CompactRevision != want.CompactRevision || r.CancelReason != want.CancelReason || len(r.Events) != len(want.Events) ||
		r.Header.Revision != want.Header.GetRevision() || r.Header.RaftTerm != want.Header.GetRaftTerm() ||
		r.Header.ClusterID != want.Header.GetClusterId() || r.Header.MemberID != want.Header.GetMemberId() {
		t.Fatalf("decode %x:\n got %+v\nwant %v", b, r, want)
	}
	for i := range r.Events {
		checkDecodedEvent(t, &r.Events[i], want.Events[i])
	}
	if !bytes.Equal(b, input) {
		t.Fatalf("appending to the events of %x changed it to %x", input, b)
	}
}

func checkDecodedEvent(t *testing.T, e *Event, want *mvccpb.Event) {
	t.Helper()
	got := &mvccpb.Event{}
	if err := proto.Unmarshal(e.Data, got); err != nil || got.PrevKv != nil {
		t.Fatalf("data of %v is %v, error %v", want, got, err)
	}
	if e.Prev != nil {
		got.PrevKv = &mvccpb.KeyValue{}
		if err := proto.Unmarshal(e.Prev, got.PrevKv); err != nil {
			t.Fatalf("prev_kv of %v: %v", want, err)
		}
	}
	if !proto.Equal(got, want) { // which compares unknown fields too
		t.Fatalf("decoded an event:\n got %v\nwant %v", got, want)
	}
	checkEventKeyValue(t, e.Data)
	if kv := want.Kv; !bytes.Equal(e.Key, kv.GetKey()) || e.ModRev != kv.GetModRevision() ||
		e.Delete != (want.Type == mvccpb.Event_DELETE) ||
		e.Create != (want.Type == mvccpb.Event_PUT && kv.GetCreateRevision() == kv.GetModRevision()) {
		t.Fatalf("event %v has key %q, revision %d, delete %v, create %v", want, e.Key, e.ModRev, e.Delete, e.Create)
	}
	for _, part := range [][]byte{e.Key, e.Data, e.Prev, e.KeyValue()} {
		_ = append(part, 0xff, 0xff, 0xff)
	}
}

var watchResponses = []*pb.WatchResponse{
	{},
	{Header: &pb.ResponseHeader{ClusterId: 1, MemberId: 1 << 63, Revision: 300, RaftTerm: 4}, WatchId: -1},
	{Header: &pb.ResponseHeader{}, WatchId: 1, Created: true},
	{Canceled: true, CompactRevision: 200, CancelReason: "mvcc: required revision has been compacted"},
	{Fragment: true, Events: []*mvccpb.Event{
		{Kv: keyValues[1], PrevKv: keyValues[2]},
		{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte("k"), ModRevision: 9}},
		{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte("k"), ModRevision: 9}, PrevKv: &mvccpb.KeyValue{}},
		{Kv: keyValues[3], PrevKv: keyValues[3]},
		{Kv: &mvccpb.KeyValue{Key: []byte("new"), CreateRevision: 7, ModRevision: 7}},
		{},
		{Type: 5, PrevKv: keyValues[1]},
	}},
}

// Every message and every cut of it, one after another into the same struct.
func TestWatchResponseDecodesAsProtobufDecodesIt(t *testing.T) {
	var r WatchResponse
	for _, m := range watchResponses {
		b := mustMarshal(t, m)
		for n := range len(b) + 1 {
			checkDecodeWatchResponse(t, slices.Clip(b[:n]), &r)
		}
	}
}

// randomFields returns up to n fields of an encoded message, made by the given functions and in any order, some of them
// several times.
func randomFields(rnd *rand.Rand, n int, makers ...func() []byte) (b []byte) {
	for range rnd.IntN(n + 1) {
		b = append(b, makers[rnd.IntN(len(makers))]()...)
	}
	return b
}

// randomWatchResponse returns a message that is well-formed but otherwise as unusual as can be.
func randomWatchResponse(t *testing.T, rnd *rand.Rand) []byte {
	embedded := func(num byte, body []byte) []byte { return appendMessage(nil, num, body) }
	unknown := func() []byte { return appendMessage([]byte{0xa0, 0x06, 0x05}, 14, []byte("unknown")) }
	number := func(num byte) func() []byte {
		return func() []byte { return appendVarint(nil, num, uint64(randomInt(rnd))) }
	}
	kv := func() []byte {
		return randomFields(rnd, 7, unknown, number(2), number(3), number(4), number(6),
			func() []byte { return appendBytes(nil, 1, fmt.Sprint("key-", rnd.IntN(9))) },
			func() []byte { return appendBytes(nil, 5, make([]byte, rnd.IntN(300))) })
	}
	usual := func() []byte {
		e := &mvccpb.Event{Type: mvccpb.Event_EventType(rnd.IntN(2))}
		kvs, _ := randomKVs(t, rnd, 3)
		switch len(kvs) {
		case 3:
			e.PrevKv = kvs[1]
			fallthrough
		case 2, 1:
			e.Kv = kvs[0]
		}
		return mustMarshal(t, e)
	}
	event := func() []byte {
		if rnd.IntN(2) == 0 {
			return usual()
		}
		return randomFields(rnd, 5, unknown,
			func() []byte { return appendVarint(nil, 1, uint64(rnd.IntN(3))) },
			func() []byte { return embedded(2, kv()) },
			func() []byte { return embedded(3, kv()) })
	}
	return randomFields(rnd, 12, unknown, number(2), number(3), number(4), number(5), number(7),
		func() []byte {
			return embedded(1, randomFields(rnd, 4, unknown, number(1), number(2), number(3), number(4)))
		},
		func() []byte { return appendBytes(nil, 6, fmt.Sprint("reason ", rnd.IntN(9))) },
		func() []byte { return embedded(11, event()) },
		func() []byte { return embedded(11, event()) })
}

func TestWatchResponseInAnyOrderMeansWhatItDoesToProtobuf(t *testing.T) {
	rnd := newRand()
	var r WatchResponse
	for range 5000 {
		checkDecodeWatchResponse(t, randomWatchResponse(t, rnd), &r)
	}
}

func TestOddFieldsOfAWatchResponseAreTreatedAsProtobufTreatsThem(t *testing.T) {
	for _, odd := range oddFields {
		t.Run(odd.name, func(t *testing.T) {
			var r WatchResponse
			checkDecodeWatchResponse(t, odd.field, &r)
			checkDecodeWatchResponse(t, appendMessage(nil, 1, odd.field), &r)
			checkDecodeWatchResponse(t, appendMessage(nil, 11, odd.field), &r)
			checkDecodeWatchResponse(t, appendMessage(nil, 11, appendMessage(nil, 2, odd.field)), &r)
			checkDecodeWatchResponse(t, appendMessage(nil, 11, appendMessage(nil, 3, odd.field)), &r)
		})
	}
}

func TestReasonOfACancelMustBeText(t *testing.T) {
	var r WatchResponse
	checkDecodeWatchResponse(t, appendBytes(nil, 6, "\xff"), &r)
}

func TestEventsOfAServerAreNotCopied(t *testing.T) {
	b := mustMarshal(t, &pb.WatchResponse{Events: []*mvccpb.Event{
		{Kv: keyValues[1]},
		{Type: mvccpb.Event_DELETE, Kv: keyValues[1], PrevKv: keyValues[3]},
	}})
	var r WatchResponse
	if err := r.Unmarshal(b); err != nil {
		t.Fatal(err)
	}
	for _, e := range r.Events {
		for _, part := range [][]byte{e.Key, e.Data, e.Prev, e.KeyValue()} {
			if part == nil {
				continue
			}
			at := bytes.Index(b, part)
			if at < 0 || !slices.ContainsFunc([]int{at, bytes.LastIndex(b, part)}, func(i int) bool { return &b[i] == &part[0] }) {
				t.Errorf("%x is a copy", part)
			}
		}
	}
	if n := testing.AllocsPerRun(100, func() { _ = r.Unmarshal(b) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func TestDecodeErrorOfAnEventSaysWhereItIs(t *testing.T) {
	kv := appendMessage(nil, 2, []byte{0x10, 0x01, 0x0a, 0x7f})
	b := appendMessage(appendVarint(nil, 2, 1), 11, kv)
	var r WatchResponse
	const want = "decode WatchResponse: field at offset 2: decode Event: field at offset 0: decode KeyValue: malformed field at offset 2"
	if err := r.Unmarshal(b); err == nil || err.Error() != want {
		t.Fatalf("got error %v, want %s", err, want)
	}
}

func FuzzWatchResponse(f *testing.F) {
	for _, m := range watchResponses {
		seeds(f, m)
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkDecodeWatchResponse(t, b, &WatchResponse{}) })
}

// FuzzWatchResponseEvent fuzzes what is inside the event, which FuzzWatchResponse seldom reaches.
func FuzzWatchResponseEvent(f *testing.F) {
	for _, m := range watchResponses {
		for _, e := range m.Events {
			seeds(f, e)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = appendMessage(nil, 11, b)
		checkDecodeWatchResponse(t, slices.Clip(b), &WatchResponse{})
	})
}

// BenchmarkWatchResponse is per event.
func BenchmarkWatchResponse(b *testing.B) {
	for _, c := range []struct {
		events, size int
		prev         bool
	}{{1, 256, false}, {100, 256, false}, {100, 256, true}, {100, 64 << 10, false}} {
		msg := AppendWatchHead(nil, benchmarkHeader, 1)
		kvs := benchmarkKVs(c.events, c.size)
		for _, kv := range kvs {
			e, err := NewPutEvent(kv)
			if err != nil {
				b.Fatal(err)
			}
			e.Prev = kv
			msg = AppendEvent(msg, &e, c.prev)
		}
		b.Run(fmt.Sprintf("%dx%d/prev=%v", c.events, c.size, c.prev), func(b *testing.B) {
			b.ReportAllocs()
			var r WatchResponse
			for i := 0; i < b.N; i += c.events {
				if err := r.Unmarshal(msg); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
