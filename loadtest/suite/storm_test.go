package suite

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"weir/loadtest/report"
)

// emptyStore is a server that finds nothing, and refuses watches.
type emptyStore struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
}

func (emptyStore) Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	return &pb.RangeResponse{}, nil
}

func (emptyStore) Watch(s grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]) error {
	if _, err := s.Recv(); err != nil {
		return err
	}
	return s.Send(&pb.WatchResponse{Created: true, Canceled: true, WatchId: -1})
}

// serve serves until the test ends, or stop is called.
func serve(t *testing.T, register func(*grpc.Server)) (s *System, stop func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // it may not have begun
			t.Error(err)
		}
	})
	return &System{Endpoints: []string{listener.Addr().String()}}, server.Stop
}

// comersAndGoers are the loads of clients who come and go.
func comersAndGoers(s *System) map[string]Load {
	return map[string]Load{
		"storm":     storm(report.Scenario{}, 2, false).New(s, &Recorder{}),
		"reconnect": reconnects(report.Scenario{}, 2).New(s, &Recorder{}),
	}
}

// wantFailure is that a load does not get ready, because of what is said.
func wantFailure(t *testing.T, s *System, want map[string]string) {
	t.Helper()
	for name, l := range comersAndGoers(s) {
		if err := l.Connect(t.Context()); err == nil || !strings.Contains(err.Error(), want[name]) {
			t.Errorf("%s: error %v, want one with %q", name, err, want[name])
		}
		if err := l.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	}
}

func TestARefusedConnectionIsAnError(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, &System{Endpoints: []string{listener.Addr().String()}}, map[string]string{"storm": "refused", "reconnect": "refused"})
}

func TestAnAnswerThatIsNotTheRightOneIsAnError(t *testing.T) {
	s, _ := serve(t, func(g *grpc.Server) {
		pb.RegisterKVServer(g, emptyStore{})
		pb.RegisterWatchServer(g, emptyStore{})
	})
	wantFailure(t, s, map[string]string{"storm": "0 keys, want 1", "reconnect": "a watch was refused"})
}

func TestAnRPCThatASystemLacksIsUnsupported(t *testing.T) {
	s, _ := serve(t, func(*grpc.Server) {})
	for name, l := range comersAndGoers(s) {
		if err := l.Connect(t.Context()); err == nil || !unsupported(err) {
			t.Errorf("%s: error %v", name, err)
		}
		if err := l.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	}
}

func TestAStormWithTLSIsUnsupportedInPlaintext(t *testing.T) {
	l := storm(report.Scenario{}, 1, true).New(&System{}, &Recorder{})
	if err := l.Connect(t.Context()); !unsupported(err) {
		t.Errorf("error %v", err)
	}
}

// oneStore has the key that is asked for, and confirms watches.
type oneStore struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
}

func (oneStore) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	return &pb.RangeResponse{Kvs: []*mvccpb.KeyValue{{Key: r.Key, Value: make([]byte, valueSize)}}}, nil
}

func (oneStore) Watch(s grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]) error {
	if _, err := s.Recv(); err != nil {
		return err
	}
	if err := s.Send(&pb.WatchResponse{Created: true}); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

// A server that is gone in the middle of a turn ends the turn.
func TestAServerThatIsGoneIsAnError(t *testing.T) {
	for _, name := range []string{"storm", "reconnect"} {
		s, stop := serve(t, func(g *grpc.Server) {
			pb.RegisterKVServer(g, oneStore{})
			pb.RegisterWatchServer(g, oneStore{})
		})
		l := comersAndGoers(s)[name]
		if err := l.Connect(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		stop()
		if err := l.Run(t.Context(), nil); err == nil {
			t.Errorf("%s: no error", name)
		}
		if err := l.Close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	}
}
