package core

import (
	"context"
	"crypto/sha256"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/api/v3/version"
)

// storageVersion is the version of etcd whose bucket layout the store has.
const storageVersion = "3.7.0"

// MemberList lists the members of the cluster. A linearizable list waits as a linearizable read does.
func (n *Node) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.Linearizable {
		if err := n.linearizable(ctx); err != nil {
			return nil, err
		}
	}
	header := n.pbHeader()
	header.Revision = 0 // etcd's Cluster service has none
	return &pb.MemberListResponse{
		Header: header,
		Members: []*pb.Member{{
			ID: n.member.ID, Name: n.cfg.Name, PeerURLs: n.peerURLs, ClientURLs: n.cfg.ClientURLs,
		}},
	}, nil
}

// Status is what this member says of itself. It answers without asking the leader.
func (n *Node) Status(_ context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	resp := &pb.StatusResponse{
		Header:           n.pbHeader(),
		Version:          version.Version,
		StorageVersion:   storageVersion,
		DbSize:           n.store.Size(),
		DbSizeInUse:      n.store.SizeInUse(),
		DbSizeQuota:      max(n.cfg.QuotaBytes, 0),
		Leader:           n.leader.Load(),
		RaftIndex:        n.committed.Load(),
		RaftTerm:         n.term.Load(),
		RaftAppliedIndex: n.applied.Load(),
		DowngradeInfo:    &pb.DowngradeInfo{},
	}
	if resp.Leader == 0 {
		resp.Errors = append(resp.Errors, rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader))
	}
	for _, a := range n.alarms.list(pb.AlarmType_NONE) {
		resp.Errors = append(resp.Errors, a.String())
	}
	return resp, nil
}

// Defragment rewrites the store's file without its free pages. Reads and writes wait meanwhile.
func (n *Node) Defragment(_ context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	if err := n.store.Defragment(); err != nil {
		n.logger.Warn("could not defragment the store", "error", err)
		return nil, apiError(err)
	}
	return &pb.DefragmentResponse{}, nil
}

// Hash is the checksum of the store's whole file, metadata included; it differs between members.
func (n *Node) Hash(_ context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
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
func (n *Node) HashKV(_ context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	hash, current, compacted, hashRev, err := n.store.HashKV(r.Revision)
	if err != nil {
		return nil, apiError(err)
	}
	header := n.pbHeader()
	header.Revision = current
	return &pb.HashKVResponse{Header: header, Hash: hash, CompactRevision: compacted, HashRevision: hashRev}, nil
}

// snapshotChunk is how much of the store's file goes into one message: etcd's size.
const snapshotChunk = 32 << 10

// Snapshot sends the store's file as of one moment, then its SHA-256, which `etcdctl snapshot save` keeps at the
// end of the file and `etcdutl snapshot restore` checks.
func (n *Node) Snapshot(ctx context.Context, send func(*pb.SnapshotResponse) error) error {
	snapshot, err := n.store.Snapshot()
	if err != nil {
		return apiError(fmt.Errorf("take a snapshot: %w", err))
	}
	defer snapshot.Close()
	w := &snapshotWriter{ctx: ctx, send: send, remaining: snapshot.Size()}
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
	return send(&pb.SnapshotResponse{Blob: sum.Sum(nil), Version: storageVersion})
}

// snapshotWriter cuts what is written to it into messages.
type snapshotWriter struct {
	ctx       context.Context
	send      func(*pb.SnapshotResponse) error
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
	err := w.send(&pb.SnapshotResponse{RemainingBytes: uint64(max(w.remaining, 0)), Blob: w.buf, Version: storageVersion})
	w.buf = nil
	return err
}
