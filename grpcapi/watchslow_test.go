package grpcapi

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// records is a slog handler that passes messages on.
type records chan string

func (r records) Enabled(context.Context, slog.Level) bool { return true }
func (r records) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r records) WithGroup(string) slog.Handler            { return r }
func (r records) Handle(_ context.Context, e slog.Record) error {
	r <- e.Message
	return nil
}

// slowService cuts off clients after a minute of the returned clock, whose timers are for a quarter of that.
func slowService(r *revisions) (*watchService, *manualTimers, records) {
	clock, log := &manualTimers{}, make(records, 100)
	return newWatchService(r.hub, r.header, watchConfig{
		maxResponseBytes: testMaxResponse, progressInterval: time.Hour,
		slowTimeout: time.Minute, after: clock.after, log: slog.New(log),
	}), clock, log
}

func (s *watchStream) ended() error {
	select {
	case err := <-s.over:
		return err
	default:
		return nil
	}
}

func TestNobodyIsCutOffUnasked(t *testing.T) {
	r := newRevisions(t, 1<<20)
	server := &watchServer{revisions: r, clock: &manualTimers{}}
	x := newTransport(t)
	s := newWatchStream(server.service(), x, nil)
	defer s.close()
	s.create(decoded(t, key("a")), 0)
	<-x.sent
	if n := server.clock.fire(); n != 0 {
		t.Errorf("%d timers", n)
	}
}

func TestOnlyTheClientThatTakesNothingIsCutOff(t *testing.T) {
	r := newRevisions(t, 1<<20)
	service, clock, log := slowService(r)
	var streams []*watchStream
	var transports []*transport
	for range 3 {
		x := newTransport(t)
		s := newWatchStream(service, x, nil)
		defer s.close()
		s.create(decoded(t, key("a")), 0)
		<-x.sent
		x.write()
		streams, transports = append(streams, s), append(transports, x)
	}
	slow, fast := transports[1], transports[2] // and the first takes nothing
	look := func(ended bool) {
		t.Helper()
		if n := clock.fire(); n != 1 {
			t.Fatalf("%d timers for all streams", n)
		}
		for i, s := range streams {
			if err := s.ended(); (err != nil) != (ended && i == 0) || err != nil && status.Code(err) != codes.Unavailable {
				t.Errorf("client %d: %v", i, err)
			}
		}
	}
	deliver := func() {
		r.commit(put("a", "x"))
		for _, x := range transports {
			<-x.sent
		}
		fast.write()
	}
	look(false)
	deliver()
	for range stallLooks {
		look(false)
	}
	slow.write()
	deliver()
	look(true)
	for range stallLooks - 1 {
		look(false)
	}
	if len(log) != 1 {
		t.Errorf("%d lines in the log", len(log))
	}
}

func TestClientIsCutOffAfterOneTimeoutAtLeastAndOneLookMore(t *testing.T) {
	for name, given := range map[string]int{"a client that has not taken anything yet": 0, "one that has taken something since": 1} {
		r := newRevisions(t, 1<<20)
		service, clock, _ := slowService(r)
		x := newTransport(t)
		s := newWatchStream(service, x, nil)
		s.create(decoded(t, key("a")), 0)
		<-x.sent
		for range given {
			clock.fire() // something is in flight, and is taken afterwards
			x.write()
			r.commit(put("a", "1"))
			<-x.sent
		}
		clock.fire() // at once
		for look := range stallLooks {
			if err := s.ended(); err != nil {
				t.Errorf("%s: ended after %d quarters of the timeout", name, look)
			}
			clock.fire()
		}
		if err := s.ended(); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: got %v after the timeout", name, err)
		}
		s.close()
	}
}

func TestClientThroughNetHTTPIsNotCutOff(t *testing.T) {
	service, clock, _ := slowService(newRevisions(t, 1<<20))
	x := newTransport(t)
	x.ctx = context.WithValue(x.ctx, http.ServerContextKey, &http.Server{})
	s := newWatchStream(service, x, nil)
	defer s.close()
	s.create(decoded(t, key("a")), 0)
	<-x.sent
	if n := clock.fire(); n != 0 {
		t.Errorf("%d timers", n)
	}
	if s.limit != 1 {
		t.Errorf("%d bytes may be in flight", s.limit)
	}
}

