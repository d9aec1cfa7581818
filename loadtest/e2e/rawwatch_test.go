package e2e

import (
	"context"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What etcd's client library hides: watch ids, cancels, fragments, and requests that it never sends.
func rawWatchCases() []testCase {
	return []testCase{
		{"RawWatchGeneratesIDs", rawWatchGeneratesIDs},
		{"RawWatchTakesChosenIDs", rawWatchTakesChosenIDs},
		{"RawWatchRefusesATakenID", rawWatchRefusesATakenID},
		{"RawWatchCancelIsAnswered", rawWatchCancelIsAnswered},
		{"RawWatchNegativeStartIsCancelled", rawWatchNegativeStartIsCancelled},
		{"RawWatchEmptyRangeIsCancelled", rawWatchEmptyRangeIsCancelled},
		{"RawWatchEmptyKeyIsTheFirst", rawWatchEmptyKeyIsTheFirst},
		{"RawWatchCompactedStart", rawWatchCompactedStart},
		{"RawWatchFragments", rawWatchFragments},
		{"RawWatchWithoutFragmentIsWhole", rawWatchWithoutFragmentIsWhole},
		{"RawWatchProgressIsAfterEvents", rawWatchProgressIsAfterEvents},
		{"RawWatchIgnoresAnEmptyRequest", rawWatchIgnoresAnEmptyRequest},
		{"RawWatchHalfClosedStreamGoesOn", rawWatchHalfClosedStreamGoesOn},
	}
}

// watchStream is one gRPC stream of watches.
type watchStream struct {
	*fixture
	pb.Watch_WatchClient
}

func (f *fixture) watchStream() *watchStream {
	f.Helper()
	return f.watchStreamIn(f.ctx)
}

// watchStreamIn is a stream with the metadata of ctx.
func (f *fixture) watchStreamIn(ctx context.Context) *watchStream {
	f.Helper()
	ctx, cancel := context.WithCancel(ctx)
	f.Cleanup(cancel)
	s, err := pb.NewWatchClient(f.conn).Watch(ctx)
	f.must(err)
	return &watchStream{f, s}
}

func (s *watchStream) recv() *pb.WatchResponse {
	s.Helper()
	r, err := s.Recv()
	s.must(err)
	return r
}

func (s *watchStream) send(r *pb.WatchRequest) {
	s.Helper()
	s.must(s.Send(r))
}

// create sends a create request and returns its answer.
func (s *watchStream) create(r *pb.WatchCreateRequest) *pb.WatchResponse {
	s.Helper()
	s.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
	resp := s.recv()
	want(s.fixture, "created", resp.Created, true)
	return resp
}

func (s *watchStream) cancel(id int64) {
	s.Helper()
	s.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

func (s *watchStream) requestProgress() {
	s.Helper()
	s.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

// bytes is a key of this case.
func (f *fixture) bytes(name string) []byte { return []byte(f.key(name)) }

func rawWatchGeneratesIDs(f *fixture) {
	s := f.watchStream()
	for id := range int64(3) {
		want(f, "generated id", s.create(&pb.WatchCreateRequest{Key: f.bytes("a")}).WatchId, id)
	}
	// Ids belong to a stream.
	want(f, "first id of another stream", f.watchStream().create(&pb.WatchCreateRequest{Key: f.bytes("a")}).WatchId, 0)
}

func rawWatchTakesChosenIDs(f *fixture) {
	s := f.watchStream()
	for _, id := range []int64{7, 1, -3, 1 << 40} {
		want(f, "chosen id", s.create(&pb.WatchCreateRequest{Key: f.bytes(fmt.Sprint(id)), WatchId: id}).WatchId, id)
	}
	want(f, "generated id", s.create(&pb.WatchCreateRequest{Key: f.bytes("x")}).WatchId, 0)
	want(f, "generated id steps over a chosen one", s.create(&pb.WatchCreateRequest{Key: f.bytes("x")}).WatchId, 2)
	f.put("-3", "1")
	r := s.recv()
	want(f, "id of the event", r.WatchId, -3)
	want(f, "event", f.event(r.Events[0]), "PUT -3=1")
}

func rawWatchRefusesATakenID(f *fixture) {
	s := f.watchStream()
	s.create(&pb.WatchCreateRequest{Key: f.bytes("a"), WatchId: 5})
	r := s.create(&pb.WatchCreateRequest{Key: f.bytes("b"), WatchId: 5})
	want(f, "canceled", r.Canceled, true)
	want(f, "id", r.WatchId, -1)
	want(f, "reason", r.CancelReason, "mvcc: duplicate watch ID provided on the WatchStream")
	f.put("a", "still watched")
	want(f, "event", f.event(s.recv().Events[0]), "PUT a=still watched")
	// A cancelled id is free again.
	s.cancel(5)
	want(f, "canceled", s.recv().Canceled, true)
	want(f, "id", s.create(&pb.WatchCreateRequest{Key: f.bytes("b"), WatchId: 5}).WatchId, 5)
	f.put("b", "1")
	want(f, "event", f.event(s.recv().Events[0]), "PUT b=1")
}

func rawWatchCancelIsAnswered(f *fixture) {
	s := f.watchStream()
	first := s.create(&pb.WatchCreateRequest{Key: f.bytes("a")}).WatchId
	second := s.create(&pb.WatchCreateRequest{Key: f.bytes("a")}).WatchId
	s.cancel(99) // nobody's: no answer
	s.cancel(first)
	r := s.recv()
	want(f, "id", r.WatchId, first)
	want(f, "canceled", r.Canceled, true)
	want(f, "created", r.Created, false)
	want(f, "reason", r.CancelReason, "")
	want(f, "compact revision", r.CompactRevision, 0)
	f.put("a", "1")
	want(f, "id of the event", s.recv().WatchId, second)
	// Generated ids are not given twice.
	want(f, "next id", s.create(&pb.WatchCreateRequest{Key: f.bytes("a")}).WatchId, second+1)
}

func rawWatchNegativeStartIsCancelled(f *fixture) {
	s := f.watchStream()
	r := s.create(&pb.WatchCreateRequest{Key: f.bytes("a"), StartRevision: -1})
	want(f, "canceled", r.Canceled, true)
	want(f, "id", r.WatchId, -1)
	want(f, "reason", r.CancelReason, "etcdserver: mvcc: required revision has been compacted")
	want(f, "compact revision", r.CompactRevision, 0)
}

func rawWatchEmptyRangeIsCancelled(f *fixture) {
	s := f.watchStream()
	for _, end := range []string{"a", "b"} {
		r := s.create(&pb.WatchCreateRequest{Key: f.bytes("b"), RangeEnd: f.bytes(end)})
		want(f, "canceled", r.Canceled, true)
		want(f, "id", r.WatchId, -1)
		want(f, "reason", r.CancelReason, "mvcc: watcher range is empty")
	}
	// Nobody else on the stream notices.
	s.create(&pb.WatchCreateRequest{Key: f.bytes("a")})
	f.put("a", "1")
	want(f, "event", f.event(s.recv().Events[0]), "PUT a=1")
}

func rawWatchEmptyKeyIsTheFirst(f *fixture) {
	s := f.watchStream()
	s.create(&pb.WatchCreateRequest{RangeEnd: []byte{0}}) // everything
	f.put("a", "1")
	want(f, "event", f.event(s.recv().Events[0]), "PUT a=1")
}

func rawWatchCompactedStart(f *fixture) {
	first := f.putLetters("abcd")
	_, err := f.client.Compact(f.ctx, first+2)
	f.must(err)
	s := f.watchStream()
	id := s.create(&pb.WatchCreateRequest{Key: f.bytes("a"), StartRevision: first, WatchId: 3}).WatchId
	r := s.recv()
	want(f, "id", r.WatchId, id)
	want(f, "canceled", r.Canceled, true)
	want(f, "compact revision", r.CompactRevision, first+2)
	want(f, "events", len(r.Events), 0)
}

// bigRevision makes one revision of 30 events, whose previous pairs are 4 MiB together. One response with fragments is
// bounded by the largest request and its overhead, 2 MiB.
func (f *fixture) bigRevision() {
	f.Helper()
	for i := range 30 {
		f.put(fmt.Sprintf("big/%02d", i), strings.Repeat("x", 140_000))
	}
	f.del("big/", clientv3.WithPrefix())
}

func rawWatchFragments(f *fixture) {
	s := f.watchStream()
	s.create(&pb.WatchCreateRequest{Key: f.bytes("big/"), RangeEnd: f.bytes("big0"), PrevKv: true, Fragment: true,
		Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}})
	f.bigRevision()
	var events, fragments int
	for events < 30 {
		r := s.recv()
		var size int
		for _, ev := range r.Events {
			want(f, "key", string(ev.Kv.Key), f.key(fmt.Sprintf("big/%02d", events)))
			events++
			size += len(ev.PrevKv.GetValue())
		}
		if size > 2<<20 {
			f.Errorf("a fragment holds %d bytes of values", size)
		}
		want(f, "is a fragment", r.Fragment, events < 30)
		if r.Fragment {
			fragments++
		}
	}
	if fragments == 0 {
		f.Error("a revision of 4 MiB came without a fragment")
	}
}

func rawWatchWithoutFragmentIsWhole(f *fixture) {
	s := f.watchStream()
	s.create(&pb.WatchCreateRequest{Key: f.bytes("big/"), RangeEnd: f.bytes("big0"), PrevKv: true,
		Filters: []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NOPUT}})
	f.bigRevision()
	r := s.recv()
	want(f, "fragment", r.Fragment, false)
	want(f, "events", len(r.Events), 30)
}

func rawWatchProgressIsAfterEvents(f *fixture) {
	s := f.watchStream()
	s.create(&pb.WatchCreateRequest{Key: f.bytes("a")})
	s.create(&pb.WatchCreateRequest{Key: f.bytes("b")})
	for i := range 20 {
		rev := f.put("a", fmt.Sprint(i)).Header.Revision
		s.requestProgress()
		r := s.recv()
		if len(r.Events) != 1 || r.Events[0].Kv.ModRevision != rev {
			f.Fatalf("want the event of revision %d before the progress, got %v", rev, r)
		}
		r = s.recv()
		want(f, "id of a progress for all", r.WatchId, -1)
		want(f, "revision", r.Header.Revision, rev)
		want(f, "events", len(r.Events), 0)
		want(f, "canceled", r.Canceled, false)
	}
}

func rawWatchIgnoresAnEmptyRequest(f *fixture) {
	s := f.watchStream()
	s.send(&pb.WatchRequest{})
	s.create(&pb.WatchCreateRequest{Key: f.bytes("a")})
	f.put("a", "1")
	want(f, "event", f.event(s.recv().Events[0]), "PUT a=1")
}

func rawWatchHalfClosedStreamGoesOn(f *fixture) {
	s := f.watchStream()
	s.create(&pb.WatchCreateRequest{Key: f.bytes("a")})
	f.must(s.CloseSend())
	f.put("a", "1")
	want(f, "event", f.event(s.recv().Events[0]), "PUT a=1")
	f.put("a", "2")
	want(f, "event", f.event(s.recv().Events[0]), "PUT a=2")
}
