package grpcapi

import (
	"context"
	"io"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// What these tests expect was recorded from etcd 3.7.3, except where they say otherwise.

func key(k string) *pb.WatchCreateRequest { return &pb.WatchCreateRequest{Key: []byte(k)} }

// decoded is r as a handler is given it.
func decoded(t testing.TB, r *pb.WatchCreateRequest) *wire.WatchCreate {
	t.Helper()
	raw, err := proto.Marshal(createRequest(r))
	if err != nil {
		t.Fatal(err)
	}
	var req wire.WatchRequest
	if err := req.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	return &req.Create
}

func keys(k, end string) *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{Key: []byte(k), RangeEnd: []byte(end)}
}

func TestWatchIDsAreGeneratedChosenAndRefused(t *testing.T) {
	s := startWatchServer(t, 1<<20)
	c := s.open()
	chosen := func(id int64) *pb.WatchCreateRequest { return &pb.WatchCreateRequest{Key: []byte("a"), WatchId: id} }
	for _, r := range []*pb.WatchCreateRequest{key("a"), chosen(2), key("a"), key("a"), chosen(2), chosen(-5), chosen(-1), chosen(-1)} {
		c.create(r)
	}
	c.expect(
		"@1 id=0 created",
		"@1 id=2 created",
		"@1 id=1 created",
		"@1 id=3 created", // 2 is taken
		`@1 id=-1 created canceled "mvcc: duplicate watch ID provided on the WatchStream"`,
		"@1 id=-5 created",
		"@1 id=-1 created",
		`@1 id=-1 created canceled "mvcc: duplicate watch ID provided on the WatchStream"`,
	)
	c.cancelWatch(2)
	c.cancelWatch(2) // no answer
	c.cancelWatch(99)
	c.cancelWatch(-1)
	c.create(chosen(2))
	c.expect("@1 id=2 canceled", "@1 id=-1 canceled", "@1 id=2 created")
}

func TestWatchRangesAreAsInEtcd(t *testing.T) {
	s := startWatchServer(t, 1<<20)
	c := s.open()
	for _, r := range []*pb.WatchCreateRequest{
		keys("b", "b"), keys("b", "a"), {Key: []byte("b"), StartRevision: -1},
		key(""), keys("", "\x00"), keys("b", "\x00"), keys("a", "b"),
	} {
		c.create(r)
	}
	c.expect(
		`@1 id=-1 created canceled "mvcc: watcher range is empty"`,
		`@1 id=-1 created canceled "mvcc: watcher range is empty"`,
		`@1 id=-1 created canceled "etcdserver: mvcc: required revision has been compacted"`,
		"@1 id=0 created", "@1 id=1 created", "@1 id=2 created", "@1 id=3 created",
	)
	s.commit(put("\x00", "1"))
	expectSet(t, c, `@2 id=0 PUT("\x00" 1)@2`, `@2 id=1 PUT("\x00" 1)@2`)
	s.commit(put("az", "1"))
	expectSet(t, c, `@3 id=1 PUT("az" 1)@3`, `@3 id=3 PUT("az" 1)@3`)
	s.commit(put("zz", "1"))
	expectSet(t, c, `@4 id=1 PUT("zz" 1)@4`, `@4 id=2 PUT("zz" 1)@4`)
}

// expectSet is expect for responses to different watches, which come in any order.
func expectSet(t *testing.T, c *watchClient, want ...string) {
	t.Helper()
	got := map[string]bool{}
	for range want {
		got[describe(c.recv())] = true
	}
	for _, w := range want {
		if !got[w] {
			t.Errorf("got %v\nwant %s", got, w)
		}
	}
}

func TestWatchFiltersAndPreviousValues(t *testing.T) {
	s := startWatchServer(t, 1<<20)
	s.commit(put("f", "1"))
	s.commit(put("f", "2"))
	s.commit(del("f"))
	s.commit(put("f", "3"))
	filtered := func(f ...pb.WatchCreateRequest_FilterType) *pb.WatchCreateRequest {
		return &pb.WatchCreateRequest{Key: []byte("f"), StartRevision: 1, Filters: f}
	}
	history := s.open()
	history.create(&pb.WatchCreateRequest{Key: []byte("f"), StartRevision: 2, PrevKv: true})
	history.expect("@5 id=0 created",
		`@5 id=0 PUT("f" 1)@2 PUT("f" 2)@3<-1@2 DELETE("f")@4<-2@3 PUT("f" 3)@5`)
	history.create(filtered(pb.WatchCreateRequest_NOPUT))
	history.expect("@5 id=1 created", `@5 id=1 DELETE("f")@4`)
	history.create(filtered(pb.WatchCreateRequest_NODELETE))
	history.expect("@5 id=2 created", `@5 id=2 PUT("f" 1)@2 PUT("f" 2)@3 PUT("f" 3)@5`)
	history.create(filtered(pb.WatchCreateRequest_NODELETE, pb.WatchCreateRequest_NOPUT, 7))
	history.expect("@5 id=3 created")

	s.commit(put("f", "4"))
	expectSet(t, history, `@6 id=0 PUT("f" 4)@6<-3@5`, `@6 id=2 PUT("f" 4)@6`)
	s.commit(del("f"))
	expectSet(t, history, `@7 id=0 DELETE("f")@7<-4@6`, `@7 id=1 DELETE("f")@7`)
}

