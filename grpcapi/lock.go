package grpcapi

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/lockpb"
)

// lock is the Lock service over a Backend.
type lock struct{ queues *lockQueues }

func (l lock) register(s grpc.ServiceRegistrar, b Backend) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: lockpb.Lock_ServiceDesc.ServiceName,
		Metadata:    lockpb.Lock_ServiceDesc.Metadata,
		Methods: []grpc.MethodDesc{
			method("Lock", b, throughClient(l.lock)),
			method("Unlock", b, throughClient(l.unlock)),
		},
	}, nil)
}

// errSessionExpired is etcd's word for a claim that was deleted, with its lease or without.
var errSessionExpired = status.Error(codes.Unknown, "mutex: session is expired")

func (l lock) lock(ctx context.Context, r *lockpb.LockRequest) (*lockpb.LockResponse, error) {
	release, err := l.queues.reserve(len(r.Name))
	if err != nil {
		return nil, err
	}
	defer release()
	c, err := l.queues.join(ctx, r.Name, r.Lease, nil)
	if err != nil {
		return nil, err
	}
	h, err := l.queues.wait(ctx, c)
	if errors.Is(err, errNotInQueue) {
		return nil, errSessionExpired
	}
	if err != nil {
		return nil, err
	}
	return &lockpb.LockResponse{Header: h, Key: c.key}, nil
}

func (l lock) unlock(ctx context.Context, r *lockpb.UnlockRequest) (*lockpb.UnlockResponse, error) {
	h, err := l.queues.remove(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	return &lockpb.UnlockResponse{Header: h}, nil
}
