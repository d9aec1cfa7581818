package core

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"weir/core/auth"
	"weir/core/lease"
	"weir/grpcapi/wire"
)

// While authentication is on, a request is permitted where it is carried out: a read on the member that answers it, a
// write when it is applied. What the log says of a write is who asked, and as of which revision of users and roles the
// asking member took it for that user; when something of users and roles has changed since, the write is refused with
// ErrAuthOldRevision and the client tries again. So a right that is taken away is gone for all writes that are behind
// the change in the log.

// identify tells who sends the request of ctx: nobody, if authentication is off or the request does not say.
func (n *Node) identify(ctx context.Context) (auth.Identity, error) {
	if !n.auth.Enabled() {
		return auth.Identity{}, nil
	}
	c := wire.CredentialsOf(ctx)
	switch {
	case c.HasToken:
		id, ok := n.auth.Identify(c.Token)
		if !ok {
			return auth.Identity{}, rpctypes.ErrGRPCInvalidAuthToken
		}
		return id, nil
	case c.HasCertificate && n.cfg.ClientCertAuth:
		return n.auth.IdentifyCN(c.CommonName), nil
	}
	return auth.Identity{}, nil
}

// permitKnown refuses who does not say who they are. Any user will do.
func (n *Node) permitKnown(ctx context.Context) error {
	id, err := n.identify(ctx)
	if err == nil && id == (auth.Identity{}) && n.auth.Enabled() {
		err = rpctypes.ErrGRPCUserEmpty
	}
	return err
}

// permitAdmin refuses who has not the role of root.
func (n *Node) permitAdmin(ctx context.Context) error {
	id, err := n.identify(ctx)
	if err != nil {
		return err
	}
	return n.auth.PermitAdmin(id)
}

// permitRange refuses who may not read a range. The revision of the identity is for auth.Store.Unchanged, after the read.
func (n *Node) permitRange(ctx context.Context, key, end []byte) (auth.Identity, error) {
	id, err := n.identify(ctx)
	if err != nil {
		return id, err
	}
	return id, n.auth.PermitRange(id, key, end)
}

// PermitWatch refuses who may not watch a range, and else tells who it is.
func (n *Node) PermitWatch(ctx context.Context, key, end []byte) (user string, err error) {
	id, err := n.permitRange(ctx, key, end)
	return id.User, err
}

// PermitUser permits a user to go on reading a range, whatever has become of the token or the revision as of which the
// reading was begun. "" is nobody, who may while authentication is off.
func (n *Node) PermitUser(user string, key, end []byte) error {
	return n.auth.PermitUser(user, key, end)
}

// mayRevoke tells whether a change of users and roles may take a right to read away from anybody. A password does not
// count: the user, whoever that is, has the same rights as before.
func mayRevoke(change proto.Message) bool {
	switch change.(type) {
	case *pb.AuthDisableRequest, *pb.AuthUserAddRequest, *pb.AuthUserChangePasswordRequest, *pb.AuthUserGrantRoleRequest,
		*pb.AuthRoleAddRequest:
		return false
	}
	return true // a permission that is granted may replace one that was more
}

// permitLeases refuses who may not do to every key of the leases what permit permits. An administrator may. The revision,
// for auth.Store.Unchanged, is the present one: like an administrator, a user may have an identity of an older one where no key decides.
func (n *Node) permitLeases(ctx context.Context, permit func(auth.Identity, []byte) error, leases ...int64) (revision uint64, err error) {
	if !n.auth.Enabled() {
		return 0, nil
	}
	revision = n.auth.Revision()
	id, err := n.identify(ctx)
	switch {
	case err != nil:
		return 0, err
	case id == auth.Identity{}:
		return 0, rpctypes.ErrGRPCUserEmpty
	case n.auth.PermitAdmin(id) == nil:
		return revision, nil
	}
	for _, lease := range leases {
		if err := n.leases.CheckKeys(lease, func(key []byte) error { return permit(id, key) }); err != nil {
			return 0, err
		}
	}
	return revision, nil
}

