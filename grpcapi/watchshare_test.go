package grpcapi

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// fakeSharer has a history for its upstream. Find waits while the test says so.
type fakeSharer struct {
	*revisions
	arrived chan coalesce.Arrival // an element for each Arrive
	waiting chan coalesce.Arrival // an element for each Find that begins to wait
	gone    chan error            // an element for each Find whose context has ended

	asked    func()       // each Now, if not nil
	watching atomic.Int64 // streams
	era      atomic.Uint64
	led      context.Context
	lose     context.CancelCauseFunc // ends led

	mu       sync.Mutex // guards the fields below
	share    func(context.Context) (apart context.Context, err error)
	arrivals coalesce.Arrival
	gate     chan struct{}    // Find waits until it is closed
	refused  map[string]error // by key
	noLeader bool
	shown    wire.Credentials // by who asked for the last watch
}

func newFakeSharer(t *testing.T) *fakeSharer {
	f := &fakeSharer{
		revisions: &revisions{t: t},
		arrived:   make(chan coalesce.Arrival, 1<<20),
		waiting:   make(chan coalesce.Arrival, 1<<20),
		gone:      make(chan error, 1<<20),
		gate:      make(chan struct{}),
		refused:   map[string]error{},
	}
	f.shareAll()
	close(f.gate)
	f.led, f.lose = context.WithCancelCause(context.Background())
	f.hub = coalesce.NewHub(f)
	f.feed = f.hub.NewFeed(coalesce.FeedConfig{Source: f.revisions, Revision: 1, RingBytes: 1 << 20})
	t.Cleanup(f.hub.Close)
	return f
}

// hold lets Find wait until open is called.
func (f *fakeSharer) hold() (open func()) {
	gate := make(chan struct{})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gate = gate
	return sync.OnceFunc(func() { close(gate) })
}

func (f *fakeSharer) Hub() *coalesce.Hub { return f.hub }

// Header has no revision of use, like that of a proxy.
func (f *fakeSharer) Header() wire.Header {
	return wire.Header{ClusterID: 11, MemberID: 12, RaftTerm: 13}
}

func (f *fakeSharer) Share(ctx context.Context) (context.Context, error) {
	f.mu.Lock()
	share := f.share
	f.mu.Unlock()
	return share(ctx)
}

// shareAll has streams served from now on, and shareNothing has them forwarded, until rejoin is called.
func (f *fakeSharer) shareAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.share = func(context.Context) (context.Context, error) { return nil, nil }
}

func (f *fakeSharer) shareNothing() (rejoin context.CancelCauseFunc) {
	apart, rejoin := context.WithCancelCause(context.Background())
	f.mu.Lock()
	defer f.mu.Unlock()
	f.share = func(context.Context) (context.Context, error) { return apart, nil }
	return rejoin
}

func (f *fakeSharer) Watching(more int) { f.watching.Add(int64(more)) }

// PermitWatch permits everybody everything, as while authentication is off.
func (f *fakeSharer) PermitWatch(ctx context.Context, _, _ []byte) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shown = wire.CredentialsOf(ctx)
	return "", nil
}

func (f *fakeSharer) PermitUser(string, []byte, []byte) error { return nil }

func (f *fakeSharer) Era() uint64 { return f.era.Load() }

func (f *fakeSharer) Leader(context.Context) (context.Context, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noLeader {
		return nil, rpctypes.ErrGRPCNoLeader
	}
	return f.led, nil
}

func (f *fakeSharer) Arrive() coalesce.Arrival {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.arrivals++
	f.arrived <- f.arrivals
	return f.arrivals
}

func (f *fakeSharer) Find(ctx context.Context, w coalesce.Watch, since coalesce.Arrival) (*coalesce.Feed, int64, error) {
	f.mu.Lock()
	gate, err := f.gate, f.refused[string(w.Key)]
	f.mu.Unlock()
	f.waiting <- since
	select {
	case <-gate:
		return f.feed, f.revision(), err
	case <-ctx.Done():
		f.gone <- ctx.Err()
		return nil, 0, ctx.Err()
	}
}

func (f *fakeSharer) Now(context.Context, coalesce.Arrival) int64 {
	if f.asked != nil {
		f.asked()
	}
	return f.revision()
}

