package grpcapi

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/mem"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

func TestMain(m *testing.M) {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)) // the gateway's, of clients that have gone
	goleak.VerifyTestMain(m)
}

// fakeBackend answers what its functions answer. What a test does not set, it must not call.
type fakeBackend struct {
	Backend
	rangeKeys   func(context.Context, *wire.RangeRequest) (mem.BufferSlice, error)
	rangeStream func(context.Context, *wire.RangeRequest, func(mem.BufferSlice) error) error
	renew       func(context.Context, int64) (int64, error)
	renewNow    func(ids, ttls []int64)
	timeToLive  func(context.Context, *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error)
	snapshot    func(context.Context, func(*pb.SnapshotResponse) error) error
	alarms      []*pb.AlarmMember
	status      *pb.StatusResponse
	unknown     error // of PermitKnown
	hub         *coalesce.Hub
}

func (b *fakeBackend) Header() wire.Header {
	return wire.Header{ClusterID: 1, MemberID: 2, Revision: 3, RaftTerm: 4}
}

func (b *fakeBackend) Hub() *coalesce.Hub { return b.hub }

func (b *fakeBackend) PermitKnown(context.Context) error { return b.unknown }

func (b *fakeBackend) PermitWatch(context.Context, []byte, []byte) (string, error) { return "", nil }
func (b *fakeBackend) PermitUser(string, []byte, []byte) error                     { return nil }

func (b *fakeBackend) Range(ctx context.Context, r *wire.RangeRequest) (mem.BufferSlice, error) {
	return b.rangeKeys(ctx, r)
}

func (b *fakeBackend) RangeStream(ctx context.Context, r *wire.RangeRequest, send func(mem.BufferSlice) error) error {
	return b.rangeStream(ctx, r, send)
}

func (b *fakeBackend) LeaseRenew(ctx context.Context, id int64) (int64, error) {
	return b.renew(ctx, id)
}

func (b *fakeBackend) LeaseRenewNow(_ context.Context, ids, ttls []int64) { b.renewNow(ids, ttls) }

func (b *fakeBackend) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	return b.timeToLive(ctx, r)
}

func (b *fakeBackend) Alarms() []*pb.AlarmMember { return b.alarms }

func (b *fakeBackend) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	return b.status, nil
}

func (b *fakeBackend) Snapshot(ctx context.Context, send func(*pb.SnapshotResponse) error) error {
	return b.snapshot(ctx, send)
}

// oneKey is a backend with one key and a leader.
func oneKey(t *testing.T) *fakeBackend {
	raw := marshal(t, &pb.RangeResponse{Header: header(wire.Header{Revision: 3}), Count: 1})
	return &fakeBackend{
		rangeKeys: func(context.Context, *wire.RangeRequest) (mem.BufferSlice, error) {
			return mem.BufferSlice{mem.SliceBuffer(raw)}, nil
		},
		status: &pb.StatusResponse{Version: "3.7.3", StorageVersion: "3.7.0", Leader: 2},
	}
}

// start serves s on a loopback port in plaintext until the test ends.
func start(t testing.TB, s *Server) (address string) {
	t.Helper()
	return startOn(t, s, Port{})
}

// startOn serves s on a loopback port until the test ends.
func startOn(t testing.TB, s *Server, p Port) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l, p) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Stop(ctx)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// dial connects to address; without options in plaintext.
func dial(t testing.TB, address string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	if len(opts) == 0 {
		opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	c, err := grpc.NewClient("passthrough:///"+address, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
