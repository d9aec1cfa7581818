package wire

import (
	"bytes"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
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
