package core

import (
	"context"
	"errors"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// expireBatch is how many expired leases are proposed for revocation at once.
const expireBatch = 1000

// expire is the goroutine that has expired leases revoked. Revocation goes through the log like any write: each
// lease's keys go in one revision, many leases in one entry.
func (n *Node) expire() {
	defer n.goroutines.Done()
	for {
		ids, err := n.leases.WaitExpired(n.ctx, expireBatch)
		if err != nil {
			return // the node is stopping
		}
		for _, id := range ids {
			m := &pb.LeaseRevokeRequest{ID: id}
			payload, err := proto.Marshal(m)
			if err != nil {
				n.fail(err)
				return
			}
			// Nobody waits for the result: WaitExpired names the lease again if it is lost.
			r := &request{kind: kindLeaseExpire, payload: payload, decoded: m, done: make(chan result, 1)}
			if err := n.queue.add(r); err != nil {
				n.logger.Warn("could not propose to revoke an expired lease", "lease", idString(uint64(id)), "error", err)
				break
			}
			n.metrics.leasesExpired.Inc()
		}
	}
}

// LeaseGrant makes a lease. ID 0 lets the member choose one.
func (n *Node) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if err := n.checkSpace(ctx, leaseCost); err != nil {
		return nil, err
	}
	if err := n.permitKnown(ctx); err != nil {
		return nil, err
	}
	chosen := r.ID != 0
	// The least TTL comes from a flag, so it is applied before the log: what is in the log means the same to all.
	r = &pb.LeaseGrantRequest{ID: r.ID, TTL: max(r.TTL, n.cfg.minLeaseTTL())}
	for {
		if !chosen {
			r.ID = rand.Int64N(1<<63-1) + 1
		}
		res, err := n.proposeMessage(ctx, kindLeaseGrant, r)
		if !chosen && errors.Is(err, rpctypes.ErrGRPCLeaseExist) {
			continue // one in 2^63
		}
		if err != nil {
			return nil, err
		}
		return &pb.LeaseGrantResponse{Header: n.pbHeader(), ID: r.ID, TTL: res.resp.(int64)}, nil
	}
}

// LeaseRevoke ends a lease and deletes its keys in one revision.
func (n *Node) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if err := n.permitKnown(ctx); err != nil {
		return nil, err
	}
	if _, err := n.proposeMessage(ctx, kindLeaseRevoke, r); err != nil {
		return nil, err
	}
	return &pb.LeaseRevokeResponse{Header: n.pbHeader()}, nil
}

// LeaseRenew is one ping. It goes past the log: only the leader tells time, and after a change of leader every
// lease gets its whole TTL again.
func (n *Node) LeaseRenew(ctx context.Context, id int64) (ttl int64, err error) {
	if !n.leases.Exists(id) {
		// It may have been granted and not applied here yet.
		if err := n.linearizable(ctx); err != nil {
			return 0, err
		}
	}
	revision, err := n.permitLeases(ctx, n.auth.PermitPut, id)
	if err == nil {
		err = n.unchanged(revision)
	}
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx) // a ping of an expired lease waits for its revocation
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	ttl, err = n.leases.Renew(ctx, id)
	if n.ctx.Err() != nil {
		return 0, rpctypes.ErrGRPCStopped
	}
	if err == nil {
		n.metrics.leasesRenewed.Inc()
	}
	return ttl, apiError(err)
}

// LeaseTimeToLive tells what is left of a lease.
func (n *Node) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	if err := n.linearizable(ctx); err != nil {
		return nil, err
	}
	if err := n.permitKnown(ctx); err != nil {
		return nil, err
	}
	var revision uint64
	if r.Keys { // which are a secret, unlike the time
		var err error
		if revision, err = n.permitLeases(ctx, n.permitKey, r.ID); err != nil {
			return nil, err
		}
	}
	s, err := n.leases.TimeToLive(r.ID, r.Keys)
	if err != nil {
		return nil, apiError(err)
	}
	if err := n.unchanged(revision); err != nil {
		return nil, err
	}
	return &pb.LeaseTimeToLiveResponse{Header: n.pbHeader(), ID: r.ID, TTL: s.Remaining, GrantedTTL: s.TTL, Keys: s.Keys}, nil
}

// LeaseLeases lists all leases, those that expire first at the front.
func (n *Node) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	if err := n.linearizable(ctx); err != nil {
		return nil, err
	}
	ids := n.leases.Leases()
	revision, err := n.permitLeases(ctx, n.permitKey, ids...)
	if err == nil {
		err = n.unchanged(revision)
	}
	if err != nil {
		return nil, err
	}
	resp := &pb.LeaseLeasesResponse{Header: n.pbHeader(), Leases: make([]*pb.LeaseStatus, len(ids))}
	for i, id := range ids {
		resp.Leases[i] = &pb.LeaseStatus{ID: id}
	}
	return resp, nil
}
