package tenants

import (
	"context"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

// visit is one RPC of a client, from Enter to Leave. It is a wire.Visit.
type visit struct {
	table    *Table
	in       *standing // as of Enter
	client   client
	account  *account
	ctx      context.Context // the RPC's, or the stream's
	stream   *stream         // nil of what does not last
	method   string
	lane     lane
	reserved *reservation // nil if nothing can grow by it

	mu      sync.Mutex // guards what follows
	watches int        // admitted, and not ended
	spent   bool       // the request that the stream of watches has cost: for its first watch
	left    bool
}

// Namespace is part of wire.Visit.
func (v *visit) Namespace() string { return v.client.tenant.namespace }

// Context is part of wire.Visit.
func (v *visit) Context() context.Context { return v.stream.context() }

// Message is part of wire.Visit.
func (v *visit) Message(req wire.Raw) error {
	if v.lane != pingLane {
		return v.charge(len(req))
	}
	if !v.client.tenant.confined {
		return nil
	}
	d, err := read(v.method, req)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(v.ctx, coalesce.PingLife)
	defer cancel()
	err = v.permitLeases(ctx, d.leases, len(req)+d.bytes())
	if ctx.Err() != nil && status.Code(err) == codes.Unavailable {
		return rpctypes.ErrGRPCTimeout
	}
	return err
}

// charge counts a message of the client's, unless it has left.
func (v *visit) charge(size int) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.left {
		return errLeft
	}
	v.account.charge(size)
	return nil
}

// PingRights is part of wire.Visit.
func (v *visit) PingRights() wire.PingRights {
	if !v.client.tenant.confined {
		return nil
	}
	return pingRights{v}
}

// pingRights are those of who must not use others' leases.
type pingRights struct{ *visit }

// Allows is part of wire.PingRights. There is no lease 0.
func (r pingRights) Allows(id int64) bool {
	return id == 0 || r.in.ledger.allows(r.client.tenant.namespace, id)
}

// Check is part of wire.PingRights.
func (r pingRights) Check(ctx context.Context, id int64) error {
	return r.permitLease(ctx, id, 0)
}

// Sent is part of wire.Visit. Watches and pings are not charged for what they bring.
func (v *visit) Sent(bytes int) {
	if v.lane == callLane {
		v.account.charge(bytes)
	}
}

// Watch is part of wire.Visit.
func (v *visit) Watch() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.left { // see wire.Visit
		return errLeft
	}
	if why, wait := v.account.watch(!v.spent); why != admitted {
		return v.refuse(why, hinted(wait)) // no trailer: there may be any number of refusals on one stream
	}
	v.spent = true
	v.watches++
	return nil
}

// errLeft is nobody's to see.
var errLeft = status.Error(codes.Canceled, "weir: the stream has ended")

// Unwatch is part of wire.Visit.
func (v *visit) Unwatch() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.left {
		v.watches--
		v.account.unwatch(1)
	}
}

// Leave is part of wire.Visit.
func (v *visit) Leave(resp wire.Raw, err error) {
	v.mu.Lock()
	v.left = true
	if v.watches > 0 {
		v.account.unwatch(v.watches)
	}
	v.mu.Unlock()
	v.stream.leave()
	v.account.charge(len(resp))
	v.account.leave(v.lane)
	v.table.accounts.put(v.account)
	if v.in.ledger != nil && err == nil {
		v.learn(resp)
	}
	if v.reserved != nil {
		v.client.tenant.usage.settle(v.reserved, v.outcome(resp, err))
	}
}

// learn remembers whose a lease is that has been granted.
func (v *visit) learn(resp wire.Raw) {
	if v.method != pb.Lease_LeaseGrant_FullMethodName {
		return
	}
	var r pb.LeaseGrantResponse
	if proto.Unmarshal(resp, &r) == nil && r.ID != 0 {
		v.in.ledger.granted(v.client.tenant.namespace, r.ID)
	}
}

// leaseUse is what the RPC does with leases. One of pings does nothing else.
func (v *visit) leaseUse() leaseUse {
	switch {
	case v.lane == pingLane:
		return pinged
	case v.method == pb.Lease_LeaseRevoke_FullMethodName:
		return revoked
	}
	return used
}

// outcome is what the end of an RPC says of what it may have written.
func (v *visit) outcome(resp wire.Raw, err error) outcome {
	if err != nil {
		switch v.method {
		case lockpb.Lock_Lock_FullMethodName, lockpb.Election_Campaign_FullMethodName, lockpb.Election_Proclaim_FullMethodName:
			return outcome{} // of several requests upstream, some may have been done
		}
		return outcome{refused: isFinal(err)}
	}
	h, err := wire.UnmarshalHeader(resp)
	if err != nil {
		return outcome{}
	}
	return outcome{revision: h.Revision}
}

// plain is the visit of who is not judged.
type plain string

// Namespace is part of wire.Visit, as is what follows.
func (p plain) Namespace() string { return string(p) }

// Context is none: nothing ends it.
func (plain) Context() context.Context { return nil }

// Message is never called for anything that would be refused.
func (plain) Message(wire.Raw) error { return nil }

// PingRights are all.
func (plain) PingRights() wire.PingRights { return nil }

// Sent does nothing.
func (plain) Sent(int) {}

// Watch admits it.
func (plain) Watch() error { return nil }

// Unwatch does nothing.
func (plain) Unwatch() {}

// Leave does nothing.
func (plain) Leave(wire.Raw, error) {}
