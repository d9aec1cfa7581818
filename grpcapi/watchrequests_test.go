package grpcapi

import (
	"context"
	"errors"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

func withID(k string, id int64) *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{Key: []byte(k), WatchId: id}
}

// What it expects is what etcd answers, where none of the requests waits.
func TestRequestsBehindOneThatWaitsAreDoneInTheirOrder(t *testing.T) {
	f := newFakeSharer(t)
	_, cc := startSharing(t, f, nil)
	open := f.hold()
	defer open()
	c := openWatch(t, cc)
	requests := []*pb.WatchRequest{
		createRequest(withID("a", 7)), createRequest(key("a")), createRequest(withID("a", 7)), cancelRequest(7),
		createRequest(keys("b", "a")), createRequest(withID("a", 7)), cancelRequest(99), createRequest(key("a")), progressRequest(),
	}
	for _, r := range requests {
		c.send(r)
	}
	for range requests {
		<-f.arrived // though the first still waits
	}
	f.commit(put("x", "1"))
	open()
	c.expect("@2 id=7 created", "@2 id=0 created",
		`@2 id=-1 created canceled "mvcc: duplicate watch ID provided on the WatchStream"`,
		"@2 id=7 canceled",
		`@2 id=-1 created canceled "mvcc: watcher range is empty"`,
		"@2 id=7 created", "@2 id=1 created", "@2 id=-1")
	for _, want := range []coalesce.Arrival{1, 2, 6, 8} {
		if since := <-f.waiting; since != want {
			t.Errorf("the watch of request %d was found since arrival %d", want, since)
		}
	}
}

func TestWatchThatStillWaitsIsCanceledWhenItHasBeenCreated(t *testing.T) {
	f := newFakeSharer(t)
	_, cc := startSharing(t, f, nil)
	open := f.hold()
	defer open()
	c := openWatch(t, cc)
	c.create(withID("a", 5))
	c.cancelWatch(5)
	c.create(withID("b", 5))
	<-f.waiting
	open()
	c.expect("@1 id=5 created", "@1 id=5 canceled", "@1 id=5 created")
	f.commit(put("a", "1"), put("b", "1"))
	c.expect(`@2 id=5 PUT("b" 1)@2`)
}

func TestRefusedWatchIsCreatedAndCanceledWithTheReason(t *testing.T) {
	f := newFakeSharer(t)
	f.refused["no"] = errors.New("etcdserver: permission denied")
	s, cc := startSharing(t, f, nil)
	c := openWatch(t, cc)
	c.create(key("no"))
	c.create(withID("no", 3))
	c.create(key("a"))
	c.create(withID("a", 3))
	c.expect(`@1 id=-1 created canceled "etcdserver: permission denied"`, `@1 id=-1 created canceled "etcdserver: permission denied"`,
		"@1 id=0 created", "@1 id=3 created")
	if n := s.watches.watchBytes.Load(); n != 2*(watchBytes+2) {
		t.Errorf("two watches count %d bytes", n)
	}
}

