package grpcapi

import (
	"context"
	"errors"
	"io"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"weir/grpcapi/lockpb"
)

// fakeStanding is that of a member that a test says what it is.
type fakeStanding struct {
	learner bool
	led     context.Context
}

func (s fakeStanding) IsLearner() bool      { return s.learner }
func (s fakeStanding) Led() context.Context { return s.led }

func TestALearnerAnswersWhatEtcdsLearnersAnswer(t *testing.T) {
	cfg := Config{Logger: quiet(), Standing: fakeStanding{learner: true, led: t.Context()}}
	c := dial(t, start(t, NewBackendServer(cfg, newMemStore(t))))
	kv, ctx := pb.NewKVClient(c), t.Context()
	if _, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true}); err != nil {
		t.Errorf("serializable range: %v", err)
	}
	if _, err := pb.NewMaintenanceClient(c).Status(ctx, &pb.StatusRequest{}); err != nil {
		t.Errorf("status: %v", err)
	}
	_, noKey := kv.Range(ctx, &pb.RangeRequest{Serializable: true})
	if !errors.Is(noKey, rpctypes.ErrGRPCEmptyKey) {
		t.Errorf("range without a key: %v", noKey)
	}
	for name, call := range map[string]func() error{
		"range": func() error { _, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("k")}); return err },
		"put":   func() error { _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k")}); return err },
		"txn":   func() error { _, err := kv.Txn(ctx, &pb.TxnRequest{}); return err },
		"grant": func() error {
			_, err := pb.NewLeaseClient(c).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 1})
			return err
		},
		"list":   func() error { _, err := pb.NewClusterClient(c).MemberList(ctx, &pb.MemberListRequest{}); return err },
		"alarms": func() error { _, err := pb.NewMaintenanceClient(c).Alarm(ctx, &pb.AlarmRequest{}); return err },
		"watch": func() error {
			s, err := pb.NewWatchClient(c).Watch(ctx)
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"keepalive": func() error {
			s, err := pb.NewLeaseClient(c).LeaseKeepAlive(ctx)
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
	} {
		if err := call(); !errors.Is(err, rpctypes.ErrGRPCNotSupportedForLearner) {
			t.Errorf("%s: %v", name, err)
		}
	}
	snapshot, err := pb.NewMaintenanceClient(c).Snapshot(ctx, &pb.SnapshotRequest{})
	if err == nil {
		_, err = snapshot.Recv()
	}
	if errors.Is(err, rpctypes.ErrGRPCNotSupportedForLearner) {
		t.Errorf("snapshot: %v", err)
	}
}

func TestWatchesThatRequireALeaderEndWithIt(t *testing.T) {
	led, lose := context.WithCancelCause(t.Context())
	cfg := Config{Logger: quiet(), Standing: fakeStanding{led: led}}
	w := pb.NewWatchClient(dial(t, start(t, NewBackendServer(cfg, newMemStore(t)))))
	requires := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	create := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}}
	open := func(ctx context.Context) pb.Watch_WatchClient {
		s, err := w.Watch(ctx)
		if err == nil {
			err = s.Send(create)
		}
		if err == nil {
			_, err = s.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	one, other := open(requires), open(t.Context())
	lose(rpctypes.ErrGRPCNoLeader)
	if _, err := one.Recv(); !errors.Is(err, rpctypes.ErrGRPCNoLeader) {
		t.Errorf("one that requires a leader: %v", err)
	}
	if err := other.Send(create); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Recv(); err != nil {
		t.Errorf("one that does not: %v", err)
	}
}

// pings opens a stream of pings, of which the first has been answered.
func pings(t *testing.T, ctx context.Context, c grpc.ClientConnInterface) pb.Lease_LeaseKeepAliveClient {
	t.Helper()
	s, err := pb.NewLeaseClient(c).LeaseKeepAlive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mustPing(t, s)
	return s
}

func mustPing(t *testing.T, s pb.Lease_LeaseKeepAliveClient) {
	t.Helper()
	if err := s.Send(&pb.LeaseKeepAliveRequest{ID: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
}

func TestPingsAndObservationsThatRequireALeaderEndWithIt(t *testing.T) {
	led, lose := context.WithCancelCause(t.Context())
	c := dial(t, start(t, NewBackendServer(Config{Logger: quiet(), Standing: fakeStanding{led: led}}, newMemStore(t))))
	requires := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	one, other := pings(t, requires, c), pings(t, t.Context(), c)
	observation, err := lockpb.NewElectionClient(c).Observe(requires, &lockpb.LeaderRequest{Name: []byte("e")})
	if err != nil {
		t.Fatal(err)
	}
	lose(rpctypes.ErrGRPCNoLeader)
	if _, err := one.Recv(); !errors.Is(err, rpctypes.ErrGRPCNoLeader) {
		t.Errorf("pings that require a leader: %v", err)
	}
	if _, err := observation.Recv(); !errors.Is(err, rpctypes.ErrGRPCNoLeader) {
		t.Errorf("an observation that requires a leader: %v", err)
	}
	mustPing(t, other)
	late, err := pb.NewLeaseClient(c).LeaseKeepAlive(requires)
	if err == nil {
		_, err = late.Recv()
	}
	if !errors.Is(err, rpctypes.ErrGRPCNoLeader) {
		t.Errorf("pings that begin when there is none: %v", err)
	}
}

func TestPingsThatRequireALeaderOutliveTheMembersStandingUntilTheServerStops(t *testing.T) {
	led, lose := context.WithCancelCause(t.Context())
	c := dial(t, start(t, NewBackendServer(Config{Logger: quiet(), Standing: fakeStanding{led: led}}, newMemStore(t))))
	s := pings(t, metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader), c)
	lose(nil) // as when the member ends, whose server says so to its clients
	mustPing(t, s)
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the client's end: %v", err)
	}
}
