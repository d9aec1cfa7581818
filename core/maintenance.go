package core

import (
	"context"
	"crypto/sha256"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
)

// PermitKnown refuses who does not say who they are, while authentication is on. Any user will do.
func (n *Node) PermitKnown(ctx context.Context) error { return n.permitKnown(ctx) }

// leads tells whether this member takes itself for the leader.
func (n *Node) leads() bool { return n.leader.Load() == n.member.ID }

// Status is what this member says of itself. It answers without asking the leader.
func (n *Node) Status(_ context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	current, downgrade := n.version.get()
	self, _ := n.members.get(n.member.ID)
	resp := &pb.StatusResponse{
		Header:           n.pbHeader(),
		Version:          version.Version,
		StorageVersion:   current.String(),
		DbSize:           n.store.Size(),
		DbSizeInUse:      n.store.SizeInUse(),
		DbSizeQuota:      n.cfg.QuotaBytes,
		Leader:           n.leader.Load(),
		RaftIndex:        n.committed.Load(),
		RaftTerm:         n.term.Load(),
		RaftAppliedIndex: n.applied.Load(),
		IsLearner:        self.IsLearner,
		DowngradeInfo:    &pb.DowngradeInfo{Enabled: downgrade.Enabled, TargetVersion: downgrade.TargetVersion},
	}
	if resp.Leader == 0 {
		resp.Errors = append(resp.Errors, rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader))
	}
	for _, a := range n.Alarms() {
		resp.Errors = append(resp.Errors, a.String())
	}
	return resp, nil
}

// Defragment rewrites the store's file without its free pages. Reads and writes wait meanwhile.
func (n *Node) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	if err := n.permitAdmin(ctx); err != nil {
		return nil, err
	}
	if err := n.store.Defragment(); err != nil {
		n.logger.Warn("could not defragment the store", "error", err)
		return nil, apiError(err)
	}
	return &pb.DefragmentResponse{}, nil
}

// Hash is the checksum of the store's whole file, metadata included; it differs between members.
func (n *Node) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	if err := n.permitAdmin(ctx); err != nil {
		return nil, err
	}
	hash, rev, err := n.store.Hash()
	if err != nil {
		return nil, apiError(err)
	}
	header := n.pbHeader()
	header.Revision = rev
	return &pb.HashResponse{Header: header, Hash: hash}, nil
}

// HashKV is the checksum of all keys at a revision; 0 is the newest. It is the same on all members, and the same
// as etcd's for the same history.
func (n *Node) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	if err := n.permitAdmin(ctx); err != nil {
		return nil, err
	}
	hash, current, err := n.store.HashKV(ctx, r.Revision)
	if err != nil {
		return nil, apiError(err)
	}
	header := n.pbHeader()
	header.Revision = current
	return &pb.HashKVResponse{Header: header, Hash: hash.Hash, CompactRevision: hash.Compact, HashRevision: hash.Revision}, nil
}

// snapshotChunk is how much of the store's file goes into one message: etcd's size.
const snapshotChunk = 32 << 10

// Snapshot sends the store's file as of one moment, then its SHA-256, which `etcdctl snapshot save` keeps at the
// end of the file and `etcdutl snapshot restore` checks.
func (n *Node) Snapshot(ctx context.Context, send func(*pb.SnapshotResponse) error) error {
	if err := n.permitAdmin(ctx); err != nil {
		return err
	}
	current, _ := n.version.get()
	snapshot, err := n.store.Snapshot()
	if err != nil {
		return apiError(fmt.Errorf("take a snapshot: %w", err))
	}
	defer snapshot.Close()
	w := &snapshotWriter{ctx: ctx, send: send, version: current.String(), remaining: snapshot.Size()}
	n.logger.Info("sending a snapshot", "size", snapshot.Size())
	sum := sha256.New()
	w.sum = sum.Write
	if _, err := snapshot.WriteTo(w); err != nil {
		return apiError(fmt.Errorf("send a snapshot: %w", err))
	}
	if err := w.flush(); err != nil {
		return err
	}
	n.logger.Info("sent a snapshot", "size", snapshot.Size())
	return send(&pb.SnapshotResponse{Blob: sum.Sum(nil), Version: w.version})
}

// snapshotWriter cuts what is written to it into messages.
type snapshotWriter struct {
	ctx       context.Context
	send      func(*pb.SnapshotResponse) error
	version   string // of the store's layout
	sum       func([]byte) (int, error)
	buf       []byte
	remaining int64
}

func (w *snapshotWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		if w.buf == nil {
			w.buf = make([]byte, 0, snapshotChunk) // a message may be in use after send
		}
		m := min(len(p)-n, snapshotChunk-len(w.buf))
		w.buf = append(w.buf, p[n:n+m]...)
		n += m
		if len(w.buf) == snapshotChunk {
			if err := w.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

func (w *snapshotWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if _, err := w.sum(w.buf); err != nil {
		return err
	}
	w.remaining -= int64(len(w.buf))
	err := w.send(&pb.SnapshotResponse{RemainingBytes: uint64(max(w.remaining, 0)), Blob: w.buf, Version: w.version})
	w.buf = nil
	return err
}
