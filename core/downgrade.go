package core

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/coreos/go-semver/semver"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/core/auth"
	"weir/core/mvcc"
)

// clusterVersion is the version of etcd that all members keep to, and with it the version of the store's layout: as a
// rule the members' own; while a downgrade is enabled, the one below it. The applier changes it, anyone reads.
//
// The layouts of 3.6 and 3.7 are the same, so lowering it changes nothing but what is said of it. At etcd the layout's
// version follows the cluster's a moment later; here they change in one entry.
type clusterVersion struct {
	mu        sync.Mutex // guards all below
	current   semver.Version
	downgrade downgradeInfo
}

// downgradeInfo is how the store keeps what a downgrade is to reach: etcd's form.
type downgradeInfo struct {
	TargetVersion string `json:"target-version"` // empty while none is enabled
	Enabled       bool   `json:"enabled"`
}

// The keys of the cluster bucket.
var (
	clusterVersionKey = []byte("clusterVersion")
	downgradeKey      = []byte("downgrade")
)

// layoutVersion is the version of a new store's layout, and of the cluster unless it is being downgraded.
const layoutVersion = "3.7.0"

// loadClusterVersion reads what the store holds.
func loadClusterVersion(store stored) (*clusterVersion, error) {
	v := &clusterVersion{current: *semver.New(layoutVersion)}
	err := store.ForEach(mvcc.BucketCluster, func(key, value []byte) error {
		switch string(key) {
		case string(clusterVersionKey):
			return v.current.Set(string(value))
		case string(downgradeKey):
			return json.Unmarshal(value, &v.downgrade)
		}
		return nil
	})
	if err == nil && v.downgrade.Enabled {
		_, err = semver.NewVersion(v.downgrade.TargetVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("read the version of the cluster: %w", err)
	}
	return v, nil
}

// replace makes the version that of by, which nobody else knows.
func (v *clusterVersion) replace(by *clusterVersion) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current, v.downgrade = by.current, by.downgrade
}

func (v *clusterVersion) get() (current semver.Version, downgrade downgradeInfo) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.current, v.downgrade
}

// wanted is what the version should become, if it is not.
func (v *clusterVersion) wanted() (semver.Version, bool) {
	current, downgrade := v.get()
	want := *semver.New(layoutVersion)
	if downgrade.Enabled {
		want = *semver.New(downgrade.TargetVersion)
	}
	return want, !want.Equal(current)
}

// applyVersion carries out a change of the version that validate has let pass, here and in the store.
func (v *clusterVersion) applyVersion(tx *mvcc.Entry, r *membershippb.ClusterVersionSetRequest) {
	current := semver.New(r.Ver)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current = *current
	tx.Put(mvcc.BucketCluster, clusterVersionKey, []byte(current.String()))
	tx.SetStorageVersion(current.String())
}

// applyDowngrade enables or cancels a downgrade that validate has let pass, here and in the store.
func (v *clusterVersion) applyDowngrade(tx *mvcc.Entry, r *membershippb.DowngradeInfoSetRequest) error {
	info := downgradeInfo{TargetVersion: r.Ver, Enabled: r.Enabled}
	value, err := json.Marshal(info)
	if err != nil {
		return fmt.Errorf("encode a downgrade: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.downgrade = info
	tx.Put(mvcc.BucketCluster, downgradeKey, value)
	return nil
}

// versionInterval is how often the version is looked after: as often as at etcd, so that what may be seen between the
// enabling of a downgrade and its effect is the same.
const versionInterval = 4 * time.Second

// tendVersion is the goroutine that, on the leader, makes the version of the cluster what it should be.
func (n *Node) tendVersion() {
	defer n.goroutines.Done()
	for {
		select {
		case <-n.cfg.Clock.At(n.cfg.Clock.Now().Add(versionInterval)):
		case <-n.stopped:
			return
		}
		want, ok := n.version.wanted()
		if !ok || !n.leads() {
			continue
		}
		r := &membershippb.ClusterVersionSetRequest{Ver: want.String()}
		if _, err := n.proposeAs(n.ctx, kindClusterVersion, auth.Identity{}, r); err != nil {
			n.logger.Warn("could not change the version of the cluster", "to", r.Ver, "error", err)
			continue
		}
		n.logger.Info("changed the version of the cluster", "to", r.Ver)
	}
}

// errUnknownAction is what etcd says of an action that it does not know.
var errUnknownAction = status.Error(codes.Unknown, "etcdserver: unknown method")

// Downgrade tells whether the cluster may go down to a version, lets it, or takes that back. The version of the answer
// is the cluster's.
func (n *Node) Downgrade(ctx context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	if err := n.permitAdmin(ctx); err != nil {
		return nil, err
	}
	var err error
	switch r.Action {
	case pb.DowngradeRequest_VALIDATE:
		_, err = n.validDowngrade(ctx, r.Version)
	case pb.DowngradeRequest_ENABLE:
		err = n.enableDowngrade(ctx, r.Version)
	case pb.DowngradeRequest_CANCEL:
		err = n.cancelDowngrade(ctx)
	default:
		err = errUnknownAction
	}
	if err != nil {
		return nil, err
	}
	current, _ := n.version.get()
	return &pb.DowngradeResponse{Header: n.pbHeader(), Version: version.Cluster(current.String())}, nil
}

// validDowngrade returns the version that the text means, if the cluster may go down to it: the one below its own.
func (n *Node) validDowngrade(ctx context.Context, text string) (semver.Version, error) {
	target, err := semver.NewVersion(text)
	if err != nil {
		target, err = semver.NewVersion(text + ".0")
	}
	if err != nil {
		return semver.Version{}, rpctypes.ErrGRPCWrongDowngradeVersionFormat
	}
	if err := n.linearizable(ctx); err != nil {
		return semver.Version{}, err
	}
	current, downgrade := n.version.get()
	switch {
	case target.Major != current.Major || target.Minor != current.Minor-1:
		return semver.Version{}, rpctypes.ErrGRPCInvalidDowngradeTargetVersion
	case downgrade.Enabled:
		return semver.Version{}, rpctypes.ErrGRPCDowngradeInProcess
	}
	return semver.Version{Major: target.Major, Minor: target.Minor}, nil
}

func (n *Node) enableDowngrade(ctx context.Context, text string) error {
	target, err := n.validDowngrade(ctx, text)
	if err != nil {
		return err
	}
	r := &membershippb.DowngradeInfoSetRequest{Enabled: true, Ver: target.String()}
	if _, err := n.proposeAs(ctx, kindDowngrade, auth.Identity{}, r); err != nil {
		return err
	}
	n.logger.Info("enabled a downgrade", "to", r.Ver)
	return nil
}

// cancelDowngrade does nothing if none is enabled, which etcd answers alike.
func (n *Node) cancelDowngrade(ctx context.Context) error {
	if err := n.linearizable(ctx); err != nil {
		return err
	}
	if _, downgrade := n.version.get(); !downgrade.Enabled {
		return nil
	}
	if _, err := n.proposeAs(ctx, kindDowngrade, auth.Identity{}, &membershippb.DowngradeInfoSetRequest{}); err != nil {
		return err
	}
	n.logger.Info("cancelled the downgrade")
	return nil
}
