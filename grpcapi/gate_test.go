package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/cache"
	"weir/grpcapi/wire"
)

// recordingGate writes down what it is told, and refuses what it is told to.
type recordingGate struct {
	enter, message, watch error
	rights                wire.PingRights
	until                 context.Context // of the RPCs; nil does not end them

	mu   sync.Mutex // guards told
	told []string
	left chan struct{} // has an element for each Leave
}

func newRecordingGate() *recordingGate { return &recordingGate{left: make(chan struct{}, 16)} }

func (g *recordingGate) tell(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told = append(g.told, fmt.Sprintf(format, args...))
}

// expect waits for the end of an RPC, and compares what was told.
func (g *recordingGate) expect(t *testing.T, want ...string) {
	t.Helper()
	<-g.left
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Equal(g.told, want) {
		t.Errorf("the gate was told\n%q, want\n%q", g.told, want)
	}
	g.told = nil
}

func (g *recordingGate) Enter(_ context.Context, method string, req wire.Raw) (wire.Visit, error) {
	g.tell("enter %s %q", method, req)
	if g.enter != nil {
		g.left <- struct{}{}
		return nil, g.enter
	}
	return g, nil
}

func (g *recordingGate) Namespace() string { return "" }

func (g *recordingGate) Message(req wire.Raw) error {
	g.tell("message of %d", len(req))
	return g.message
}

func (g *recordingGate) Context() context.Context    { return g.until }
func (g *recordingGate) PingRights() wire.PingRights { return g.rights }

func (g *recordingGate) Sent(bytes int) { g.tell("sent %d", bytes) }

func (g *recordingGate) Watch() error {
	g.tell("watch")
	return g.watch
}

func (g *recordingGate) Unwatch() { g.tell("unwatch") }

func (g *recordingGate) Leave(resp wire.Raw, err error) {
	g.tell("leave %q %s", resp, status.Code(err))
	g.left <- struct{}{}
}

func behindGate(t *testing.T, g *recordingGate, u Upstream, w WatchSharer, r Reads) *grpc.ClientConn {
	t.Helper()
	return dial(t, start(t, NewForwardServer(Config{Gate: g, Logger: quiet()}, u, w, r)))
}

// endlessUpstream is one whose streams last as long as their clients.
type endlessUpstream struct {
	fakeUpstream
	open chan struct{}
}

func (u *endlessUpstream) Stream(_ string, client grpc.ServerStream, _ *cache.Session) error {
	u.open <- struct{}{}
	<-client.Context().Done()
	return status.FromContextError(client.Context().Err()).Err()
}

func TestWhoMayNotGoOnIsToldWhy(t *testing.T) {
	g, u := newRecordingGate(), &endlessUpstream{open: make(chan struct{})}
	cc := behindGate(t, g, u, nil, nil)
	until, end := context.WithCancelCause(t.Context())
	g.until = until
	s, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, pb.Maintenance_Snapshot_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	<-u.open
	end(errOver)
	if err := s.RecvMsg(&pb.SnapshotResponse{}); !errors.Is(err, errOver) {
		t.Errorf("got %v", err)
	}
	g.expect(t, "enter "+pb.Maintenance_Snapshot_FullMethodName+` ""`, `leave "" ResourceExhausted`)
}

var errOver = status.Error(codes.ResourceExhausted, "too much")

func TestEachCallComesThroughTheGate(t *testing.T) {
	g, u := newRecordingGate(), &fakeUpstream{answer: []byte("answer")}
	cc := behindGate(t, g, u, nil, &fakeReads{})
	call := func(method, request string) error {
		var resp wire.Raw
		return cc.Invoke(t.Context(), method, wire.Raw(request), &resp, grpc.ForceCodecV2(wire.Codec{}))
	}
	if err := call(pb.KV_Put_FullMethodName, "put"); err != nil {
		t.Error(err)
	}
	g.expect(t, "enter "+pb.KV_Put_FullMethodName+` "put"`, `leave "answer" OK`)

	read := string(marshal(t, &pb.RangeRequest{Key: []byte("a")})) // from memory
	if err := call(pb.KV_Range_FullMethodName, read); err != nil {
		t.Error(err)
	}
	g.expect(t, fmt.Sprintf("enter %s %q", pb.KV_Range_FullMethodName, read), fmt.Sprintf("sent %d", len(fromMemory)), `leave "" OK`)

	u.err = rpctypes.ErrGRPCNoSpace
	if err := call(pb.KV_Put_FullMethodName, "put"); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
	g.expect(t, "enter "+pb.KV_Put_FullMethodName+` "put"`, "sent 0", `leave "" ResourceExhausted`)

	u.called, g.enter = "", errOver
	if err := call(pb.KV_Put_FullMethodName, "put"); !errors.Is(err, errOver) || u.called != "" {
		t.Errorf("got %v, and upstream was asked %q", err, u.called)
	}
	g.expect(t, "enter "+pb.KV_Put_FullMethodName+` "put"`)
}