func (f *fakeSharer) Sync(_ context.Context, feed *coalesce.Feed, _ coalesce.Arrival, _ int64) (int64, error) {
	return feed.Revision(), nil
}

// startSharing serves f's watches in front of u, which is never reached if it is nil.
func startSharing(t *testing.T, f *fakeSharer, u Upstream) (*Server, *grpc.ClientConn) {
	t.Helper()
	s := NewForwardServer(Config{Logger: quiet()}, u, f, nil)
	return s, dial(t, start(t, s))
}

// openWith opens a watch stream with metadata.
func openWith(t *testing.T, cc *grpc.ClientConn, md ...string) *watchClient {
	t.Helper()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), md...))
	t.Cleanup(cancel)
	stream, err := pb.NewWatchClient(cc).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &watchClient{Watch_WatchClient: stream, t: t, cancel: cancel}
}

// expectEnd receives until the stream ends, which must be with want.
func (c *watchClient) expectEnd(want error) {
	c.t.Helper()
	for {
		_, err := c.Recv()
		if err == nil {
			continue
		}
		if status.Code(err) != status.Code(want) || errText(err) != errText(want) {
			c.t.Errorf("ended with %v, want %v", err, want)
		}
		return
	}
}

func TestSharedWatchIsServedFromTheHub(t *testing.T) {
	f := newFakeSharer(t)
	_, cc := startSharing(t, f, nil)
	f.commit(put("a", "1"))
	c := openWatch(t, cc)
	c.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2})
	c.create(&pb.WatchCreateRequest{Key: []byte("a"), ProgressNotify: true, PrevKv: true})
	c.expect("@2 id=0 created")
	expectSet(t, c, `@2 id=0 PUT("a" 1)@2`, "@2 id=1 created")
	f.commit(put("a", "2"))
	expectSet(t, c, `@3 id=0 PUT("a" 2)@3`, `@3 id=1 PUT("a" 2)@3<-1@2`)
	c.requestProgress()
	c.expect("@3 id=-1")
	c.cancelWatch(0)
	c.expect("@3 id=0 canceled")
}

func TestStreamsAreForwardedOnlyIfNothingIsShared(t *testing.T) {
	for name, c := range map[string]struct {
		md      []string
		share   bool
		forward bool
	}{
		"nobody":               {share: true},
		"another key":          {md: []string{"tokens", "x"}, share: true},
		"a token":              {md: []string{"token", "x.1"}, share: true},
		"a bearer token":       {md: []string{"authorization", "Bearer x"}, share: true},
		"nothing to be shared": {forward: true},
	} {
		t.Run(name, func(t *testing.T) {
			f, u := newFakeSharer(t), &fakeUpstream{}
			if !c.share {
				f.shareNothing()
			}
			_, cc := startSharing(t, f, u)
			if got := isForwarded(t, cc, c.md...); got != c.forward {
				t.Errorf("forwarded: %v", got)
			}
		})
	}
}

// isForwarded tells by whom a watch stream is served: fakeUpstream sends back what it is sent.
func isForwarded(t *testing.T, cc *grpc.ClientConn, md ...string) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), md...))
	defer cancel()
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/etcdserverpb.Watch/Watch",
		grpc.ForceCodecV2(wire.Codec{}))
	if err != nil {
		t.Fatal(err)
	}
	request := marshal(t, createRequest(key("a")))
	if err := s.SendMsg(wire.Raw(request)); err != nil {
		t.Fatal(err)
	}
	var answer wire.Raw
	if err := s.RecvMsg(&answer); err != nil {
		t.Fatal(err)
	}
	return string(answer) == string(request)
}

func TestWatchesTellWhoseTheyAre(t *testing.T) {
	serverCert, serverCA := selfSigned(t, "server")
	clientCert, clientCA := selfSigned(t, "alice")
	f, u := newFakeSharer(t), &fakeUpstream{}
	address := startOn(t, NewForwardServer(Config{Logger: quiet()}, u, f, nil), Port{TLS: &tls.Config{
		Certificates: []tls.Certificate{serverCert},
		ClientCAs:    clientCA,
		ClientAuth:   tls.VerifyClientCertIfGiven,
	}})
	for _, protos := range [][]string{{"h2"}, {"h2", "http/1.1"}} { // grpc's transport, and net/http's
		for name, certs := range map[string][]tls.Certificate{"alice": {clientCert}, "nobody": nil} {
			cc := dial(t, address, grpc.WithTransportCredentials(credentials.NewTLS(
				&tls.Config{RootCAs: serverCA, Certificates: certs, NextProtos: protos})))
			if isForwarded(t, cc) {
				t.Errorf("%s with %v: the stream is forwarded", name, protos)
			}
			f.mu.Lock()
			if f.shown.HasCertificate != (name == "alice") || f.shown.HasCertificate && f.shown.CommonName != name {
				t.Errorf("%s with %v: the watch is said to be of %+v", name, protos, f.shown)
			}
			f.mu.Unlock()
		}
	}
}

