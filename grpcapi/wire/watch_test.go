package wire

import (
	"bytes"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

func TestEventsAreWrittenAsProtobufDoes(t *testing.T) {
	rnd := newRand()
	for range 500 {
		h, id := randomHeader(rnd), randomInt(rnd)
		kvs, encoded := randomKVs(t, rnd, 4)
		with, without := &pb.WatchResponse{Header: h.proto(), WatchId: id}, &pb.WatchResponse{Header: h.proto(), WatchId: id}
		var body, bodyWithPrev []byte
		for i, kv := range kvs {
			event := &mvccpb.Event{Kv: kv}
			e, err := NewPutEvent(encoded[i])
			if err != nil {
				t.Fatal(err)
			}
			if rnd.IntN(2) == 0 {
				event = &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: kv.Key, ModRevision: kv.ModRevision}}
				e = NewDeleteEvent(kv.Key, kv.ModRevision)
			}
			if !bytes.Equal(e.Key, kv.Key) || e.ModRev != kv.ModRevision || e.Delete != (event.Type == mvccpb.Event_DELETE) {
				t.Fatalf("event of %v has key %q, revision %d, delete %v", event, e.Key, e.ModRev, e.Delete)
			}
			checkEncoded(t, "Event.Data", e.Data, mustMarshal(t, event))
			without.Events = append(without.Events, event)
			if rnd.IntN(2) == 0 {
				e.Prev = encoded[0]
				event = &mvccpb.Event{Type: event.Type, Kv: event.Kv, PrevKv: kvs[0]}
			}
			with.Events = append(with.Events, event)
			if n := len(mustMarshal(t, event)); e.Size(true) != n || e.Size(false) != len(e.Data) {
				t.Fatalf("%v has size %d, without prev_kv %d, protobuf says %d", event, e.Size(true), e.Size(false), n)
			}
			body = AppendEvent(body, &e, false)
			bodyWithPrev = AppendEvent(bodyWithPrev, &e, true)
		}
		head := AppendWatchHead(nil, h, id)
		checkEncoded(t, "events", append(bytes.Clone(head), body...), mustMarshal(t, without))
		checkEncoded(t, "events with prev_kv", append(bytes.Clone(head), bodyWithPrev...), mustMarshal(t, with))
	}
}

func TestWatchHeadIsWrittenAsProtobufDoes(t *testing.T) {
	h := Header{ClusterID: 1, MemberID: 2, Revision: 300, RaftTerm: 4}
	for _, c := range []struct {
		name string
		got  []byte
		want *pb.WatchResponse
	}{
		{"progress", AppendWatchHead(nil, h, -1), &pb.WatchResponse{WatchId: -1}},
		{"created", AppendWatchCreated(AppendWatchHead(nil, h, 0)), &pb.WatchResponse{Created: true}},
		{"refused", AppendWatchCanceled(AppendWatchCreated(AppendWatchHead(nil, h, -1)), 0, "why"),
			&pb.WatchResponse{WatchId: -1, Created: true, Canceled: true, CancelReason: "why"}},
		{"canceled by the client", AppendWatchCanceled(AppendWatchHead(nil, h, 7), 0, ""),
			&pb.WatchResponse{WatchId: 7, Canceled: true}},
		{"compacted", AppendWatchCanceled(AppendWatchHead(nil, h, 7), 200, ""),
			&pb.WatchResponse{WatchId: 7, Canceled: true, CompactRevision: 200}},
		{"fragment", AppendWatchFragment(AppendWatchHead(nil, h, 7)), &pb.WatchResponse{WatchId: 7, Fragment: true}},
	} {
		c.want.Header = h.proto()
		checkEncoded(t, c.name, c.got, mustMarshal(t, c.want))
	}
}

func TestEventOwnsItsData(t *testing.T) {
	kv := mustMarshal(t, &mvccpb.KeyValue{Key: []byte("k"), ModRevision: 5})
	key := []byte("d")
	put, err := NewPutEvent(kv)
	if err != nil {
		t.Fatal(err)
	}
	del := NewDeleteEvent(key, 6)
	clear(kv)
	clear(key)
	if string(put.Key) != "k" || string(del.Key) != "d" {
		t.Fatalf("keys are now %q and %q", put.Key, del.Key)
	}
}

func TestPutEventOfAMalformedKeyValueIsAnError(t *testing.T) {
	if e, err := NewPutEvent([]byte{0x0a, 0x7f}); err == nil {
		t.Fatalf("got %v", e)
	}
}

// checkEventKeyValue holds Event.KeyValue against protobuf, if protobuf can read data. It must not panic if not.
func checkEventKeyValue(t *testing.T, data []byte) {
	t.Helper()
	want := &mvccpb.Event{}
	wantErr := proto.Unmarshal(data, want)
	got := (&Event{Data: data}).KeyValue()
	if wantErr != nil {
		return
	}
	if (got != nil) != (want.Kv != nil) {
		t.Fatalf("%v has the KeyValue %x", want, got)
	}
	kv := &mvccpb.KeyValue{}
	if err := proto.Unmarshal(got, kv); err != nil || got != nil && !proto.Equal(kv, want.Kv) {
		t.Fatalf("%v has the KeyValue %v, error %v", want, kv, err)
	}
}

func eventsWithKeyValues() []*mvccpb.Event {
	events := []*mvccpb.Event{{Type: mvccpb.Event_DELETE}}
	for _, kv := range keyValues {
		events = append(events, &mvccpb.Event{Kv: kv}, &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: kv})
	}
	return events
}

func TestEventHasItsKeyValueAsProtobufReadsIt(t *testing.T) {
	for _, m := range eventsWithKeyValues() {
		b := mustMarshal(t, m)
		for n := range len(b) + 1 {
			checkEventKeyValue(t, slices.Clip(b[:n]))
		}
		if got := (&Event{Data: b}).KeyValue(); m.Kv != nil && len(got) > 0 && &got[len(got)-1] != &b[len(b)-1] {
			t.Errorf("the KeyValue of %v is a copy", m)
		}
		if got := (&Event{Data: append(b, 0x12, 0x7f)}).KeyValue(); got != nil {
			t.Errorf("malformed behind %v: the KeyValue is %x", m, got)
		}
	}
}

func FuzzEventKeyValue(f *testing.F) {
	for _, m := range eventsWithKeyValues() {
		seeds(f, m)
	}
	f.Fuzz(checkEventKeyValue)
}

func BenchmarkEventKeyValue(b *testing.B) {
	b.ReportAllocs()
	e, err := NewPutEvent(benchmarkKVs(1, 256)[0])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if e.KeyValue() == nil {
			b.Fatal("no KeyValue")
		}
	}
}

func BenchmarkWatchHead(b *testing.B) {
	b.ReportAllocs()
	var buf []byte
	for b.Loop() {
		buf = AppendWatchHead(buf[:0], benchmarkHeader, 1234)
	}
}

func BenchmarkNewPutEvent(b *testing.B) {
	b.ReportAllocs()
	kv := benchmarkKVs(1, 256)[0]
	for b.Loop() {
		if _, err := NewPutEvent(kv); err != nil {
			b.Fatal(err)
		}
	}
}
