package wire

import (
	"bytes"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestWatchRequestsAreWrittenAsProtobufDoes(t *testing.T) {
	rnd := newRand()
	coin := func() bool { return rnd.IntN(2) == 0 }
	for range 500 {
		c := WatchCreate{
			Key: make([]byte, rnd.IntN(200)), End: make([]byte, rnd.IntN(200)), StartRevision: randomInt(rnd),
			ProgressNotify: coin(), PrevKV: coin(), WatchID: randomInt(rnd), Fragment: coin(),
		}
		want := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
			Key: c.Key, RangeEnd: c.End, StartRevision: c.StartRevision,
			ProgressNotify: c.ProgressNotify, PrevKv: c.PrevKV, WatchId: c.WatchID, Fragment: c.Fragment,
		}}}
		checkEncoded(t, "create", AppendWatchCreate([]byte("x"), c), append([]byte("x"), mustMarshal(t, want)...))

		id := randomInt(rnd)
		want.RequestUnion = &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}
		checkEncoded(t, "cancel", AppendWatchCancel([]byte("x"), id), append([]byte("x"), mustMarshal(t, want)...))
	}
	want := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
	checkEncoded(t, "progress", AppendWatchProgressRequest(nil), mustMarshal(t, want))
}

func TestRangeRequestIsWrittenAsProtobufDoes(t *testing.T) {
	rnd := newRand()
	coin := func() bool { return rnd.IntN(2) == 0 }
	for range 500 {
		r := RangeRequest{
			Raw: []byte("not looked at"), Key: make([]byte, rnd.IntN(200)), RangeEnd: make([]byte, rnd.IntN(200)),
			Limit: randomInt(rnd), Revision: randomInt(rnd),
			SortOrder: int32(randomInt(rnd)), SortTarget: int32(randomInt(rnd)),
			Serializable: coin(), KeysOnly: coin(), CountOnly: coin(),
			MinModRevision: randomInt(rnd), MaxModRevision: randomInt(rnd),
			MinCreateRevision: randomInt(rnd), MaxCreateRevision: randomInt(rnd),
		}
		want := mustMarshal(t, r.proto())
		checkEncoded(t, "range", AppendRangeRequest([]byte("x"), &r), append([]byte("x"), want...))
	}
	for _, m := range rangeRequests {
		var r RangeRequest
		b := mustMarshal(t, m)
		if err := r.Unmarshal(b); err != nil {
			t.Fatal(err)
		}
		checkEncoded(t, "decoded range", AppendRangeRequest(nil, &r), bytes.Clone(b))
	}
}