// permitKey is for permitLeases: the key may be read.
func (n *Node) permitKey(id auth.Identity, key []byte) error { return n.auth.PermitRange(id, key, nil) }

// guard permits writes when they are applied, and transactions wherever they are carried out.
type guard struct {
	auth   *auth.Store
	leases *lease.Lessor
	// writers saves the applier work, and belongs to it. Where nothing is written it is nil.
	writers leaseWriters
}

// permit refuses a request of the log.
func (g guard) permit(as auth.Identity, decoded any) error {
	if !g.auth.Enabled() {
		return nil
	}
	switch r := decoded.(type) {
	case *wire.PutRequest:
		return g.permitPut(as, r.Key, r.Lease, r.PrevKV)
	case *wire.DeleteRangeRequest:
		return g.permitDelete(as, r.Key, r.RangeEnd, r.PrevKV)
	case *pb.TxnRequest:
		return g.permitTxn(as, r)
	case *pb.LeaseRevokeRequest:
		return g.permitLeasePuts(as, r.ID)
	case *pb.AuthEnableRequest, *pb.AuthDisableRequest,
		*pb.AuthUserAddRequest, *pb.AuthUserDeleteRequest, *pb.AuthUserChangePasswordRequest,
		*pb.AuthUserGrantRoleRequest, *pb.AuthUserRevokeRoleRequest,
		*pb.AuthRoleAddRequest, *pb.AuthRoleDeleteRequest,
		*pb.AuthRoleGrantPermissionRequest, *pb.AuthRoleRevokePermissionRequest:
		return g.auth.PermitAdmin(as)
	}
	return nil // permitted by the member that took it
}

func (g guard) permitPut(as auth.Identity, key []byte, lease int64, prevKV bool) error {
	if err := g.auth.PermitPut(as, key); err != nil {
		return err
	}
	// Who may not write a key of the lease could not revoke it either, and must not tie a key of their own to it.
	if err := g.permitLeasePuts(as, lease); err != nil {
		return err
	}
	if !prevKV {
		return nil
	}
	return g.auth.PermitRange(as, key, nil)
}

func (g guard) permitDelete(as auth.Identity, key, end []byte, prevKV bool) error {
	if err := g.auth.PermitDelete(as, key, end); err != nil || !prevKV {
		return err
	}
	return g.auth.PermitRange(as, key, end)
}

func (g guard) permitLeasePuts(as auth.Identity, lease int64) error {
	asks := leaseWriter{as: as, revision: g.auth.Revision()}
	if lease == 0 || !g.leases.Exists(lease) || g.writers.has(lease, asks) {
		return nil
	}
	g.writers.forget(lease) // what is hung on it now, another may not be permitted to write
	if g.auth.PermitAdmin(as) == nil {
		return nil
	}
	if err := g.leases.CheckKeys(lease, func(key []byte) error { return g.auth.PermitPut(as, key) }); err != nil {
		return err
	}
	g.writers.add(lease, asks)
	return nil
}

// permitTxn refuses a transaction of which any branch, taken or not, is not permitted.
func (g guard) permitTxn(as auth.Identity, r *pb.TxnRequest) error {
	for _, c := range r.Compare {
		if err := g.auth.PermitRange(as, c.Key, c.RangeEnd); err != nil {
			return err
		}
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if err := g.permitOp(as, op); err != nil {
				return err
			}
		}
	}
	return nil
}

func (g guard) permitOp(as auth.Identity, op *pb.RequestOp) error {
	switch req := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return g.auth.PermitRange(as, req.RequestRange.GetKey(), req.RequestRange.GetRangeEnd())
	case *pb.RequestOp_RequestPut:
		p := req.RequestPut
		return g.permitPut(as, p.GetKey(), p.GetLease(), p.GetPrevKv())
	case *pb.RequestOp_RequestDeleteRange:
		d := req.RequestDeleteRange
		return g.permitDelete(as, d.GetKey(), d.GetRangeEnd(), d.GetPrevKv())
	case *pb.RequestOp_RequestTxn:
		return g.permitTxn(as, req.RequestTxn)
	}
	return nil
}
