package core

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"weir/core/auth"
	"weir/core/mvcc"
)

// The Auth service. What changes users and roles goes through the log, its passwords hashed by the member that took the
// request; what only reads waits as a linearizable read does. (At etcd reads go through the log too.)

// authBuckets are where the records of users and roles are, as at etcd.
var authBuckets = map[auth.Kind]mvcc.Bucket{
	auth.Meta: mvcc.BucketAuth,
	auth.User: mvcc.BucketAuthUsers,
	auth.Role: mvcc.BucketAuthRoles,
}

// loadAuth makes users and roles from what the store holds.
func loadAuth(store stored, cfg Config) (*auth.Store, error) {
	records, err := authRecords(store)
	if err != nil {
		return nil, err
	}
	return openAuth(cfg, records)
}

func authRecords(store stored) (iter.Seq[auth.Record], error) {
	var records []auth.Record
	for kind, bucket := range authBuckets {
		err := store.ForEach(bucket, func(k, v []byte) error {
			records = append(records, auth.Record{Kind: kind, Key: k, Value: v})
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("load users and roles: %w", err)
		}
	}
	return slices.Values(records), nil
}

// checkAuth refuses a configuration before a data directory is made for it.
func checkAuth(cfg Config) error {
	cfg.Logger = slog.New(slog.DiscardHandler) // what it has to say it says when it is opened for good
	s, err := openAuth(cfg, nil)
	if err != nil {
		return err
	}
	s.Close()
	return nil
}

func openAuth(cfg Config, records iter.Seq[auth.Record]) (*auth.Store, error) {
	c := cfg.Auth
	c.Clock, c.Logger = cfg.Clock, cfg.Logger
	return auth.Open(c, records)
}

// AuthEnable turns authentication on. There must be a user root with the role root.
func (n *Node) AuthEnable(ctx context.Context, r *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	if err := n.changeAuth(ctx, kindAuthEnable, r); err != nil {
		return nil, err
	}
	return &pb.AuthEnableResponse{Header: n.pbHeader()}, nil
}

// AuthDisable turns authentication off.
func (n *Node) AuthDisable(ctx context.Context, r *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	if err := n.changeAuth(ctx, kindAuthDisable, r); err != nil {
		return nil, err
	}
	return &pb.AuthDisableResponse{Header: n.pbHeader()}, nil
}

// AuthStatus tells whether authentication is on. Anybody may ask, but not with a token that is not valid.
func (n *Node) AuthStatus(ctx context.Context, _ *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	if err := n.linearizable(ctx); err != nil {
		return nil, err
	}
	if _, err := n.identify(ctx); err != nil {
		return nil, err
	}
	return &pb.AuthStatusResponse{Header: n.pbHeader(), Enabled: n.auth.Enabled(), AuthRevision: n.auth.Revision()}, nil
}

// Authenticate gives a user a token for the password.
func (n *Node) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	if err := n.linearizable(ctx); err != nil {
		return nil, err
	}
	for {
		revision, err := n.auth.CheckPassword(ctx, r.Name, r.Password)
		if err != nil {
			n.logger.Warn("refused to authenticate", "user", r.Name, "error", err)
			return nil, err
		}
		prefix, err := n.auth.TokenPrefix()
		if err != nil {
			return nil, apiError(fmt.Errorf("make a token: %w", err))
		}
		m := &pb.InternalAuthenticateRequest{Name: r.Name, SimpleToken: prefix}
		res, err := n.proposeAs(ctx, kindAuthenticate, auth.Identity{}, m)
		if err != nil {
			return nil, err
		}
		if revision == n.auth.Revision() {
			return &pb.AuthenticateResponse{Header: n.pbHeader(), Token: res.resp.(string)}, nil
		}
		// The password may be another by now.
	}
}

// UserAdd adds a user.
func (n *Node) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	if err := n.permitAdmin(ctx); err != nil {
		return nil, err
	}
	r = proto.Clone(r).(*pb.AuthUserAddRequest)
	if !r.GetOptions().GetNoPassword() {
		hashed, err := n.auth.HashPassword(ctx, r.Password)
		if err != nil {
			return nil, apiError(err)
		}
		r.HashedPassword = hashed
	}
	r.Password = ""
	if err := n.changeAuth(ctx, kindUserAdd, r); err != nil {
		return nil, err
	}
	return &pb.AuthUserAddResponse{Header: n.pbHeader()}, nil
}