func TestClientForWhomNothingIsInFlightIsNotSlow(t *testing.T) {
	service, clock, _ := slowService(newRevisions(t, 1<<20))
	x := newTransport(t)
	s := newWatchStream(service, x, nil)
	s.create(decoded(t, key("a")), 0)
	<-x.sent
	x.write()
	for range 100 {
		clock.fire()
	}
	if err := s.ended(); err != nil {
		t.Error(err)
	}
	s.close()
	if n := clock.fire(); n != 0 {
		t.Errorf("%d timers without streams", n)
	}
}

func TestClientThatTakesALongResponseSlowlyIsNotCutOff(t *testing.T) {
	r := newRevisions(t, 1<<20)
	service, clock, _ := slowService(r)
	x := newTransport(t)
	s := newWatchStream(service, x, nil)
	defer s.close()
	s.create(decoded(t, keys("a", "b")), 0)
	<-x.sent
	x.write()
	value := strings.Repeat("x", 300<<10)
	r.commit(put("a1", value), put("a2", "2"), put("a3", value))
	<-x.sent
	x.mu.Lock()
	message := x.unwritten[0]
	x.mu.Unlock()
	// As grpc's transport does.
	reader := message.Reader()
	message.Free()
	for reader.Remaining() > 0 {
		for range stallLooks {
			clock.fire()
		}
		if err := s.ended(); err != nil {
			t.Fatalf("cut off with %d bytes to go", reader.Remaining())
		}
		if _, err := reader.Discard(min(takenStep+1024, reader.Remaining())); err != nil {
			t.Fatal(err)
		}
	}
	reader.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inflight != 0 {
		t.Errorf("%d bytes are in flight when all are written", s.inflight)
	}
}

// TestClientThatWasCutOffGoesOnFromWhereItWas has a client that reads nothing for long, over a real connection.
func TestClientThatWasCutOffGoesOnFromWhereItWas(t *testing.T) {
	const revisions = 300
	server := newWatchServer(t, 1<<20)
	server.slow = time.Minute
	log := make(records, 100)
	server.log = slog.New(log)
	server.start()
	c := server.open()
	c.create(key("a"))
	c.expect("@1 id=0 created")
	value := bytes.Repeat([]byte("x"), 2000)
	for range revisions {
		server.commit(change{"a", value})
	}
	for len(log) == 0 {
		server.clock.fire()
		runtime.Gosched()
	}
	next := int64(2)
	for {
		resp, err := c.Recv()
		if err != nil {
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "has taken nothing for 1m0s") {
				t.Errorf("ended with %v", err)
			}
			break
		}
		next = checkRevisions(t, resp, next)
	}
	if next == revisions+2 {
		t.Error("it was sent everything")
	}
	again := server.open()
	again.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: next})
	again.recv()
	for next < revisions+2 {
		next = checkRevisions(t, again.recv(), next)
	}
}

// checkRevisions tells which revision follows, if the events begin with next.
func checkRevisions(t *testing.T, r *pb.WatchResponse, next int64) int64 {
	t.Helper()
	for _, e := range r.Events {
		if e.Kv.ModRevision != next {
			t.Fatalf("event of revision %d, want %d", e.Kv.ModRevision, next)
		}
		next++
	}
	return next
}

func TestLongResponsesArriveWholeWhereSlowClientsAreCutOff(t *testing.T) {
	server := newWatchServer(t, 1<<20)
	server.slow = time.Minute
	server.start()
	c := server.open()
	c.create(keys("a", "b"))
	c.expect("@1 id=0 created")
	values := []string{strings.Repeat("1", 3*takenStep), strings.Repeat("2", 100), strings.Repeat("3", takenStep-7)}
	server.commit(put("a1", values[0]), put("a2", values[1]), put("a3", values[2]))
	for i, e := range c.recv().Events {
		if string(e.Kv.Value) != values[i] {
			t.Errorf("value %d has %d bytes", i, len(e.Kv.Value))
		}
	}
}
