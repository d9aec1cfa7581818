package wire

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func TestWatchRequestsAreWrittenAsProtobufDoes(t *testing.T) {
	rnd := newRand()
	coin := func() bool { return rnd.IntN(2) == 0 }
	for range 500 {
		c := WatchCreate{
			Key: make([]byte, rnd.IntN(200)), End: make([]byte, rnd.IntN(200)), StartRevision: randomInt(rnd),
			ProgressNotify: coin(), PrevKV: coin(), WatchID: randomInt(rnd), Fragment: coin(),
			NoPut: coin(), NoDelete: coin(),
		}
		var filters []pb.WatchCreateRequest_FilterType
		if c.NoPut {
			filters = append(filters, pb.WatchCreateRequest_NOPUT)
		}
		if c.NoDelete {
			filters = append(filters, pb.WatchCreateRequest_NODELETE)
		}
		want := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
			Key: c.Key, RangeEnd: c.End, StartRevision: c.StartRevision,
			ProgressNotify: c.ProgressNotify, Filters: filters, PrevKv: c.PrevKV, WatchId: c.WatchID, Fragment: c.Fragment,
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

// checkWatchRequest holds the decoder against protobuf's, errors included.
func checkWatchRequest(t *testing.T, b []byte) {
	t.Helper()
	var want pb.WatchRequest
	wantErr := proto.Unmarshal(b, &want)
	var r WatchRequest
	if err := r.Unmarshal(b); (err != nil) != (wantErr != nil) {
		t.Fatalf("%x: got %v, protobuf says %v", b, err, wantErr)
	} else if err != nil {
		return
	}
	var expect WatchRequest
	switch u := want.RequestUnion.(type) {
	case *pb.WatchRequest_CreateRequest:
		c := u.CreateRequest
		expect = WatchRequest{Kind: WatchCreates, Create: WatchCreate{
			Key: c.Key, End: c.RangeEnd, StartRevision: c.StartRevision, ProgressNotify: c.ProgressNotify,
			NoPut:    slices.Contains(c.Filters, pb.WatchCreateRequest_NOPUT),
			NoDelete: slices.Contains(c.Filters, pb.WatchCreateRequest_NODELETE),
			PrevKV:   c.PrevKv, WatchID: c.WatchId, Fragment: c.Fragment,
		}}
	case *pb.WatchRequest_CancelRequest:
		expect = WatchRequest{Kind: WatchCancels, CancelID: u.CancelRequest.WatchId}
	case *pb.WatchRequest_ProgressRequest:
		expect = WatchRequest{Kind: WatchAsksProgress}
	}
	same := bytes.Equal(r.Create.Key, expect.Create.Key) && bytes.Equal(r.Create.End, expect.Create.End)
	r.Create.Key, r.Create.End, expect.Create.Key, expect.Create.End = nil, nil, nil, nil
	if !same || !reflect.DeepEqual(r, expect) {
		t.Fatalf("%x: got %+v, protobuf says %v", b, r, &want)
	}
}

func TestWatchRequestsAreReadAsProtobufDoes(t *testing.T) {
	rnd := newRand()
	var all []byte
	for range 2000 {
		c := WatchCreate{
			Key: make([]byte, rnd.IntN(20)), End: make([]byte, rnd.IntN(20)), StartRevision: randomInt(rnd),
			ProgressNotify: rnd.IntN(2) == 0, NoPut: rnd.IntN(2) == 0, NoDelete: rnd.IntN(2) == 0,
			PrevKV: rnd.IntN(2) == 0, WatchID: randomInt(rnd), Fragment: rnd.IntN(2) == 0,
		}
		one := AppendWatchCreate(nil, c)
		switch rnd.IntN(4) {
		case 0:
			one = AppendWatchCancel(nil, randomInt(rnd))
		case 1:
			one = AppendWatchProgressRequest(nil)
		}
		checkWatchRequest(t, one)
		checkWatchRequest(t, one[:rnd.IntN(len(one)+1)])
		if all = append(all, one...); rnd.IntN(4) == 0 { // several in one message
			checkWatchRequest(t, all)
			all = nil
		}
	}
}

func FuzzWatchRequest(f *testing.F) {
	f.Add(AppendWatchCreate(nil, WatchCreate{Key: []byte("k"), End: []byte("l"), StartRevision: 3, NoDelete: true, WatchID: 7}))
	f.Add(append(AppendWatchCancel(nil, 5), AppendWatchProgressRequest(nil)...))
	f.Add([]byte{0x0a, 4, 5 << 3, 1, 5 << 3, 0})
	f.Fuzz(func(t *testing.T, b []byte) { checkWatchRequest(t, b) })
}
