package grpcapi

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"weir/grpcapi/wire"
)

// watchServer is a watch service over a history, on a loopback port.
type watchServer struct {
	*revisions
	t       testing.TB
	address string
	clock   *manualTimers
	slow    time.Duration // Config.SlowClientTimeout
	log     *slog.Logger
	permits WatchPermits
}

const testMaxResponse = 4000

func newWatchServer(t testing.TB, ringBytes int) *watchServer {
	return &watchServer{revisions: newRevisions(t, ringBytes), t: t, clock: &manualTimers{}, log: quiet()}
}

func startWatchServer(t testing.TB, ringBytes int) *watchServer {
	s := newWatchServer(t, ringBytes)
	s.start()
	return s
}

func (s *watchServer) start() *watchService {
	gs := grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec{}), grpc.WaitForHandlers(true))
	service := s.service()
	service.register(gs, &fakeBackend{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = l.Addr().String()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = gs.Serve(l)
	}()
	s.t.Cleanup(func() {
		gs.Stop()
		<-done
		service.wait()
	})
	return service
}

func (s *watchServer) service() *watchService {
	return newWatchService(s.hub, s.header, watchConfig{
		maxResponseBytes: testMaxResponse,
		progressInterval: time.Hour,
		slowTimeout:      s.slow,
		permits:          s.permits,
		after:            s.clock.after,
		log:              s.log,
	})
}

// manualTimers are timers that fire when the test says so.
type manualTimers struct {
	mu    sync.Mutex
	armed map[int]func()
	next  int
}

func (m *manualTimers) after(_ time.Duration, f func()) (stop func() bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.armed == nil {
		m.armed = map[int]func(){}
	}
	id := m.next
	m.next++
	m.armed[id] = f
	return func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		_, was := m.armed[id]
		delete(m.armed, id)
		return was
	}
}

// fire fires all timers once and returns how many there were.
func (m *manualTimers) fire() int {
	m.mu.Lock()
	armed := m.armed
	m.armed = map[int]func(){}
	m.mu.Unlock()
	for _, f := range armed {
		f()
	}
	return len(armed)
}

// watchClient is a client's stream.
type watchClient struct {
	pb.Watch_WatchClient
	t      testing.TB
	cancel context.CancelFunc
}

func (s *watchServer) dial() *grpc.ClientConn {
	cc, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { cc.Close() })
	return cc
}

func (s *watchServer) open() *watchClient { return openWatch(s.t, s.dial()) }

func openWatch(t testing.TB, cc *grpc.ClientConn) *watchClient {
	return openWatchIn(t, context.Background(), cc)
}

// openWatchIn opens a stream whose metadata is ctx's.
func openWatchIn(t testing.TB, ctx context.Context, cc *grpc.ClientConn) *watchClient {
	ctx, cancel := context.WithCancel(ctx)
	t.Cleanup(cancel)
	stream, err := pb.NewWatchClient(cc).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &watchClient{Watch_WatchClient: stream, t: t, cancel: cancel}
}

func (c *watchClient) send(r *pb.WatchRequest) {
	c.t.Helper()
	if err := c.Send(r); err != nil {
		c.t.Fatal(err)
	}
}

func createRequest(r *pb.WatchCreateRequest) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}
}

func cancelRequest(id int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
}

func progressRequest() *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
}

func (c *watchClient) create(r *pb.WatchCreateRequest) { c.t.Helper(); c.send(createRequest(r)) }
func (c *watchClient) cancelWatch(id int64)            { c.t.Helper(); c.send(cancelRequest(id)) }
func (c *watchClient) requestProgress()                { c.t.Helper(); c.send(progressRequest()) }

func (c *watchClient) recv() *pb.WatchResponse {
	c.t.Helper()
	r, err := c.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// expect receives responses and compares them with their descriptions, see describe.
func (c *watchClient) expect(want ...string) {
	c.t.Helper()
	for _, w := range want {
		if got := describe(c.recv()); got != w {
			c.t.Errorf("got  %s\nwant %s", got, w)
		}
	}
}

// describe writes a response in one line: the header's revision, the watch id, and what else is set.
func describe(r *pb.WatchResponse) string {
	var b strings.Builder
	fmt.Fprintf(&b, "@%d id=%d", r.Header.Revision, r.WatchId)
	if r.Header.ClusterId != 11 || r.Header.MemberId != 12 || r.Header.RaftTerm != 13 {
		fmt.Fprintf(&b, " header %v", r.Header)
	}
	if r.Created {
		b.WriteString(" created")
	}
	if r.Canceled {
		b.WriteString(" canceled")
	}
	if r.CompactRevision != 0 {
		fmt.Fprintf(&b, " compact=%d", r.CompactRevision)
	}
	if r.CancelReason != "" {
		fmt.Fprintf(&b, " %q", r.CancelReason)
	}
	if r.Fragment {
		b.WriteString(" fragment")
	}
	for _, e := range r.Events {
		value := string(e.Kv.Value)
		if len(value) > 20 {
			value = fmt.Sprintf("<%d>", len(value))
		}
		fmt.Fprintf(&b, " %s(%q", e.Type, e.Kv.Key)
		if value != "" {
			fmt.Fprintf(&b, " %s", value)
		}
		fmt.Fprintf(&b, ")@%d", e.Kv.ModRevision)
		if e.PrevKv != nil {
			fmt.Fprintf(&b, "<-%.20s@%d", e.PrevKv.Value, e.PrevKv.ModRevision)
		}
	}
	return b.String()
}
