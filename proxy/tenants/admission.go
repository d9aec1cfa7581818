package tenants

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// What a visit has to pass before it is let in, in this order. Each returns the client's error.

// count has the account of v's client count it in. A stream of keepalives is free, as the keepalives on it are.
func (v *visit) count(size int) error {
	if v.account = v.table.accounts.get(v.client.who, v.client.tenant); v.account == nil {
		return v.refuse(overInFlight, tooMany(v.ctx, watchHint))
	}
	if why, wait := v.account.enter(v.lane, v.lane == pingLane, size); why != admitted {
		v.table.accounts.put(v.account)
		return v.refuse(why, tooMany(v.ctx, wait))
	}
	return nil
}

// admit judges what an RPC asks. What a stream asks comes later; only its method is known.
func (v *visit) admit(req wire.Raw) error {
	own := v.client.tenant
	if !own.restricted() {
		return nil
	}
	d, err := read(v.method, req)
	if err != nil {
		return err
	}
	if err := v.permit(&d); err != nil {
		return v.refuse(forbidden, err)
	}
	if err := v.permitLeases(v.ctx, d.leases, len(req)+d.bytes()); err != nil {
		return err
	}
	if own.usage == nil {
		return nil
	}
	if v.reserved, err = own.usage.reserve(d.branches); err != nil {
		return v.refuse(overQuota, err)
	}
	return nil
}

// permit tells whether the client may ask this at all.
func (v *visit) permit(d *demand) error {
	own, allowed := v.client.tenant, true
	switch d.class {
	case changesAll:
		allowed = !own.confined && !own.readOnly
	case readsAll:
		itself := d.user != "" && d.user == v.client.user
		allowed = !own.confined || itself
	case writes:
		allowed = !own.readOnly
	case reads, enters:
	}
	switch {
	case allowed:
		return nil
	case own.confined && !own.readOnly && v.lane == pingLane:
		return status.Error(codes.Unimplemented, "weir: not for who has a namespace: ping by etcdserverpb.Lease/LeaseKeepAlive")
	}
	return rpctypes.ErrGRPCPermissionDenied
}

// permitLeases tells whether the client may use leases: those whose keys are all in its namespace. It waits for upstream until ctx
// ends, and so many bytes are kept for as long.
func (v *visit) permitLeases(ctx context.Context, ids map[int64]struct{}, size int) error {
	if !v.client.tenant.confined {
		return nil
	}
	if len(ids) > maxLeases {
		return rpctypes.ErrGRPCTooManyOps
	}
	for id := range ids {
		if err := v.permitLease(ctx, id, size); err != nil {
			return err
		}
	}
	return nil
}

// permitLease tells the same of one lease, to who has a namespace.
func (v *visit) permitLease(ctx context.Context, id int64, size int) error {
	err := v.in.ledger.check(ctx, v.client.tenant.namespace, id, size, v.leaseUse())
	if errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
		return v.refuse(forbidden, err)
	}
	return err
}

// refuse counts a refusal.
func (v *visit) refuse(why refusal, err error) error {
	v.table.refused[why].Add(1)
	return err
}