func TestWatchOfACompactedRevisionIsCreatedAndCanceled(t *testing.T) {
	s := startWatchServer(t, 1<<20)
	for range 5 {
		s.commit(put("a", "x"))
	}
	s.compact(5)
	c := s.open()
	at := func(rev int64) *pb.WatchCreateRequest {
		return &pb.WatchCreateRequest{Key: []byte("a"), WatchId: 9, StartRevision: rev}
	}
	c.create(at(4))
	c.expect("@6 id=9 created", "@0 id=9 canceled compact=5")
	c.create(at(4)) // the id is taken until the client cancels it
	c.expect(`@6 id=-1 created canceled "mvcc: duplicate watch ID provided on the WatchStream"`)
	c.cancelWatch(9)
	c.create(at(5))
	c.expect("@6 id=9 canceled", "@6 id=9 created", `@6 id=9 PUT("a" x)@5 PUT("a" x)@6`)
}

func TestWatchStartsInTheFuture(t *testing.T) {
	s := startWatchServer(t, 1<<20)
	c := s.open()
	c.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 3})
	c.expect("@1 id=0 created")
	s.commit(put("a", "2"))
	s.commit(put("a", "3"))
	c.expect(`@3 id=0 PUT("a" 3)@3`)
}

func TestWatchRevisionIsOneResponse(t *testing.T) {
	s := startWatchServer(t, 1<<20)
	c := s.open()
	c.create(keys("a", "c"))
	c.expect("@1 id=0 created")
	s.commit(put("a1", "1"), put("x", "1"), put("a2", "1"))
	c.expect(`@2 id=0 PUT("a1" 1)@2 PUT("a2" 1)@2`)
}

func TestWatchFragments(t *testing.T) {
	s := startWatchServer(t, 1<<20)
	c := s.open()
	whole, fragments := keys("a", "b"), keys("a", "b")
	whole.StartRevision, fragments.StartRevision, fragments.Fragment = 2, 2, true
	s.commit(put("a1", strings.Repeat("x", 1900)), put("a2", strings.Repeat("x", 1900)), put("a3", strings.Repeat("x", 5000)),
		put("a4", "4"), put("a5", "5"))
	c.create(fragments)
	c.expect("@2 id=0 created",
		`@2 id=0 fragment PUT("a1" <1900>)@2 PUT("a2" <1900>)@2`,
		`@2 id=0 fragment PUT("a3" <5000>)@2`,
		`@2 id=0 PUT("a4" 4)@2 PUT("a5" 5)@2`)
	c.create(whole)
	c.expect("@2 id=1 created",
		`@2 id=1 PUT("a1" <1900>)@2 PUT("a2" <1900>)@2 PUT("a3" <5000>)@2 PUT("a4" 4)@2 PUT("a5" 5)@2`)
}

// RequestProgress is dropped by etcd if a watch of the stream is not up to date or starts in the future. Here it is
// answered when it can be.
func TestWatchProgressRequest(t *testing.T) {
	s := startWatchServer(t, 1<<20)
	s.commit(put("a", "1"))
	c := s.open()
	c.requestProgress() // no watch, no answer
	c.create(key("a"))
	c.expect("@2 id=0 created")
	c.requestProgress()
	c.requestProgress()
	c.expect("@2 id=-1", "@2 id=-1")
	c.create(&pb.WatchCreateRequest{Key: []byte("b"), StartRevision: 3})
	c.requestProgress()
	c.expect("@2 id=1 created", "@2 id=-1")
	c.create(&pb.WatchCreateRequest{Key: []byte("b"), StartRevision: 5})
	c.expect("@2 id=2 created")
	c.requestProgress()
	s.commit(put("a", "2"))
	c.expect(`@3 id=0 PUT("a" 2)@3`)
	s.commit(put("a", "3"))
	c.expect(`@4 id=0 PUT("a" 3)@4`, "@4 id=-1")
}

