package grpcapi

import (
	"context"
	"io"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestPingsAreAnsweredInOrderUntilHalfClose(t *testing.T) {
	b := &fakeBackend{renew: func(_ context.Context, id int64) (int64, error) {
		if id%2 == 0 {
			return 0, rpctypes.ErrGRPCLeaseNotFound
		}
		return 10 * id, nil
	}}
	conn := dial(t, start(t, NewBackendServer(Config{Logger: quiet()}, b)))
	stream, err := pb.NewLeaseClient(conn).LeaseKeepAlive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for id := range int64(10) {
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for id := range int64(10) {
		want := 10 * id
		if id%2 == 0 {
			want = 0
		}
		m, err := stream.Recv()
		if err != nil || m.ID != id || m.TTL != want || m.Header.Revision != 3 || m.Header.ClusterId != 1 {
			t.Fatalf("ping %d: got %v, %v", id, m, err)
		}
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("after half-close: got %v", err)
	}
}

func TestErrorOfAPingEndsTheStream(t *testing.T) {
	for _, want := range []error{rpctypes.ErrGRPCNoLeader, rpctypes.ErrGRPCTimeout} {
		b := &fakeBackend{renew: func(context.Context, int64) (int64, error) { return 0, want }}
		conn := dial(t, start(t, NewBackendServer(Config{Logger: quiet()}, b)))
		stream, err := pb.NewLeaseClient(conn).LeaseKeepAlive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); errText(err) != errText(want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func TestTimeToLiveOfNoLeaseIsMinusOne(t *testing.T) {
	for _, notFound := range []error{rpctypes.ErrGRPCLeaseNotFound, rpctypes.ErrLeaseNotFound} {
		b := &fakeBackend{timeToLive: func(context.Context, *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
			return nil, notFound
		}}
		conn := dial(t, start(t, NewBackendServer(Config{Logger: quiet()}, b)))
		resp, err := pb.NewLeaseClient(conn).LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: 5})
		if err != nil || resp.TTL != -1 || resp.ID != 5 || resp.Header.Revision != 3 {
			t.Errorf("got %v, %v", resp, err)
		}
	}
}