func TestEachMessageOfAStreamComesThroughTheGate(t *testing.T) {
	g := newRecordingGate()
	cc := behindGate(t, g, &fakeUpstream{}, nil, nil)
	method := pb.Maintenance_Snapshot_FullMethodName
	stream := func() error {
		s, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodecV2(wire.Codec{}))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SendMsg(wire.Raw("abc")); err != nil {
			t.Fatal(err)
		}
		var resp wire.Raw
		if err := s.RecvMsg(&resp); err != nil {
			return err
		}
		if err := s.RecvMsg(&resp); !errors.Is(err, io.EOF) {
			return err
		}
		return nil
	}
	if err := stream(); err != nil {
		t.Error(err)
	}
	g.expect(t, "enter "+method+` ""`, "message of 3", "sent 3", `leave "" OK`)
	g.message = errOver
	if err := stream(); !errors.Is(err, errOver) {
		t.Errorf("got %v", err)
	}
	g.expect(t, "enter "+method+` ""`, "message of 3", `leave "" ResourceExhausted`)
}

// watchThrough creates a watch and ends its stream when it was answered, with how it was.
func watchThrough(t *testing.T, cc *grpc.ClientConn) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := pb.NewWatchClient(cc).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(createRequest(key("a"))); err != nil {
		t.Fatal(err)
	}
	resp, err := s.Recv()
	if err == nil && resp.Canceled {
		return errors.New(resp.CancelReason)
	}
	return err
}

func TestWatchesComeThroughTheGate(t *testing.T) {
	size := fmt.Sprint("message of ", len(marshal(t, createRequest(key("a")))))
	enter := "enter " + pb.Watch_Watch_FullMethodName + ` ""`
	for _, shared := range []bool{true, false} {
		g, f := newRecordingGate(), newFakeSharer(t)
		if !shared {
			f.shareNothing()
		}
		// What fakeUpstream sends back of a forwarded stream is no cancellation.
		cc := behindGate(t, g, &fakeUpstream{}, f, nil)
		_ = watchThrough(t, cc)
		<-g.left
		g.mu.Lock()
		if told := g.told[:3]; !slices.Equal(told, []string{enter, size, "watch"}) {
			t.Errorf("shared %v: the gate was told %q", shared, g.told)
		}
		g.told = nil
		g.mu.Unlock()

		g.watch = errOver
		err := watchThrough(t, cc)
		if shared && (err == nil || err.Error() != "too much") || !shared && !errors.Is(err, errOver) {
			t.Errorf("shared %v: refused with %v", shared, err)
		}
		<-g.left
		g.mu.Lock()
		if slices.Contains(g.told, "unwatch") {
			t.Errorf("shared %v: a watch that was refused ends: %q", shared, g.told)
		}
		g.mu.Unlock()
	}
}

func TestCancelledWatchOfAForwardedStreamCountsNoMore(t *testing.T) {
	g := newRecordingGate()
	s := newPassedWatches(discardingStream{}, g)
	for _, m := range []*pb.WatchResponse{{Created: true, WatchId: 1}, {Canceled: true, WatchId: 1}, {Canceled: true, WatchId: 1}, {WatchId: 2}} {
		if err := s.SendMsg(wire.Raw(marshal(t, m))); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(g.told, []string{"unwatch"}) {
		t.Errorf("the gate was told %q", g.told)
	}
}

type discardingStream struct{ grpc.ServerStream }

func (discardingStream) SendMsg(any) error { return nil }
