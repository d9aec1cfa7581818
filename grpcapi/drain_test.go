package grpcapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"weir/cache"
	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// wantRetired is for the end of a stream, after what was on its way.
func wantRetired(t *testing.T, recv func() error) {
	t.Helper()
	var err error
	for err == nil {
		err = recv()
	}
	if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "etcdserver: server stopped" {
		t.Errorf("the stream ended with %v", err)
	}
}

// open opens an endless stream of each kind, and waits until the server has it.
func openStreams(t *testing.T, c *grpc.ClientConn) (recvs map[string]func() error) {
	t.Helper()
	recvs = map[string]func() error{}
	watch, err := pb.NewWatchClient(c).Watch(t.Context())
	if err == nil {
		err = watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}})
	}
	if err == nil {
		_, err = watch.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	recvs["watch"] = func() error { _, err := watch.Recv(); return err }
	pings, err := pb.NewLeaseClient(c).LeaseKeepAlive(t.Context())
	if err == nil {
		err = pings.Send(&pb.LeaseKeepAliveRequest{ID: 1})
	}
	if err == nil {
		_, err = pings.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	recvs["pings"] = func() error { _, err := pings.Recv(); return err }
	health, err := healthpb.NewHealthClient(c).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = health.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	recvs["health"] = func() error { _, err := health.Recv(); return err }
	if _, err := pb.NewKVClient(c).Put(t.Context(), &pb.PutRequest{Key: []byte("e/1"), Value: []byte("leader")}); err != nil {
		t.Fatal(err)
	}
	observed, err := lockpb.NewElectionClient(c).Observe(t.Context(), &lockpb.LeaderRequest{Name: []byte("e")})
	if err == nil {
		_, err = observed.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	recvs["observe"] = func() error { _, err := observed.Recv(); return err }
	return recvs
}

// stalling is a store whose reads wait.
type stalling struct {
	*memStore
	started, finish chan struct{}
}

func newStalling(t *testing.T) *stalling {
	return &stalling{newMemStore(t), make(chan struct{}), make(chan struct{})}
}

func (s *stalling) Range(ctx context.Context, r *wire.RangeRequest) (mem.BufferSlice, error) {
	if string(r.Key) == "stall" {
		close(s.started)
		<-s.finish
	}
	return s.memStore.Range(ctx, r)
}

// Every kind of endless stream ends with a status after which clients go elsewhere, a request in progress is answered, and then all
// is over without anything having been cut; in plaintext, and over TLS by gRPC's transport.
func TestDrain(t *testing.T) {
	cert, pool := selfSigned(t, "server")
	for name, c := range map[string]struct {
		port Port
		opts []grpc.DialOption
	}{
		"plaintext": {},
		"TLS": {
			Port{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}},
			[]grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool}))},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newStalling(t)
			s := NewBackendServer(Config{Logger: quiet()}, b)
			conn := dial(t, startOn(t, s, c.port), c.opts...)
			streams := openStreams(t, conn)
			if n := s.Connections(); n != 1 {
				t.Errorf("%d connections, want 1", n)
			}
			var reading sync.WaitGroup
			reading.Go(func() {
				if _, err := pb.NewKVClient(conn).Range(context.Background(), &pb.RangeRequest{Key: []byte("stall")}); err != nil {
					t.Errorf("the request in progress: %v", err)
				}
			})
			<-b.started
			drained := make(chan struct{})
			go func() {
				defer close(drained)
				s.Drain(context.Background(), time.Millisecond)
			}()
			for name, recv := range streams {
				t.Log(name)
				wantRetired(t, recv)
			}
			select {
			case <-drained:
				t.Error("the server did not wait for a request")
			default:
			}
			close(b.finish)
			reading.Wait()
			<-drained
		})
	}
}

// A client that takes nothing of what its watch has for it is cut in the end.
func TestDrainCutsWhatDoesNotEnd(t *testing.T) {
	b := newStalling(t)
	s := NewBackendServer(Config{Logger: quiet()}, b)
	conn := dial(t, start(t, s))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := pb.NewKVClient(conn).Range(context.Background(), &pb.RangeRequest{Key: []byte("stall")})
		ended <- err
	}()
	<-b.started
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.Drain(ctx, 0)
	}()
	<-s.life.undivided.Done()
	cancel()
	if err := <-ended; status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	close(b.finish) // it does not heed its context
	<-drained
}

