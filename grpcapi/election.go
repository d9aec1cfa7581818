package grpcapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

// election is the Election service over a Backend: the leader is the first in the queue, and what it proclaims is the value
// of its key.
type election struct{ queues *lockQueues }

func (e election) register(s grpc.ServiceRegistrar, b Backend) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: lockpb.Election_ServiceDesc.ServiceName,
		Metadata:    lockpb.Election_ServiceDesc.Metadata,
		Methods: []grpc.MethodDesc{
			method("Campaign", b, throughClient(e.campaign)),
			method("Proclaim", b, throughClient(e.proclaim)),
			method("Leader", b, throughClient(e.leader)),
			method("Resign", b, throughClient(e.resign)),
		},
		Streams: []grpc.StreamDesc{stream("Observe", false, b, func(s grpc.ServerStream) error {
			return withoutCode(e.observe(s))
		})},
	}, nil)
}

// etcd's errors, which have no code.
var (
	errNotLeader     = status.Error(codes.Unknown, "election: not leader")
	errNoLeader      = status.Error(codes.Unknown, "election: no leader")
	errNoLeaderField = status.Error(codes.Unknown, `"leader" field must be provided`)
)

// campaign waits until the caller leads. A candidate that was there before has the new value at once. Unlike at etcd, which
// does not look, a candidate whose key has been deleted meanwhile does not lead.
func (e election) campaign(ctx context.Context, r *lockpb.CampaignRequest) (*lockpb.CampaignResponse, error) {
	release, err := e.queues.reserve(len(r.Name) + len(r.Value))
	if err != nil {
		return nil, err
	}
	defer release()
	c, err := e.queues.join(ctx, r.Name, r.Lease, r.Value)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(c.value, r.Value) {
		if err := e.set(ctx, c, r.Value); err != nil {
			return nil, err
		}
	}
	c.value, r.Value = nil, nil // which are not needed while waiting
	if _, err := e.queues.wait(ctx, c); errors.Is(err, errNotInQueue) {
		return nil, errNotLeader
	} else if err != nil {
		return nil, err
	}
	return &lockpb.CampaignResponse{
		Header: c.header,
		Leader: &lockpb.LeaderKey{Name: r.Name, Key: c.key, Rev: c.created, Lease: c.lease},
	}, nil
}

// set gives a candidate another value, or gives the candidacy up.
func (e election) set(ctx context.Context, c *claim, value []byte) error {
	ok, _, err := e.queues.set(ctx, c, value)
	if err != nil {
		e.queues.withdraw(ctx, c)
		return err
	}
	if !ok {
		return errNotLeader
	}
	return nil
}

// proclaim puts the key under the lease that the request names, a new one for 0.
func (e election) proclaim(ctx context.Context, r *lockpb.ProclaimRequest) (*lockpb.ProclaimResponse, error) {
	if r.Leader == nil {
		return nil, errNoLeaderField
	}
	c := claimOf(r.Leader)
	var err error
	if c.lease, err = e.queues.leaseFor(ctx, c.lease); err != nil {
		return nil, err
	}
	ok, h, err := e.queues.set(ctx, c, r.Value)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errNotLeader
	}
	return &lockpb.ProclaimResponse{Header: h}, nil
}

// resign does nothing, and succeeds, for a leadership that is over.
func (e election) resign(ctx context.Context, r *lockpb.ResignRequest) (*lockpb.ResignResponse, error) {
	if r.Leader == nil {
		return nil, errNoLeaderField
	}
	h, err := e.queues.leave(ctx, claimOf(r.Leader))
	if err != nil {
		return nil, err
	}
	return &lockpb.ResignResponse{Header: h}, nil
}

func claimOf(k *lockpb.LeaderKey) *claim { return &claim{key: k.Key, created: k.Rev, lease: k.Lease} }

func (e election) leader(ctx context.Context, r *lockpb.LeaderRequest) (*lockpb.LeaderResponse, error) {
	kv, h, err := e.queues.first(ctx, queuePrefix(r.Name))
	if err != nil {
		return nil, err
	}
	if kv == nil {
		return nil, errNoLeader
	}
	return &lockpb.LeaderResponse{Header: h, Kv: kv}, nil
}

// observe tells who leads and what he proclaims, one leader after another, until the client ends it. Leaders that came and
// went while it was not looking are left out. Where etcd ends the stream as if all were well when it cannot go on, the
// error is told, and where history is gone it goes on with who leads now.
func (e election) observe(s grpc.ServerStream) error {
	var r lockpb.LeaderRequest
	if err := s.RecvMsg(&r); err != nil {
		return err
	}
	release, err := e.queues.reserve(len(r.Name))
	if err != nil {
		return err
	}
	defer release()
	for prefix := queuePrefix(r.Name); ; {
		if err := e.observeLeader(s, prefix); err != nil && !isCompacted(err) {
			return err
		}
	}
}

// observeLeader sends the proclamations of the leader, whom it waits for, until he no longer leads.
func (e election) observeLeader(s grpc.ServerStream, prefix []byte) error {
	kv, h, err := e.queues.first(s.Context(), prefix)
	if err != nil {
		return err
	}
	if kv == nil {
		if kv, err = e.firstPut(s.Context(), prefix, h.Revision+1); err != nil {
			return err
		}
		h = e.headerAt(kv.ModRevision)
	}
	if err := s.SendMsg(&lockpb.LeaderResponse{Header: h, Kv: kv}); err != nil {
		return err
	}
	w := newWatcher(e.queues.kv.b.Hub(), e.queues.kv.b)
	defer w.close()
	if err := w.watch(s.Context(), coalesce.Watch{Key: kv.Key, Start: h.Revision + 1}); err != nil {
		return err
	}
	for {
		events, err := w.next(s.Context())
		if err != nil {
			return err
		}
		for i := range events {
			if events[i].Delete {
				return nil
			}
			kv, err := keyValueOf(&events[i])
			if err != nil {
				return err
			}
			if err := s.SendMsg(&lockpb.LeaderResponse{Header: e.headerAt(kv.ModRevision), Kv: kv}); err != nil {
				return err
			}
		}
	}
}

// firstPut waits for the first put of a key with the prefix, from revision rev on.
func (e election) firstPut(ctx context.Context, prefix []byte, rev int64) (*mvccpb.KeyValue, error) {
	w := newWatcher(e.queues.kv.b.Hub(), e.queues.kv.b)
	defer w.close()
	o := coalesce.Watch{Key: prefix, End: queueEnd(prefix), Start: rev, NoDelete: true}
	if err := w.watch(ctx, o); err != nil {
		return nil, err
	}
	events, err := w.next(ctx)
	if err != nil {
		return nil, err
	}
	return keyValueOf(&events[0])
}

func (e election) headerAt(rev int64) *pb.ResponseHeader {
	h := e.queues.kv.b.Header()
	h.Revision = rev
	return header(h)
}

func keyValueOf(e *wire.Event) (*mvccpb.KeyValue, error) {
	kv := new(mvccpb.KeyValue)
	if err := proto.Unmarshal(e.KeyValue(), kv); err != nil {
		return nil, fmt.Errorf("decode an event: %w", err)
	}
	return kv, nil
}
