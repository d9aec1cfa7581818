package tenants

import (
	"context"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/grpcapi/wire"
)

// Known is whom ctx's RPC is from, as far as is known without asking: what is said of clients to people, and decides nothing. A
// token that is not known to be valid is nobody's, and only the address counts.
func (t *Table) Known(ctx context.Context) Identity {
	in := t.now.Load()
	own, who := in.members.others, addressOf(ctx)
	switch shown := wire.CredentialsOf(ctx); {
	case shown.HasToken:
		name, ok := t.cfg.Users.UserOf(ctx)
		if !ok {
			break
		}
		who = Identity{kind: ofUser, name: name}
		if u := in.members.users[name]; u != nil {
			own = u
		}
	case shown.CommonName != "":
		who = Identity{kind: ofCommonName, name: shown.CommonName}
		if c := in.members.commonNames[shown.CommonName]; c != nil {
			own = c
		}
	}
	if own != nil && own.name != "" {
		return Identity{kind: ofTenant, name: own.name}
	}
	return who
}

// PermitAll refuses who may not know what all clients do: with a tenants file, who is not in it, or has a namespace of his own.
func (t *Table) PermitAll(ctx context.Context) error {
	in := t.now.Load()
	if in.file == "" {
		return nil
	}
	c, no := t.clientOf(ctx, in)
	if no != nil {
		return no.tell(ctx)
	}
	if c.tenant.confined {
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}
