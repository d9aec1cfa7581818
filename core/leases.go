package core

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"weir/core/lease"
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
		under := n.tenure.ofTerm()
		if under == 0 {
			continue // they have expired under a leadership that is over
		}
		for _, id := range ids {
			if !n.leases.IsExpired(id) { // it was found under an earlier leadership
				continue
			}
			m := &pb.LeaseRevokeRequest{ID: id}
			payload, err := proto.Marshal(m)
			if err != nil {
				n.fail(err)
				return
			}
			// Nobody waits for the result: WaitExpired names the lease again if it is lost.
			r := &request{kind: kindLeaseExpire, payload: payload, decoded: m, under: under, done: make(chan result, 1)}
			if err := n.queue.add(r); err != nil {
				n.logger.Warn("could not propose to revoke an expired lease", "lease", idString(uint64(id)), "error", err)
				break
			}
			n.metrics.leasesExpired.Inc()
		}
	}
}

// promoteLeases lets leases expire here from now on, each an election timeout later than it would, which the clients need to find the
// new leader, but at least confirmedFor: what the one before has promised meanwhile counts on that. A voter without others may have
// had some a moment ago.
func (n *Node) promoteLeases() { n.leases.Promote(max(n.cfg.ElectionTimeout, confirmedFor)) }

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

// LeaseRenew is one ping. It goes past the log: only the leader tells time, and the other members ask it. Without a leader it waits
// for one, for as long as a request may take.
func (n *Node) LeaseRenew(ctx context.Context, id int64) (ttl int64, err error) {
	if !n.leases.Exists(id) {
		// It may have been granted and not applied here yet.
		if err := n.linearizable(ctx); err != nil {
			return 0, err
		}
	}
	if err := n.permitRenewal(ctx, id); err != nil {
		return 0, err
	}
	if !n.leases.Exists(id) {
		return 0, rpctypes.ErrGRPCLeaseNotFound
	}
	ids, ttls := [1]int64{id}, [1]int64{}
	if n.renewHere(ctx, ids[:], ttls[:]); ttls[0] > 0 {
		return ttls[0], nil
	}
	return n.renewAtLeader(ctx, id)
}

// LeaseRenewNow is many pings, as far as none has to wait but for other members' word that this one leads. It sets ttls, which is
// as long as ids, to the TTLs in seconds that the leases have again. 0 is of a lease about which LeaseRenew must be asked: this
// member does not lead, the lease is not known here, it has expired, or somebody may not renew one of ids.
func (n *Node) LeaseRenewNow(ctx context.Context, ids, ttls []int64) {
	clear(ttls)
	if n.permitRenewal(ctx, ids...) == nil {
		n.renewHere(ctx, ids, ttls)
	}
}

// permitRenewal refuses who may not renew leases. It is for the member that was asked to judge that.
func (n *Node) permitRenewal(ctx context.Context, ids ...int64) error {
	revision, err := n.permitLeases(ctx, n.auth.PermitPut, ids...)
	if err != nil {
		return err
	}
	return n.auth.Unchanged(revision)
}

// renewHere renews leases if this member's tenure as leader has begun, and sets their ttls. That of a lease which it has not
// renewed stays 0.
func (n *Node) renewHere(ctx context.Context, ids, ttls []int64) {
	if term, begun, _ := n.tenure.now(); !begun || n.renewAsLeader(ctx, term, ids, ttls) != nil {
		clear(ttls)
	}
}

// renewAsLeader renews leases under a tenure that has begun, as far as that need not wait for anything but word that this member
// still leads. Without that what it sets ttls to is void.
func (n *Node) renewAsLeader(ctx context.Context, term uint64, ids, ttls []int64) error {
	n.leases.RenewNow(ids, ttls)
	if err := n.confirmTenure(ctx, term); err != nil {
		return err
	}
	renewed := 0
	for _, ttl := range ttls {
		if ttl > 0 {
			renewed++
		}
	}
	n.metrics.leasesRenewed.Add(float64(renewed))
	return nil
}

// renewAtLeader has a lease renewed by whoever leads. A lease that has expired is waited for until it has been revoked.
func (n *Node) renewAtLeader(ctx context.Context, id int64) (ttl int64, err error) {
	arrived := time.Now()
	err = n.atLeader(ctx, func(ctx context.Context, leader uint64) error {
		if err := n.permitRenewal(ctx, id); err != nil { // it may be long since it was
			return err
		}
		if leader == n.member.ID {
			ttl, err = n.renewWaiting(ctx, id)
		} else {
			ttl, err = n.forwardPing(ctx, id, arrived)
		}
		return err
	})
	return ttl, err
}

// renewWaiting renews a lease as leader, waiting for what that takes.
func (n *Node) renewWaiting(ctx context.Context, id int64) (ttl int64, err error) {
	term, err := n.awaitTenure(ctx)
	if err != nil {
		return 0, err
	}
	ttl, err = n.leases.Renew(ctx, id)
	if errors.Is(err, lease.ErrNotPrimary) {
		return 0, rpctypes.ErrGRPCNotLeader
	}
	if err == nil {
		err = n.confirmTenure(ctx, term)
	}
	if err == nil {
		n.metrics.leasesRenewed.Inc()
	}
	return ttl, err
}

// LeaseTimeToLive tells what is left of a lease, which only the leader knows.
func (n *Node) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	if err := n.linearizable(ctx); err != nil {
		return nil, err
	}
	if err := n.permitKnown(ctx); err != nil {
		return nil, err
	}
	var keys [][]byte
	if r.Keys { // which are a secret, unlike the time
		revision, err := n.permitLeases(ctx, n.permitKey, r.ID)
		if err != nil {
			return nil, err
		}
		keys = n.leases.Keys(r.ID)
		if err := n.auth.Unchanged(revision); err != nil {
			return nil, err
		}
	}
	if !n.leases.Exists(r.ID) {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	s, err := n.leaderTimeToLive(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &pb.LeaseTimeToLiveResponse{Header: n.pbHeader(), ID: r.ID, TTL: s.Remaining, GrantedTTL: s.TTL, Keys: keys}, nil
}

// LeaseLeases lists all leases, those that expire first at the front.
func (n *Node) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	if err := n.linearizable(ctx); err != nil {
		return nil, err
	}
	ids := n.leases.Leases()
	revision, err := n.permitLeases(ctx, n.permitKey, ids...)
	if err == nil {
		err = n.auth.Unchanged(revision)
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