func TestErrorOfShareIsAnswered(t *testing.T) {
	f := newFakeSharer(t)
	down := status.Error(codes.Unavailable, "there is no connection available")
	f.share = func(context.Context) (context.Context, error) { return nil, down }
	_, cc := startSharing(t, f, nil)
	openWatch(t, cc).expectEnd(down)
}

func TestClientThatLeavesWhileShareIsNotKnownIsForgotten(t *testing.T) {
	f := newFakeSharer(t)
	asked, left := make(chan struct{}), make(chan struct{})
	f.share = func(ctx context.Context) (context.Context, error) {
		close(asked)
		<-ctx.Done()
		close(left)
		return nil, ctx.Err()
	}
	_, cc := startSharing(t, f, nil)
	c := openWatch(t, cc)
	<-asked
	c.cancel()
	<-left
}

func TestLeaderIsRequiredOfThoseWhoAsk(t *testing.T) {
	t.Run("it is lost", func(t *testing.T) { leaderIsRequiredOfThoseWhoAsk(t, rpctypes.ErrGRPCNoLeader) })
	t.Run("nobody is reached", func(t *testing.T) {
		leaderIsRequiredOfThoseWhoAsk(t, status.Error(codes.Unavailable, "nobody can be reached"))
	})
}

func leaderIsRequiredOfThoseWhoAsk(t *testing.T, why error) {
	f := newFakeSharer(t)
	_, cc := startSharing(t, f, nil)
	require := []string{rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader}
	plain, other, strict := openWith(t, cc), openWith(t, cc, rpctypes.MetadataRequireLeaderKey, "false"), openWith(t, cc, require...)
	for _, c := range []*watchClient{plain, other, strict} {
		c.create(key("a"))
		c.expect("@1 id=0 created")
	}
	f.mu.Lock()
	f.noLeader = true
	f.mu.Unlock()
	openWith(t, cc, require...).expectEnd(rpctypes.ErrGRPCNoLeader)

	f.lose(why)
	strict.expectEnd(why)
	f.commit(put("a", "1"))
	plain.expect(`@2 id=0 PUT("a" 1)@2`)
	other.expect(`@2 id=0 PUT("a" 1)@2`)
}

func TestStreamsEndWhenTheHubEndsThem(t *testing.T) {
	f := newFakeSharer(t)
	s, cc := startSharing(t, f, nil)
	served := openWatch(t, cc)
	served.create(key("a"))
	served.expect("@1 id=0 created")
	open := f.hold()
	defer open()
	waiting, silent := openWatch(t, cc), openWatch(t, cc)
	waiting.create(key("a"))
	<-f.waiting // of the first
	<-f.waiting
	silent.requestProgress()
	for range 3 {
		<-f.arrived // so the hub knows all three streams
	}
	reason := status.Error(codes.Unavailable, "weir: watches are no longer shared")
	f.hub.End(reason)
	for _, c := range []*watchClient{served, waiting, silent} {
		c.expectEnd(reason)
	}
	if err := <-f.gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the watch that waited: %v", err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Stop(ctx)
	if n := s.watches.watchBytes.Load(); n != 0 {
		t.Errorf("%d bytes of watches are left", n)
	}
}

// A stream that is opened at the moment at which watches stop being shared is ended too.
func TestStreamThatIsJustBeingSharedEndsWithTheOthers(t *testing.T) {
	f := newFakeSharer(t)
	reason := status.Error(codes.Unavailable, "weir: watches are no longer shared")
	f.share = func(context.Context) (context.Context, error) {
		f.hub.End(reason)
		return nil, nil // as of before
	}
	_, cc := startSharing(t, f, nil)
	openWatch(t, cc).expectEnd(reason)
}