func TestWatchProgressNotify(t *testing.T) {
	s := startWatchServer(t, 1<<20)
	c := s.open()
	notified := key("a")
	notified.ProgressNotify = true
	c.create(notified)
	c.create(key("a"))
	c.expect("@1 id=0 created", "@1 id=1 created")
	s.commit(put("other", "1"))
	// Behind the answer, the watch has certainly been started.
	c.requestProgress()
	c.expect("@2 id=-1")
	if n := s.clock.fire(); n != 1 {
		t.Fatalf("%d timers for one stream", n)
	}
	c.expect("@2 id=0")

	s.commit(put("a", "1"))
	expectSet(t, c, `@3 id=0 PUT("a" 1)@3`, `@3 id=1 PUT("a" 1)@3`)
	s.clock.fire() // says nothing: there were events
	c.requestProgress()
	c.expect("@3 id=-1")
	s.clock.fire()
	c.expect("@3 id=0")
}

func TestWatchGoesOnWhenTheClientHasClosedItsSide(t *testing.T) {
	s := startWatchServer(t, 1<<20)
	c := s.open()
	c.create(key("a"))
	c.expect("@1 id=0 created")
	if err := c.CloseSend(); err != nil {
		t.Fatal(err)
	}
	s.commit(put("a", "1"))
	c.expect(`@2 id=0 PUT("a" 1)@2`)
}

func TestWatchIgnoresUnknownRequests(t *testing.T) {
	s := startWatchServer(t, 1<<20)
	c := s.open()
	c.send(&pb.WatchRequest{})
	c.create(&pb.WatchCreateRequest{})
	c.expect("@1 id=0 created")
}

func TestWatchEndsOnAMessageThatIsNotOne(t *testing.T) {
	s := startWatchServer(t, 1<<20)
	cc, err := s.dial().NewStream(context.Background(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
		"/etcdserverpb.Watch/Watch", grpc.ForceCodecV2(wire.Codec{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := cc.SendMsg(wire.Raw{0xff}); err != nil {
		t.Fatal(err)
	}
	err = cc.RecvMsg(new(wire.Raw))
	const etcds = "grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data"
	if st := status.Convert(err); st.Code() != codes.Internal || st.Message() != etcds {
		t.Error(err)
	}
}

func TestWatchIsCanceledWhenTheHubCloses(t *testing.T) {
	s := startWatchServer(t, 1<<20)
	c := s.open()
	c.create(key("a"))
	c.expect("@1 id=0 created")
	c.requestProgress()
	c.expect("@1 id=-1")
	s.hub.Close()
	c.expect(`@1 id=0 canceled "watch hub is closed"`)
}

// TestWatchCreatedIsFirstAndCanceledIsLast creates and cancels while writes go on.
func TestWatchCreatedIsFirstAndCanceledIsLast(t *testing.T) {
	s := startWatchServer(t, 1<<20)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				s.commit(put("a", "1"))
			}
		}
	}()
	defer func() {
		close(stop)
		<-stopped
	}()
	c := s.open()
	const watches = 100
	go func() {
		for id := range int64(watches) {
			_ = c.Send(createRequest(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: id + 1}))
			if id%3 == 0 {
				_ = c.Send(progressRequest())
			}
			_ = c.Send(cancelRequest(id + 1))
		}
		_ = c.Send(cancelRequest(0))
	}()
	next := map[int64]int64{} // of open watches
	for canceled := 0; canceled < watches; {
		r := c.recv()
		rev, open := next[r.WatchId]
		switch {
		case r.Created:
			next[r.WatchId] = r.Header.Revision + 1
		case r.Canceled:
			canceled++
			delete(next, r.WatchId)
		case r.WatchId == -1:
			for id, rev := range next {
				if rev != r.Header.Revision+1 {
					t.Fatalf("progress %d, but watch %d has been sent up to %d", r.Header.Revision, id, rev-1)
				}
			}
		case !open:
			t.Fatalf("events of a watch that is not open: %s", describe(r))
		default:
			for _, e := range r.Events {
				if e.Kv.ModRevision != rev {
					t.Fatalf("event of revision %d, want %d", e.Kv.ModRevision, rev)
				}
				rev++
			}
			next[r.WatchId] = rev
		}
	}
	c.cancel()
	for {
		if _, err := c.Recv(); err != nil {
			if err == io.EOF || status.Code(err) != codes.Canceled {
				t.Error(err)
			}
			return
		}
	}
}
