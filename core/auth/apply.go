package auth

import (
	"bytes"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"weir/keyset"
)

// maxNameBytes of a user or a role: bbolt takes no longer key. (etcd ends itself on such a name.)
const maxNameBytes = 32 << 10

// Apply makes the change that a request asks for and returns what is to be stored, in the same transaction as the
// request's place in the log: nothing when the request is granted but changes nothing. Requests: AuthEnable, AuthDisable,
// AuthUserAdd, -Delete, -ChangePassword, -GrantRole, -RevokeRole, AuthRoleAdd, -Delete, -GrantPermission and
// -RevokePermission. Who asks is not checked here. A password is taken from HashedPassword, as HashPassword returns it;
// Password is not looked at, since a password in the log is one too many.
//
// The applier alone calls it. Errors have etcd's texts and leave everything as it was:
//
//   - ErrGRPCUserEmpty, ErrGRPCRoleEmpty, ErrGRPCPermissionNotGiven: something is missing
//   - ErrGRPCUserAlreadyExist, ErrGRPCRoleAlreadyExist, ErrGRPCUserNotFound, ErrGRPCRoleNotFound
//   - ErrGRPCRoleNotGranted, ErrGRPCPermissionNotGranted: there is nothing to revoke
//   - ErrGRPCRootUserNotExist, ErrGRPCRootRoleNotExist: nobody could turn authentication off again
//   - ErrGRPCInvalidAuthMgmt: root, or its role, would be lost while authentication is on, the range of a permission is
//     none, or a name is longer than what can be stored
func (s *Store) Apply(m proto.Message) ([]Record, error) {
	c := &change{state: s.state.Load().clone()}
	if err := c.apply(m); err != nil {
		return nil, err
	}
	if len(c.records) == 0 {
		return nil, nil
	}
	if _, enable := m.(*pb.AuthEnableRequest); !enable {
		c.revision++
		c.records = append(c.records, revisionRecord(c.revision))
	}
	// A token that Identify still finds has a revision from before this change: see there.
	if c.loseTokens != "" {
		s.tokens.drop(c.loseTokens)
	}
	s.state.Store(c.state)
	if !c.enabled {
		s.tokens.clear()
	}
	s.logger.With(c.about...).Info("users and roles changed",
		"request", m.ProtoReflect().Descriptor().Name(), "enabled", c.enabled, "auth-revision", c.revision)
	return c.records, nil
}

// change is a state on its way to the next one.
type change struct {
	*state
	records    []Record
	loseTokens string // the user whose tokens end
	about      []any  // for the log
}

func (c *change) apply(m proto.Message) error {
	switch r := m.(type) {
	case *pb.AuthEnableRequest:
		return c.enable()
	case *pb.AuthDisableRequest:
		return c.disable()
	case *pb.AuthUserAddRequest:
		return c.addUser(r)
	case *pb.AuthUserDeleteRequest:
		return c.deleteUser(r.Name)
	case *pb.AuthUserChangePasswordRequest:
		return c.changePassword(r)
	case *pb.AuthUserGrantRoleRequest:
		return c.grantRole(r.User, r.Role)
	case *pb.AuthUserRevokeRoleRequest:
		return c.revokeRole(r.Name, r.Role)
	case *pb.AuthRoleAddRequest:
		return c.addRole(r.Name)
	case *pb.AuthRoleDeleteRequest:
		return c.deleteRole(r.Role)
	case *pb.AuthRoleGrantPermissionRequest:
		return c.grantPermission(r.Name, r.Perm)
	case *pb.AuthRoleRevokePermissionRequest:
		return c.revokePermission(r.Role, r.Key, r.RangeEnd)
	}
	return fmt.Errorf("a %T does not change users or roles", m)
}

func (c *change) enable() error {
	switch u := c.users[root]; {
	case c.enabled:
		return nil
	case u == nil:
		return rpctypes.ErrGRPCRootUserNotExist
	case !u.isRoot:
		return rpctypes.ErrGRPCRootRoleNotExist
	}
	c.enabled = true
	c.records = append(c.records, enabledRecord(true))
	return nil
}

func (c *change) disable() error {
	if c.enabled {
		c.enabled = false
		c.records = append(c.records, enabledRecord(false))
	}
	return nil
}

func (c *change) addUser(r *pb.AuthUserAddRequest) error {
	switch {
	case r.Name == "":
		return rpctypes.ErrGRPCUserEmpty
	case len(r.Name) > maxNameBytes:
		return rpctypes.ErrGRPCInvalidAuthMgmt
	case c.users[r.Name] != nil:
		return rpctypes.ErrGRPCUserAlreadyExist
	}
	u := &authpb.User{Name: []byte(r.Name), Options: &authpb.UserAddOptions{NoPassword: r.Options.GetNoPassword()}}
	if !u.Options.NoPassword {
		var err error
		if u.Password, err = decodeHash(r.HashedPassword); err != nil {
			return err
		}
	}
	return c.putUser(u)
}

func (c *change) deleteUser(name string) error {
	if c.enabled && name == root {
		return rpctypes.ErrGRPCInvalidAuthMgmt
	}
	if c.users[name] == nil {
		return rpctypes.ErrGRPCUserNotFound
	}
	delete(c.users, name)
	c.records = append(c.records, Record{Kind: User, Key: []byte(name)})
	c.about = []any{"user", name}
	c.loseTokens = name
	return nil
}