// One of two clients is asked to move: what it has in progress goes on, its streams end, and it comes back on another connection.
// The other notices nothing.
func TestMove(t *testing.T) {
	s := NewBackendServer(Config{Logger: quiet()}, newMemStore(t))
	address := start(t, s)
	conns := []*grpc.ClientConn{dial(t, address), dial(t, address)}
	streams := make(chan int, 2)
	var watches sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	for i, c := range conns {
		recv := openStreams(t, c)["watch"]
		watches.Go(func() {
			if err := recv(); err != nil && ctx.Err() == nil {
				streams <- i
			}
		})
	}
	s.Move(t.Context(), 1, 0)
	moved := <-streams
	for conns[moved].GetState() == connectivity.Ready { // it goes as soon as its last stream has ended
		conns[moved].WaitForStateChange(t.Context(), connectivity.Ready)
	}
	openStreams(t, conns[moved])
	if n := s.Connections(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
	select {
	case i := <-streams:
		t.Errorf("client %d was disturbed too", i)
	default:
	}
	cancel()
	s.Stop(t.Context())
	watches.Wait()
}

// Many connections leave one after another, within the time that there is for it, and each a while after it was told; although
// timers are late.
func TestConnectionsAreRetiredOneAfterAnother(t *testing.T) {
	const spread = 5 * time.Second
	for _, n := range []int{1, 50, 10_000} {
		bubble.Test(t, func(t *testing.T) {
			begin, c := time.Now(), newConns()
			c.pause = func(ctx context.Context, d time.Duration) {
				pause(ctx, (d + time.Millisecond - 1).Truncate(time.Millisecond))
			}
			var (
				mu          sync.Mutex
				told, ended []time.Duration
				leaving     []*connection
			)
			for range n {
				one := newConnection(nil)
				one.goAway = func() { mu.Lock(); told = append(told, time.Since(begin)); mu.Unlock() }
				context.AfterFunc(one.retired, func() { mu.Lock(); ended = append(ended, time.Since(begin)); mu.Unlock() })
				leaving = append(leaving, one)
			}
			c.retire(t.Context(), leaving, spread)
			c.tasks.Wait()
			synctest.Wait() // for those who are told of the end
			mu.Lock()
			defer mu.Unlock()
			took := told[n-1]
			if n == 1 && took != 0 || took > spread*11/10 || n == 10_000 && took < spread*9/10 || n == 50 && took > 2*50*retireStep {
				t.Errorf("%d connections were told within %v", n, took)
			}
			if len(ended) != n || ended[0] != told[0]+retireGrace || ended[n-1] != told[n-1]+retireGrace {
				t.Errorf("of %d connections the streams of %d ended, from %v to %v, and were told from %v to %v", n, len(ended), ended[0], ended[len(ended)-1], told[0], told[n-1])
			}
		})
	}
}

// The end of the time retires all who are left at once.
func TestRetirementEndsWithItsContext(t *testing.T) {
	c := newConns()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var leaving []*connection
	for range 100 {
		leaving = append(leaving, newConnection(nil))
	}
	c.retire(ctx, leaving, time.Hour)
	for _, n := range leaving {
		if n.retired.Err() == nil {
			t.Fatal("one has not been retired")
		}
	}
}

// A server that is told to stop while it has clients move gives those that are left a moment of their own.
func TestAMoveEndsWithItsContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c := newConns()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		told := 0
		for range 100 {
			n := newConnection(nil)
			n.goAway = func() { told++; cancel() }
			c.grpc[n] = struct{}{}
		}
		c.move(ctx, 50, time.Hour)
		c.tasks.Wait()
		if n := c.count(); told != 1 || n != 99 {
			t.Errorf("%d were told, %d have stayed", told, n)
		}
		for n := range c.grpc {
			if n.retired.Err() != nil {
				t.Error("one that stays has been retired")
			}
		}
		closed := newConnection(nil)
		c.forget(closed)
		c.stay(closed)
		if n := c.count(); n != 99 {
			t.Errorf("with one that was closed there are %d", n)
		}
	})
}