// UserGet lists a user's roles. Users may ask for their own.
func (n *Node) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	id, err := n.readAuth(ctx)
	if err != nil {
		return nil, err
	}
	if err := n.auth.PermitAdmin(id); err != nil && r.Name != id.User {
		return nil, err
	}
	roles, err := n.auth.User(r.Name)
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserGetResponse{Header: n.pbHeader(), Roles: roles}, nil
}

// UserList lists all users.
func (n *Node) UserList(ctx context.Context, _ *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	id, err := n.readAuth(ctx)
	if err == nil {
		err = n.auth.PermitAdmin(id)
	}
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserListResponse{Header: n.pbHeader(), Users: n.auth.Users()}, nil
}

// UserDelete deletes a user, whose tokens are valid no longer.
func (n *Node) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	if err := n.changeAuth(ctx, kindUserDelete, r); err != nil {
		return nil, err
	}
	return &pb.AuthUserDeleteResponse{Header: n.pbHeader()}, nil
}

// UserChangePassword changes a user's password. The user's tokens are valid no longer.
func (n *Node) UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	if err := n.permitAdmin(ctx); err != nil {
		return nil, err
	}
	hashed := r.HashedPassword
	if r.Password != "" { // a user without one may keep none
		var err error
		if hashed, err = n.auth.HashPassword(ctx, r.Password); err != nil {
			return nil, apiError(err)
		}
	}
	r = &pb.AuthUserChangePasswordRequest{Name: r.Name, HashedPassword: hashed}
	if err := n.changeAuth(ctx, kindUserChangePassword, r); err != nil {
		return nil, err
	}
	return &pb.AuthUserChangePasswordResponse{Header: n.pbHeader()}, nil
}

// UserGrantRole gives a user a role.
func (n *Node) UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	if err := n.changeAuth(ctx, kindUserGrantRole, r); err != nil {
		return nil, err
	}
	return &pb.AuthUserGrantRoleResponse{Header: n.pbHeader()}, nil
}

// UserRevokeRole takes a role from a user.
func (n *Node) UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	if err := n.changeAuth(ctx, kindUserRevokeRole, r); err != nil {
		return nil, err
	}
	return &pb.AuthUserRevokeRoleResponse{Header: n.pbHeader()}, nil
}

// RoleAdd adds a role without permissions.
func (n *Node) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	if err := n.changeAuth(ctx, kindRoleAdd, r); err != nil {
		return nil, err
	}
	return &pb.AuthRoleAddResponse{Header: n.pbHeader()}, nil
}

// RoleGet lists a role's permissions. Who has the role may ask.
func (n *Node) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	id, err := n.readAuth(ctx)
	if err != nil {
		return nil, err
	}
	if err := n.auth.PermitAdmin(id); err != nil && !n.auth.HasRole(id.User, r.Role) {
		return nil, err
	}
	permissions, err := n.auth.Role(r.Role)
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleGetResponse{Header: n.pbHeader(), Perm: permissions}, nil
}

// RoleList lists all roles.
func (n *Node) RoleList(ctx context.Context, _ *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	id, err := n.readAuth(ctx)
	if err == nil {
		err = n.auth.PermitAdmin(id)
	}
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleListResponse{Header: n.pbHeader(), Roles: n.auth.Roles()}, nil
}

// RoleDelete deletes a role, also where users have it.
func (n *Node) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	if err := n.changeAuth(ctx, kindRoleDelete, r); err != nil {
		return nil, err
	}
	return &pb.AuthRoleDeleteResponse{Header: n.pbHeader()}, nil
}

// RoleGrantPermission lets a role read or write a range.
func (n *Node) RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	if err := n.changeAuth(ctx, kindRoleGrantPermission, r); err != nil {
		return nil, err
	}
	return &pb.AuthRoleGrantPermissionResponse{Header: n.pbHeader()}, nil
}

// RoleRevokePermission takes a range from a role.
func (n *Node) RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	if err := n.changeAuth(ctx, kindRoleRevokePermission, r); err != nil {
		return nil, err
	}
	return &pb.AuthRoleRevokePermissionResponse{Header: n.pbHeader()}, nil
}

// changeAuth has a change of users and roles applied.
func (n *Node) changeAuth(ctx context.Context, k kind, m proto.Message) error {
	_, err := n.proposeMessage(ctx, k, m)
	return err
}

// readAuth waits until users and roles are as new as any answer, and tells who asks.
func (n *Node) readAuth(ctx context.Context) (auth.Identity, error) {
	if err := n.linearizable(ctx); err != nil {
		return auth.Identity{}, err
	}
	return n.identify(ctx)
}
