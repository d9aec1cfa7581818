package grpcapi

import (
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
)

// The server itself asks for status and alarms too, for nobody: that must go on.
func TestStatusAndAlarmsAreRefusedToWhoeverIsNotKnown(t *testing.T) {
	b := oneKey(t)
	b.unknown = rpctypes.ErrGRPCUserEmpty
	c := dial(t, start(t, NewBackendServer(Config{Logger: quiet()}, b)))
	m := pb.NewMaintenanceClient(c)
	if _, err := m.Status(t.Context(), &pb.StatusRequest{}); !errors.Is(err, b.unknown) {
		t.Errorf("status: %v", err)
	}
	if _, err := m.Alarm(t.Context(), &pb.AlarmRequest{}); !errors.Is(err, b.unknown) {
		t.Errorf("alarms: %v", err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	if _, err := pb.NewKVClient(c).Range(ctx, &pb.RangeRequest{Key: []byte("k")}); err != nil {
		t.Errorf("range that requires a leader: %v", err)
	}
}