func TestUnready(t *testing.T) {
	var log bytes.Buffer
	for name, s := range map[string]*Server{
		"backend":  NewBackendServer(Config{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))}, newMemStore(t)),
		"upstream": NewForwardServer(Config{Logger: quiet()}, servingUpstream{&fakeUpstream{}}, nil, nil),
	} {
		t.Run(name, func(t *testing.T) {
			address := start(t, s)
			health := healthpb.NewHealthClient(dial(t, address))
			watch, err := health.Watch(t.Context(), &healthpb.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if r, err := watch.Recv(); err != nil || r.Status != healthpb.HealthCheckResponse_SERVING {
				t.Fatalf("before: %v, %v", r, err)
			}
			s.Unready("draining")
			if r, err := watch.Recv(); r.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING && status.Code(err) != codes.Unavailable {
				t.Errorf("who watches was told %v, %v", r, err)
			}
			if r, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || r.Status != healthpb.HealthCheckResponse_NOT_SERVING {
				t.Errorf("gRPC: %v, %v", r, err)
			}
			again, err := health.Watch(t.Context(), &healthpb.HealthCheckRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if r, err := again.Recv(); err != nil || r.Status != healthpb.HealthCheckResponse_NOT_SERVING {
				t.Errorf("a new watch: %v, %v", r, err)
			}
			for path, want := range map[string]string{
				"/readyz": "[-]serving failed: draining", "/health": `{"health":"false","reason":"draining"}`, "/livez": "",
			} {
				code, body := get(t, http.DefaultClient, "http://"+address+path)
				if ready := path == "/livez"; ready != (code == http.StatusOK) || !strings.Contains(body, want) {
					t.Errorf("%s: %d %s", path, code, body)
				}
			}
			drained := make(chan struct{})
			go func() {
				defer close(drained)
				s.Drain(context.Background(), 0)
			}()
			wantRetired(t, func() error { _, err := again.Recv(); return err })
			<-drained
		})
	}
	if strings.Contains(log.String(), "ealth") {
		t.Errorf("that it drains is logged for each probe: %s", &log)
	}
}

// servingUpstream says that it is well, as long as it is asked.
type servingUpstream struct{ *fakeUpstream }

func (u servingUpstream) Stream(method string, gs grpc.ServerStream, _ *cache.Session) error {
	var r wire.Raw
	if err := gs.RecvMsg(&r); err != nil {
		return err
	}
	if err := gs.SendMsg(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}); err != nil {
		return err
	}
	if method == healthpb.Health_Watch_FullMethodName {
		<-gs.Context().Done()
	}
	return gs.Context().Err()
}

// Monitors are answered while clients leave, and clients on HTTP are told to come back on another connection.
func TestDrainOverHTTP(t *testing.T) {
	b := newStalling(t)
	s := NewBackendServer(Config{Logger: quiet()}, b)
	clients, monitors := start(t, s), startOn(t, s, Port{Only: OnlyMonitoring})
	conn, err := net.Dial("tcp", clients)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	one := &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
	ask := func() *http.Response {
		t.Helper()
		r, err := one.Get("http://" + clients + "/livez")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := ask(); r.Close {
		t.Fatal("the first answer closes the connection")
	}
	kv := pb.NewKVClient(dial(t, clients))
	var reading sync.WaitGroup
	reading.Go(func() {
		if _, err := kv.Range(context.Background(), &pb.RangeRequest{Key: []byte("stall")}); err != nil {
			t.Error(err)
		}
	})
	<-b.started
	s.refuse(func(carries Traffic) bool { return carries != OnlyMonitoring })
	for _, n := range s.conns.take(10, true) {
		n.retire()
	}
	if _, err := net.Dial("tcp", clients); err == nil {
		t.Error("a new client was let in")
	}
	if code, _ := get(t, http.DefaultClient, "http://"+monitors+"/livez"); code != http.StatusOK {
		t.Errorf("a monitor was answered %d", code)
	}
	if r := ask(); !r.Close {
		t.Error("the answer does not close the connection")
	}
	close(b.finish)
	reading.Wait()
}
