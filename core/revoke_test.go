package core

import (
	"context"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/coalesce"
)

// lookout is a client's stream that notes, whenever it is to look again, whether its user may still read. Only the applier
// calls it.
type lookout struct {
	coalesce.Sink // of which nothing else is called
	may           func() error
	found         []error
}

func (r *lookout) Recheck() { r.found = append(r.found, r.may()) }

func TestWatchesAreLookedAtWhenARightMayHaveBeenTakenAway(t *testing.T) {
	u := openUsers(t)
	n, root := u.n, u.as("root")
	a, aEnd := []byte("/a/"), []byte("/a0")
	r := &lookout{may: func() error { return n.PermitUser("alice", []byte("/a/1"), nil) }}
	stream := n.Hub().NewStream(r)
	defer stream.Close()
	denied, none := rpctypes.ErrGRPCPermissionDenied, error(nil)
	grant := func(kind authpb.Permission_Type) func(context.Context) error {
		return func(ctx context.Context) error {
			return errOf(n.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{
				Name: "alice", Perm: &authpb.Permission{PermType: kind, Key: a, RangeEnd: aEnd},
			}))
		}
	}
	addRole := func(ctx context.Context) error { return errOf(n.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "alice"})) }
	giveRole := func(ctx context.Context) error {
		return errOf(n.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "alice", Role: "alice"}))
	}
	for _, c := range []struct {
		name   string
		change func(context.Context) error
		found  []error
	}{
		{"a put", func(ctx context.Context) error { return u.put(ctx, &pb.PutRequest{Key: []byte("/a/1")}) }, nil},
		{"a password", func(ctx context.Context) error {
			return errOf(n.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: "alice", Password: "new"}))
		}, nil},
		{"another's role", func(ctx context.Context) error {
			return errOf(n.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: "bob", Role: "bob"}))
		}, []error{none}},
		{"a change that fails", func(ctx context.Context) error {
			if err := errOf(n.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: "nobody"})); err == nil {
				t.Error("nobody is deleted")
			}
			return nil
		}, nil},
		{"less of a permission", grant(authpb.WRITE), []error{denied}},
		{"a permission", grant(authpb.READ), []error{none}},
		{"a permission revoked", func(ctx context.Context) error {
			return errOf(n.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: "alice", Key: a, RangeEnd: aEnd}))
		}, []error{denied}},
		{"a permission again", grant(authpb.READWRITE), []error{none}},
		{"a role revoked", func(ctx context.Context) error {
			return errOf(n.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: "alice", Role: "alice"}))
		}, []error{denied}},
		{"a role", giveRole, nil},
		{"a role deleted", func(ctx context.Context) error {
			return errOf(n.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: "alice"}))
		}, []error{denied}},
		{"a role added", addRole, nil},
		{"a role again", giveRole, nil},
		{"its permission", grant(authpb.READ), []error{none}},
		{"a user deleted", func(ctx context.Context) error {
			return errOf(n.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: "alice"}))
		}, []error{denied}},
		{"a user added", func(ctx context.Context) error {
			return errOf(n.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "alice", Password: "new"}))
		}, nil},
		{"authentication off", func(ctx context.Context) error { return errOf(n.AuthDisable(ctx, &pb.AuthDisableRequest{})) }, nil},
	} {
		r.found = nil
		u.must(c.change(root))
		if len(r.found) != len(c.found) || len(c.found) == 1 && !sameError(r.found[0], c.found[0]) {
			t.Errorf("%s: found %v, want %v", c.name, r.found, c.found)
		}
	}

	// While it is off nobody loses anything.
	r.found, r.may = nil, func() error { return n.PermitUser("", []byte("/a/1"), nil) }
	u.must(errOf(n.RoleDelete(t.Context(), &pb.AuthRoleDeleteRequest{Role: "bob"})))
	u.must(r.may())
	u.must(errOf(n.AuthEnable(t.Context(), &pb.AuthEnableRequest{})))
	if len(r.found) != 1 || !sameError(r.found[0], rpctypes.ErrGRPCUserEmpty) {
		t.Errorf("authentication on: found %v for nobody", r.found)
	}
}

func TestPermissionOfAUserOutlivesTheRevisionOfItsToken(t *testing.T) {
	u := openUsers(t)
	user, err := u.n.PermitWatch(u.as("alice"), []byte("/a/1"), nil)
	u.must(err)
	_, err = u.n.RoleAdd(u.as("root"), &pb.AuthRoleAddRequest{Name: "another"})
	u.must(err)
	if err := u.n.PermitUser(user, []byte("/a/1"), nil); user != "alice" || err != nil {
		t.Errorf("%q may no longer read: %v", user, err)
	}
	if err := u.n.PermitUser(user, []byte("/c/1"), nil); !sameError(err, rpctypes.ErrGRPCPermissionDenied) {
		t.Errorf("what was never permitted: %v", err)
	}
}
