package core

import (
	"context"
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestOnlyAdministratorsAdministrate(t *testing.T) {
	u := openUsers(t)
	n := u.n
	known, root, nobody := u.as("bob"), u.as("root"), u.as("")
	for name, do := range map[string]func(context.Context) error{
		"add a member": func(ctx context.Context) error {
			return errOf(n.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://a:1"}}))
		},
		"remove a member":  func(ctx context.Context) error { return errOf(n.MemberRemove(ctx, &pb.MemberRemoveRequest{})) },
		"update a member":  func(ctx context.Context) error { return errOf(n.MemberUpdate(ctx, &pb.MemberUpdateRequest{})) },
		"promote a member": func(ctx context.Context) error { return errOf(n.MemberPromote(ctx, &pb.MemberPromoteRequest{})) },
		"move the leader":  func(ctx context.Context) error { return errOf(n.MoveLeader(ctx, &pb.MoveLeaderRequest{})) },
		"downgrade":        func(ctx context.Context) error { return errOf(n.Downgrade(ctx, &pb.DowngradeRequest{})) },
		"raise an alarm": func(ctx context.Context) error {
			return errOf(n.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE}))
		},
		"defragment": func(ctx context.Context) error { return errOf(n.Defragment(ctx, &pb.DefragmentRequest{})) },
		"hash":       func(ctx context.Context) error { return errOf(n.Hash(ctx, &pb.HashRequest{})) },
		"hash keys":  func(ctx context.Context) error { return errOf(n.HashKV(ctx, &pb.HashKVRequest{})) },
		"take a snapshot": func(ctx context.Context) error {
			return n.Snapshot(ctx, func(*pb.SnapshotResponse) error { return nil })
		},
	} {
		if err := do(nobody); !errors.Is(err, rpctypes.ErrGRPCUserEmpty) {
			t.Errorf("%s as nobody: %v", name, err)
		}
		if err := do(known); !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
			t.Errorf("%s as a user: %v", name, err)
		}
		if err := do(root); errors.Is(err, rpctypes.ErrGRPCUserEmpty) || errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
			t.Errorf("%s as root: %v", name, err)
		}
	}
	for name, do := range map[string]func(context.Context) error{
		"list the members": func(ctx context.Context) error { return errOf(n.MemberList(ctx, &pb.MemberListRequest{})) },
		"status or alarms": n.PermitKnown,
	} {
		if err := do(nobody); !errors.Is(err, rpctypes.ErrGRPCUserEmpty) {
			t.Errorf("%s as nobody: %v", name, err)
		}
		if err := do(known); err != nil {
			t.Errorf("%s as a user: %v", name, err)
		}
	}
}

func TestStatusTellsTheQuotaAsItWasGiven(t *testing.T) {
	for given, want := range map[int64]int64{0: DefaultQuotaBytes, 1 << 30: 1 << 30, -1: -1} {
		n := openNode(t, t.TempDir(), func(c *Config) { c.QuotaBytes = given })
		s, err := n.Status(t.Context(), &pb.StatusRequest{})
		if err != nil || s.DbSizeQuota != want {
			t.Errorf("quota %d: %v, %v", given, s, err)
		}
		closeNode(t, n)
	}
}
