package core

import (
	"errors"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/core/mvcc"
)

func downgrade(t *testing.T, n *Node, action pb.DowngradeRequest_DowngradeAction, version string) (string, error) {
	t.Helper()
	resp, err := n.Downgrade(t.Context(), &pb.DowngradeRequest{Action: action, Version: version})
	if err == nil && resp.Header.Revision == 0 {
		t.Errorf("header %v", resp.Header)
	}
	return resp.GetVersion(), err
}

// waitVersion moves the clock on until Status tells of that version.
func waitVersion(t *testing.T, n *Node, clock *testClock, want string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		clock.advance(versionInterval)
		s, err := n.Status(t.Context(), &pb.StatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if s.StorageVersion == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("version %s, want %s", s.StorageVersion, want)
		}
	}
}

// The answers are those of etcd 3.7.3.
func TestDowngradeIsValidatedAsEtcdDoes(t *testing.T) {
	n := openNode(t, t.TempDir(), func(c *Config) { c.Clock = newTestClock() })
	defer closeNode(t, n)
	for version, want := range map[string]error{
		"3.6": nil, "3.6.0": nil, "3.6.9": nil, "3.6.0-rc.1": nil,
		"": rpctypes.ErrGRPCWrongDowngradeVersionFormat, "foo": rpctypes.ErrGRPCWrongDowngradeVersionFormat,
		"3": rpctypes.ErrGRPCWrongDowngradeVersionFormat, "3.6-rc": rpctypes.ErrGRPCWrongDowngradeVersionFormat,
		"v3.6.0": rpctypes.ErrGRPCWrongDowngradeVersionFormat, "3.6.0.0": rpctypes.ErrGRPCWrongDowngradeVersionFormat,
		"3.5": rpctypes.ErrGRPCInvalidDowngradeTargetVersion, "3.7": rpctypes.ErrGRPCInvalidDowngradeTargetVersion,
		"3.8": rpctypes.ErrGRPCInvalidDowngradeTargetVersion, "2.6": rpctypes.ErrGRPCInvalidDowngradeTargetVersion,
	} {
		got, err := downgrade(t, n, pb.DowngradeRequest_VALIDATE, version)
		if !errors.Is(err, want) || err == nil && got != "3.7" {
			t.Errorf("%q: %q, %v, want %v", version, got, err, want)
		}
	}
	if _, err := downgrade(t, n, 7, ""); !errors.Is(err, errUnknownAction) {
		t.Errorf("an unknown action: %v", err)
	}
}

func TestDowngradeLowersTheVersionUntilItIsCancelled(t *testing.T) {
	dir, clock := t.TempDir(), newTestClock()
	withClock := func(c *Config) { c.Clock = clock }
	n := openNode(t, dir, withClock)
	if _, err := downgrade(t, n, pb.DowngradeRequest_CANCEL, ""); err != nil {
		t.Errorf("cancel nothing: %v", err)
	}
	if got, err := downgrade(t, n, pb.DowngradeRequest_ENABLE, "3.6"); err != nil || got != "3.7" {
		t.Fatalf("enable: %q, %v", got, err)
	}
	if _, err := downgrade(t, n, pb.DowngradeRequest_ENABLE, "3.6"); !errors.Is(err, rpctypes.ErrGRPCDowngradeInProcess) {
		t.Errorf("enable again: %v", err)
	}
	crashed := copyDataDir(t, dir)
	closeNode(t, n)

	n = openNode(t, crashed, withClock)
	s, err := n.Status(t.Context(), &pb.StatusRequest{})
	if err != nil || !s.DowngradeInfo.Enabled || s.DowngradeInfo.TargetVersion != "3.6.0" || s.StorageVersion != "3.7.0" {
		t.Errorf("after the crash: %v, %v", s, err)
	}
	waitVersion(t, n, clock, "3.6.0")
	if _, err := downgrade(t, n, pb.DowngradeRequest_VALIDATE, "3.6"); !errors.Is(err, rpctypes.ErrGRPCInvalidDowngradeTargetVersion) {
		t.Errorf("validate the version that it is: %v", err)
	}
	if _, err := downgrade(t, n, pb.DowngradeRequest_VALIDATE, "3.5"); !errors.Is(err, rpctypes.ErrGRPCDowngradeInProcess) {
		t.Errorf("validate the next: %v", err)
	}
	var versions []string
	err = n.Snapshot(t.Context(), func(r *pb.SnapshotResponse) error { versions = append(versions, r.Version); return nil })
	if err != nil || versions[0] != "3.6.0" {
		t.Errorf("snapshot of version %v, %v", versions, err)
	}
	stored := map[string]string{}
	err = n.store.ForEach(mvcc.BucketCluster, func(k, v []byte) error { stored[string(k)] = string(v); return nil })
	if err != nil || stored["clusterVersion"] != "3.6.0" || stored["downgrade"] != `{"target-version":"3.6.0","enabled":true}` {
		t.Errorf("stored %v, %v", stored, err)
	}
	closeNode(t, n)

	n = openNode(t, crashed, withClock)
	defer closeNode(t, n)
	if got, err := downgrade(t, n, pb.DowngradeRequest_CANCEL, ""); err != nil || got != "3.6" {
		t.Fatalf("cancel: %q, %v", got, err)
	}
	waitVersion(t, n, clock, "3.7.0")
	if _, err := downgrade(t, n, pb.DowngradeRequest_VALIDATE, "3.6"); err != nil {
		t.Errorf("validate after all: %v", err)
	}
}