func TestClientsThatLeaveWhileTheirWatchesWaitLeaveNothingBehind(t *testing.T) {
	const streams, watches = 50, 20
	f := newFakeSharer(t)
	s, cc := startSharing(t, f, nil)
	open := f.hold()
	defer open()
	for i := range streams {
		c := openWatch(t, cc)
		for range watches {
			c.create(key("a"))
		}
		if i%2 == 0 {
			if err := c.CloseSend(); err != nil {
				t.Fatal(err)
			}
		}
		<-f.waiting
		c.cancel()
		if err := <-f.gone; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Stop(ctx)
	if n := s.watches.watchBytes.Load(); n != 0 {
		t.Errorf("%d bytes of watches are left", n)
	}
	if n := s.watches.requestBytes.Load(); n != 0 {
		t.Errorf("%d bytes of requests are left", n)
	}
	if n := f.feed.Stats().Watchers; n != 0 {
		t.Errorf("%d watchers are left", n)
	}
}

func TestQueuedRequestsAreDoneThoughTheClientHasClosedItsSide(t *testing.T) {
	f := newFakeSharer(t)
	_, cc := startSharing(t, f, nil)
	open := f.hold()
	defer open()
	c := openWatch(t, cc)
	c.create(key("a"))
	c.create(key("a"))
	if err := c.CloseSend(); err != nil {
		t.Fatal(err)
	}
	<-f.arrived
	<-f.arrived
	open()
	c.expect("@1 id=0 created", "@1 id=1 created")
	f.commit(put("a", "1"))
	expectSet(t, c, `@2 id=0 PUT("a" 1)@2`, `@2 id=1 PUT("a" 1)@2`)
}

func TestQueuedMessageThatIsNotARequestEndsTheStream(t *testing.T) {
	_, cc := startSharing(t, newFakeSharer(t), nil)
	s, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
		"/etcdserverpb.Watch/Watch", grpc.ForceCodecV2(wire.Codec{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SendMsg(wire.Raw{0xff}); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(new(wire.Raw)); errText(err) != errText(errUndecodable) {
		t.Error(err)
	}
}

func TestQueueOfRequestsIsBounded(t *testing.T) {
	f := newFakeSharer(t)
	open := f.hold()
	defer open()
	s := newWatchStream(sharedServiceOf(f), newTransport(t), nil)
	r := watchRequest{raw: marshal(t, createRequest(key("a")))}
	n := 0
	for s.mayReadNow() {
		s.queueRequest(r)
		n++
	}
	if bytes := n * r.size(); bytes < maxQueuedRequests || bytes >= maxQueuedRequests+r.size() {
		t.Errorf("%d bytes are queued", bytes)
	}
	<-f.waiting
	if s.mayReadNow() {
		t.Error("there is room while the first request waits")
	}
	open()
	if !s.await(s.mayRead) {
		t.Error("the stream has ended")
	}
	s.close()
	s.service.wait()
}

func TestStreamsMayHaveOneRequestEachWhenTheQueuesOfAllAreFull(t *testing.T) {
	f := newFakeSharer(t)
	open := f.hold()
	defer open()
	service := sharedServiceOf(f)
	one, other := newWatchStream(service, newTransport(t), nil), newWatchStream(service, newTransport(t), nil)
	r := watchRequest{raw: marshal(t, createRequest(key("a")))}
	one.queueRequest(r)
	if !one.mayReadNow() {
		t.Error("there is no room behind the first request")
	}
	const others = maxAllQueuedRequests
	service.requestBytes.Add(others)
	if one.mayReadNow() {
		t.Error("there is room for another request")
	}
	if !other.mayReadNow() {
		t.Error("a stream without any waits for the others")
	}
	open()
	if !one.await(one.mayRead) {
		t.Error("the stream has ended")
	}
	service.requestBytes.Add(-others)
	one.close()
	other.close()
	service.wait()
	if n := service.requestBytes.Load(); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
}

func TestLongRequestsAreRefusedWhenTheQueuesOfAllAreFull(t *testing.T) {
	f := newFakeSharer(t)
	s, cc := startSharing(t, f, nil)
	c := openWatch(t, cc)
	long := key(strings.Repeat("x", maxLateRequest))
	s.watches.requestBytes.Add(maxAllQueuedRequests)
	c.create(long)
	c.expect(`@1 id=-1 created canceled "etcdserver: too many requests"`)
	c.create(key("a"))
	c.expect("@1 id=0 created")
	s.watches.requestBytes.Add(-maxAllQueuedRequests)
	c.create(long)
	c.expect("@1 id=1 created")
}

func TestOnlyCancelingAWatchThatIsThereWaitsForTheRevisionToState(t *testing.T) {
	f := newFakeSharer(t)
	asked := 0
	f.asked = func() { asked++ }
	x := newTransport(t)
	s := newWatchStream(sharedServiceOf(f), x, nil)
	defer s.close()
	s.cancel(0, 0)
	s.cancel(-1, 0)
	if asked != 0 {
		t.Errorf("asked %d times to cancel nothing", asked)
	}
	s.create(decoded(t, key("a")), 0)
	f.asked = func() {
		asked++
		if n := f.feed.Stats().Watchers; n != 1 {
			t.Errorf("%d watchers before the answer is on its way", n)
		}
	}
	s.cancel(0, 0)
	s.cancel(0, 0)
	if n := f.feed.Stats().Watchers; asked != 1 || n != 0 {
		t.Errorf("asked %d times, %d watchers", asked, n)
	}
	if len(x.all) != 2 {
		t.Errorf("%d responses", len(x.all))
	}
}

func (s *watchStream) mayReadNow() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mayRead()
}

// sharedServiceOf is the watch service of a forwarding server.
func sharedServiceOf(f *fakeSharer) *watchService {
	return newWatchService(f.hub, f.Header, watchConfig{
		maxResponseBytes: testMaxResponse, waits: true, after: (&manualTimers{}).after, log: quiet(),
	})
}
