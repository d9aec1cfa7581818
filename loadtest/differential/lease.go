package differential

import (
	"context"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// shortest is a TTL in seconds that no run outlives.
const shortest = 10_000

// aLease is the id of a lease, mostly one that exists.
func (r *runner) aLease() int64 {
	if len(r.leases) > 0 && !r.chance(8) {
		return pick(r, r.leases...)
	}
	return pick[int64](r, 1, 2, 3, 99, -7, math.MaxInt64)
}

func (r *runner) stepGrant(ctx context.Context) error {
	req := &pb.LeaseGrantRequest{
		ID:  pick[int64](r, 1, 2, 3, 4, 5, 6, 7, 8, -7, math.MaxInt64, 0),
		TTL: pick[int64](r, shortest, shortest, shortest+1, 2*shortest, 1, 0, -1, 9_000_000_000, 9_000_000_001, math.MaxInt64, math.MinInt64),
	}
	if req.ID == 0 {
		return r.grantAny(ctx, req)
	}
	return r.grant(ctx, req)
}

func (r *runner) grant(ctx context.Context, req *pb.LeaseGrantRequest) error {
	answers, err := r.ask(ctx, req)
	if err != nil || answers[0].err != nil {
		return err
	}
	if req.TTL >= shortest {
		r.addLease(req.ID)
		return nil
	}
	// It would end during the run.
	defer r.asRoot()()
	return r.both(ctx, &pb.LeaseRevokeRequest{ID: req.ID})
}

// grantAny has the servers choose the id, and ends the lease, since they choose differently.
func (r *runner) grantAny(ctx context.Context, req *pb.LeaseGrantRequest) error {
	var generated [2]int64
	answers, err := r.exchange(ctx, "LeaseGrantRequest without id", show(req), func(ctx context.Context, s *side) answer {
		a := s.call(ctx, r.who, req)
		if resp, ok := a.resp.(*pb.LeaseGrantResponse); ok && resp.ID > 0 {
			generated[s.index], resp.ID = resp.ID, 1
		}
		return a
	})
	if err != nil || answers[0].err != nil {
		return err
	}
	defer r.asRoot()()
	_, err = r.askOwn(ctx, func(s *side) proto.Message { return &pb.LeaseRevokeRequest{ID: generated[s.index]} })
	return err
}

func (r *runner) stepRevoke(ctx context.Context) error {
	req := &pb.LeaseRevokeRequest{ID: r.aLease()}
	answers, err := r.ask(ctx, req)
	if err != nil || answers[0].err != nil {
		return err
	}
	r.removeLease(req.ID)
	return r.refresh(ctx)
}

func (r *runner) stepTimeToLive(ctx context.Context) error {
	return r.both(ctx, &pb.LeaseTimeToLiveRequest{ID: r.aLease(), Keys: r.chance(2)})
}

func (r *runner) stepLeases(ctx context.Context) error {
	return r.both(ctx, &pb.LeaseLeasesRequest{})
}

// stepKeepAlive pings on the one stream, which has the identity of who opened it.
func (r *runner) stepKeepAlive(ctx context.Context) error {
	if r.chance(8) {
		if err := r.openPings(ctx); err != nil {
			return err
		}
	}
	req := &pb.LeaseKeepAliveRequest{ID: pick(r, r.aLease(), r.aLease(), 0)}
	answers, err := r.exchange(ctx, nameOf(req), show(req), func(_ context.Context, s *side) answer { return s.ping(req) })
	if err == nil && status.Code(answers[0].err) != codes.OK { // it has ended
		err = r.openPings(ctx)
	}
	return err
}

// openPings opens the streams of keepalives anew.
func (r *runner) openPings(ctx context.Context) error {
	for _, s := range r.sides {
		if err := s.openPings(ctx, r.who); err != nil {
			return err
		}
	}
	return nil
}