// changePassword counts as a change of a user that is without a password, too, and leaves it so.
func (c *change) changePassword(r *pb.AuthUserChangePasswordRequest) error {
	u := c.users[r.Name]
	if u == nil {
		return rpctypes.ErrGRPCUserNotFound
	}
	next := copyUser(u.stored)
	next.Password = nil
	if !u.noPassword() {
		var err error
		if next.Password, err = decodeHash(r.HashedPassword); err != nil {
			return err
		}
	}
	c.loseTokens = r.Name
	return c.putUser(next)
}

func (c *change) grantRole(name, role string) error {
	u := c.users[name]
	if u == nil {
		return rpctypes.ErrGRPCUserNotFound
	}
	if role != root && c.roles[role] == nil {
		return rpctypes.ErrGRPCRoleNotFound
	}
	i, has := slices.BinarySearch(u.stored.Roles, role)
	if has {
		return nil
	}
	next := copyUser(u.stored)
	next.Roles = slices.Insert(next.Roles, i, role)
	return c.putUser(next)
}

func (c *change) revokeRole(name, role string) error {
	if c.enabled && name == root && role == root {
		return rpctypes.ErrGRPCInvalidAuthMgmt
	}
	u := c.users[name]
	if u == nil {
		return rpctypes.ErrGRPCUserNotFound
	}
	if !slices.Contains(u.stored.Roles, role) {
		return rpctypes.ErrGRPCRoleNotGranted
	}
	return c.putUser(withoutRole(u.stored, role))
}

func (c *change) addRole(name string) error {
	switch {
	case name == "":
		return rpctypes.ErrGRPCRoleEmpty
	case len(name) > maxNameBytes:
		return rpctypes.ErrGRPCInvalidAuthMgmt
	case c.roles[name] != nil:
		return rpctypes.ErrGRPCRoleAlreadyExist
	}
	return c.putRole(&authpb.Role{Name: []byte(name)})
}

// deleteRole takes the role from its users too.
func (c *change) deleteRole(name string) error {
	if c.enabled && name == root {
		return rpctypes.ErrGRPCInvalidAuthMgmt
	}
	if c.roles[name] == nil {
		return rpctypes.ErrGRPCRoleNotFound
	}
	delete(c.roles, name)
	c.records = append(c.records, Record{Kind: Role, Key: []byte(name)})
	for _, u := range c.usersOf(name) {
		if err := c.putUser(withoutRole(u.stored, name)); err != nil {
			return err
		}
	}
	c.about = []any{"role", name}
	return nil
}

// grantPermission changes the type of the permission that the role has on exactly this range, or else adds one after
// those on the same key.
func (c *change) grantPermission(name string, p *authpb.Permission) error {
	if p == nil {
		return rpctypes.ErrGRPCPermissionNotGiven
	}
	if keyset.IsEmpty(p.Key, p.RangeEnd) {
		return rpctypes.ErrGRPCInvalidAuthMgmt
	}
	role := c.roles[name]
	if role == nil {
		return rpctypes.ErrGRPCRoleNotFound
	}
	p = &authpb.Permission{PermType: p.PermType, Key: p.Key, RangeEnd: p.RangeEnd}
	next := &authpb.Role{Name: role.Name, KeyPermission: slices.Clone(role.KeyPermission)}
	if i := slices.IndexFunc(next.KeyPermission, func(q *authpb.Permission) bool { return isOn(q, p.Key, p.RangeEnd) }); i >= 0 {
		next.KeyPermission[i] = p
	} else {
		i := slices.IndexFunc(next.KeyPermission, func(q *authpb.Permission) bool { return bytes.Compare(q.Key, p.Key) > 0 })
		if i < 0 {
			i = len(next.KeyPermission)
		}
		next.KeyPermission = slices.Insert(next.KeyPermission, i, p)
	}
	return c.putRole(next)
}

func (c *change) revokePermission(name string, key, end []byte) error {
	role := c.roles[name]
	if role == nil {
		return rpctypes.ErrGRPCRoleNotFound
	}
	kept := slices.DeleteFunc(slices.Clone(role.KeyPermission), func(p *authpb.Permission) bool { return isOn(p, key, end) })
	if len(kept) == len(role.KeyPermission) {
		return rpctypes.ErrGRPCPermissionNotGranted
	}
	return c.putRole(&authpb.Role{Name: role.Name, KeyPermission: kept})
}

func isOn(p *authpb.Permission, key, end []byte) bool {
	return bytes.Equal(p.Key, key) && bytes.Equal(p.RangeEnd, end)
}

func (c *change) putUser(u *authpb.User) error {
	value, err := proto.Marshal(u)
	if err != nil {
		return fmt.Errorf("encode the user %q: %w", u.Name, err)
	}
	c.setUser(u)
	c.records = append(c.records, Record{Kind: User, Key: u.Name, Value: value})
	c.about = []any{"user", string(u.Name), "roles", u.Roles}
	return nil
}

func (c *change) putRole(r *authpb.Role) error {
	value, err := proto.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the role %q: %w", r.Name, err)
	}
	c.setRole(r)
	c.records = append(c.records, Record{Kind: Role, Key: r.Name, Value: value})
	c.about = []any{"role", string(r.Name), "permissions", len(r.KeyPermission)}
	return nil
}

func copyUser(u *authpb.User) *authpb.User {
	return &authpb.User{Name: u.Name, Password: u.Password, Roles: slices.Clone(u.Roles), Options: u.Options}
}

func withoutRole(u *authpb.User, role string) *authpb.User {
	next := copyUser(u)
	next.Roles = slices.DeleteFunc(next.Roles, func(r string) bool { return r == role })
	return next
}
