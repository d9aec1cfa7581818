package grpcapi

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// transport is a grpc.ServerStream that writes only when the test says so.
type transport struct {
	grpc.ServerStream
	t   *testing.T
	ctx context.Context

	entered chan struct{} // an element for each SendMsg, if not nil
	leave   chan struct{} // SendMsg waits for an element, if not nil
	sent    chan struct{} // an element for each SendMsg that has returned

	mu        sync.Mutex
	sending   bool
	unwritten []mem.BufferSlice
	bytes     int // unwritten
	all       []*pb.WatchResponse
}

func newTransport(t *testing.T) *transport {
	return &transport{t: t, ctx: t.Context(), sent: make(chan struct{}, 1<<20)}
}

func (x *transport) Context() context.Context { return x.ctx }

func (x *transport) SendMsg(m any) error {
	msg := *m.(*mem.BufferSlice)
	x.mu.Lock()
	if x.sending {
		x.t.Error("two SendMsg at a time")
	}
	if x.bytes >= 64<<10 {
		x.t.Error("SendMsg would block")
	}
	x.sending = true
	x.mu.Unlock()
	if x.entered != nil {
		x.entered <- struct{}{}
		<-x.leave
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sending = false
	r := &pb.WatchResponse{}
	if err := proto.Unmarshal(msg.Materialize(), r); err != nil {
		x.t.Error(err)
	}
	x.all = append(x.all, r)
	x.unwritten = append(x.unwritten, msg)
	x.bytes += msg.Len() + frameHeader
	x.sent <- struct{}{}
	return nil
}

// write writes all that was sent, and returns how many bytes that was.
func (x *transport) write() (n int) {
	x.mu.Lock()
	unwritten := x.unwritten
	n, x.bytes, x.unwritten = x.bytes, 0, nil
	x.mu.Unlock()
	for _, m := range unwritten {
		m.Free()
	}
	return n
}

// events is the revisions of the events sent to watch id.
func (x *transport) events(id int64) (revs []int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, r := range x.all {
		for _, e := range r.Events {
			if r.WatchId == id {
				revs = append(revs, e.Kv.ModRevision)
			}
		}
	}
	return revs
}

func TestSlowClientPinsLittleAndIsBroughtUpToDate(t *testing.T) {
	const revisions, size = 500, 1000
	r := newRevisions(t, 20*size) // the client falls out of the ring
	x := newTransport(t)
	s := newWatchStream(watchServiceOf(r), x, nil)
	defer s.close()
	s.create(decoded(t, key("a")), 0)
	for range revisions {
		r.commit(put("a", strings.Repeat("x", size)))
	}
	for len(x.events(0)) < revisions {
		<-x.sent
		if n := x.write(); n > inflightLimit+chunkSlack {
			t.Errorf("%d bytes were in flight", n)
		}
	}
	for i, rev := range x.events(0) {
		if rev != int64(i)+2 {
			t.Fatalf("event %d is of revision %d", i, rev)
		}
	}
}

// chunkSlack is what the hub gives in one message at most, and the last revision of it.
const chunkSlack = 130 << 10

func watchServiceOf(r *revisions) *watchService {
	return (&watchServer{revisions: r, clock: &manualTimers{}}).service()
}

func TestRequestsOfAClientThatDoesNotReadAreNotRead(t *testing.T) {
	t.Run("handled at once", func(t *testing.T) { floodWithRequests(t, watchServiceOf(newRevisions(t, 1<<20))) })
	t.Run("queued", func(t *testing.T) { floodWithRequests(t, sharedServiceOf(newFakeSharer(t))) })
}

func floodWithRequests(t *testing.T, service *watchService) {
	const requests = 20000
	x := &flood{transport: newTransport(t), requests: requests, request: marshal(t, createRequest(key("a")))}
	x.s = newWatchStream(service, x, nil)
	service.tasks.Go(x.s.receive)
	for range requests {
		<-x.sent
		x.mu.Lock()
		n := x.bytes
		x.mu.Unlock()
		if n > inflightLimit/2 { // else there will be more without it
			x.write()
		}
	}
	x.s.close()
	service.wait()
}

// flood is a client that creates watches as fast as it can.
type flood struct {
	*transport
	s        *watchStream
	requests int
	request  wire.Raw
}

func (x *flood) RecvMsg(m any) error {
	const answers = 300 // bytes; the queue's goroutine may have added one since a request could be read
	x.s.mu.Lock()
	if n := x.s.inflight + x.s.queued; n >= inflightLimit+answers {
		x.t.Errorf("a request is read with %d bytes unsent", n)
	}
	x.s.mu.Unlock()
	if x.requests == 0 {
		return io.EOF
	}
	x.requests--
	*m.(*wire.Raw) = x.request
	return nil
}

func TestResponsesForABusyStreamAreLeftToItsSender(t *testing.T) {
	r := newRevisions(t, 1<<20)
	x := newTransport(t)
	x.entered, x.leave = make(chan struct{}), make(chan struct{})
	s := newWatchStream(watchServiceOf(r), x, nil)
	w := &coalesce.Watcher{ID: 5}
	s.watches.add(watchEntry{watcher: w})

	first := make(chan struct{})
	go func() {
		defer close(first)
		s.post(wire.AppendWatchCreated(wire.AppendWatchHead(nil, wire.Header{}, 5)))
	}()
	<-x.entered
	e, err := wire.NewPutEvent((&wire.KeyValue{Key: []byte("a"), ModRevision: 2}).Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	// None of these waits, although the stream is busy.
	if !s.Deliver(w, &coalesce.Message{Revision: 2, Events: []wire.Event{e}}) {
		t.Error("refused")
	}
	s.Progress(w, 3, 0)
	s.Canceled(w, coalesce.ErrHubClosed)
	for range 3 {
		x.leave <- struct{}{}
		<-x.entered
	}
	x.leave <- struct{}{}
	<-first
	if n := len(x.all); n != 4 || !x.all[0].Created || len(x.all[1].Events) != 1 || x.all[2].Header.Revision != 3 || !x.all[3].Canceled {
		t.Errorf("sent %v", x.all)
	}
	s.close()
}

func TestFragmentsBeyondTheLimitFollowWhenThereIsRoom(t *testing.T) {
	r := newRevisions(t, 1<<20)
	x := newTransport(t)
	s := newWatchStream(watchServiceOf(r), x, nil)
	defer s.close()
	fragmented := keys("a", "b")
	fragmented.Fragment = true
	s.create(decoded(t, fragmented), 0)
	var changes []change
	for i := range 100 {
		changes = append(changes, put(fmt.Sprintf("a%02d", i), strings.Repeat("x", 3000)))
	}
	r.commit(changes...)
	for len(x.events(0)) < len(changes) {
		<-x.sent
		x.mu.Lock()
		n := x.bytes
		x.mu.Unlock()
		if n > inflightLimit/2 { // else there will be more without it
			x.write()
		}
	}
	for i, resp := range x.all[1:] {
		if resp.Fragment != (i < len(changes)-1) || string(resp.Events[0].Kv.Key) != changes[i].key {
			t.Fatalf("response %d is %s", i, describe(resp))
		}
	}
}

func TestWatchesOfOneStreamAreBounded(t *testing.T) {
	r := newRevisions(t, 1<<20)
	x := newTransport(t)
	s := newWatchStream(watchServiceOf(r), x, nil)
	defer s.close()
	s.watchBytes = maxStreamWatchBytes - 2*watchBytes
	for range 2 {
		s.create(decoded(t, key("a")), 0)
	}
	s.cancel(0, s.service.hub.Arrive())
	s.create(decoded(t, key("a")), 0)
	var got []string
	for _, resp := range x.all {
		got = append(got, describe(resp))
	}
	want := []string{
		"@1 id=0 created", `@1 id=-1 created canceled "etcdserver: too many requests"`, "@1 id=0 canceled", "@1 id=1 created",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestStreamThatCannotSendTakesEverythingAndSendsNothing(t *testing.T) {
	r := newRevisions(t, 1<<20)
	x := &broken{transport: newTransport(t)}
	s := newWatchStream(watchServiceOf(r), x, nil)
	s.create(decoded(t, key("a")), 0)
	for range 100 {
		r.commit(put("a", strings.Repeat("x", 3000)))
	}
	s.close()
	if x.calls != 1 {
		t.Errorf("%d SendMsg after the first has failed", x.calls-1)
	}
}

// broken is a transport whose connection is gone.
type broken struct {
	*transport
	calls int
}

func (x *broken) SendMsg(m any) error {
	x.calls++
	m.(*mem.BufferSlice).Free()
	return io.EOF
}

// TestSlowClientDoesNotHoldUpOthers has one client that reads nothing until another has everything.
func TestSlowClientDoesNotHoldUpOthers(t *testing.T) {
	s := startWatchServer(t, 100<<10)
	slowClientDoesNotHoldUpOthers(t, s, s.dial(), s.dial())
}

func TestSlowClientDoesNotHoldUpOthersOverNetHTTP(t *testing.T) {
	s := &watchServer{revisions: newRevisions(t, 100<<10), t: t, clock: &manualTimers{}}
	gs := grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec{}), grpc.WaitForHandlers(true))
	service := s.service()
	service.register(gs, &fakeBackend{})
	web := httptest.NewUnstartedServer(gs)
	web.EnableHTTP2 = true
	web.StartTLS()
	t.Cleanup(func() {
		web.CloseClientConnections()
		web.Close()
		gs.Stop()
		service.wait()
	})
	pool := x509.NewCertPool()
	pool.AddCert(web.Certificate())
	dial := func() *grpc.ClientConn {
		cc, err := grpc.NewClient(web.Listener.Addr().String(),
			grpc.WithTransportCredentials(credentials.NewClientTLSFromCert(pool, "example.com")))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cc.Close() })
		return cc
	}
	slowClientDoesNotHoldUpOthers(t, s, dial(), dial())
}

func slowClientDoesNotHoldUpOthers(t *testing.T, s *watchServer, slowConn, fastConn *grpc.ClientConn) {
	const revisions = 1000
	slow, fast := openWatch(t, slowConn), openWatch(t, fastConn)
	for _, c := range []*watchClient{slow, fast} {
		c.create(key("a"))
		c.expect("@1 id=0 created")
	}
	value := bytes.Repeat([]byte("x"), 2000)
	go func() {
		for range revisions {
			s.commit(change{"a", value})
		}
	}()
	for _, c := range []*watchClient{fast, slow} {
		for next := int64(2); next < revisions+2; {
			for _, e := range c.recv().Events {
				if e.Kv.ModRevision != next {
					t.Fatalf("event of revision %d, want %d", e.Kv.ModRevision, next)
				}
				next++
			}
		}
	}
}

func TestManyWatchesOnOneStream(t *testing.T) {
	const watches = 20000
	s := startWatchServer(t, 1<<20)
	c := s.open()
	go func() {
		for range watches {
			_ = c.Send(createRequest(key("a")))
		}
	}()
	for range watches {
		if r := c.recv(); !r.Created {
			t.Fatal(describe(r))
		}
	}
	for rev := range int64(3) {
		s.commit(put("a", "x"))
		for range watches {
			if r := c.recv(); len(r.Events) != 1 || r.Events[0].Kv.ModRevision != rev+2 {
				t.Fatal(describe(r))
			}
		}
	}
}
