package identities

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const rootUser, rootPassword = "root", "root's password"

// root is the administrator, at a member and past the proxies, who changes the rights and writes. Only one goroutine may
// change rights; all else may be called concurrently.
type root struct {
	*site
	kv     pb.KVClient
	auth   pb.AuthClient
	lease  pb.LeaseClient
	watch  pb.WatchClient
	ledger *ledger
	newest *atomic.Int64 // revision that any client was told of

	mu     sync.Mutex // guards what follows
	token  string
	writes []write
}

// write is when something was written.
type write struct {
	rev  int64
	sent time.Duration
}

// newRoot is root at a member whose authentication has never been on.
func newRoot(s *site, conn *grpc.ClientConn, signed bool) *root {
	r := &root{
		site: s, kv: pb.NewKVClient(conn), auth: pb.NewAuthClient(conn), lease: pb.NewLeaseClient(conn), watch: pb.NewWatchClient(conn),
		ledger: &ledger{}, newest: &atomic.Int64{},
	}
	none := &rights{signed: signed, issues: map[string]int{}, users: map[string]user{}, roles: map[string][]permission{}}
	r.ledger.changed("nothing yet", 0, 0, none)
	r.addUser(rootUser, rootPassword)
	r.addRole(rootRole)
	r.grantRole(rootUser, rootRole)
	return r
}

// as calls with root's token, and gets one first if it is needed.
func (r *root) as(call func(context.Context) error) error {
	for {
		r.mu.Lock()
		ctx, token := r.Ctx, r.token
		r.mu.Unlock()
		if token != "" {
			ctx = withToken(ctx, token)
		}
		err := call(ctx)
		if !isAnyOf(err, rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision) {
			return err
		}
		token, err = r.login(rootUser, rootPassword)
		if err != nil {
			return err
		}
		r.mu.Lock()
		r.token = token
		r.mu.Unlock()
	}
}

// login is a new token for a user, given by the member; none while authentication is off.
func (r *root) login(name, password string) (string, error) {
	resp, err := r.auth.Authenticate(r.Ctx, &pb.AuthenticateRequest{Name: name, Password: password})
	if isAnyOf(err, rpctypes.ErrGRPCAuthNotEnabled) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("log in as %s: %w", name, err)
	}
	return resp.Token, nil
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "token", token)
}

// isAnyOf compares as clients do, by code and text.
func isAnyOf(err error, of ...error) bool {
	got := status.Convert(err)
	return err != nil && slices.ContainsFunc(of, func(e error) bool {
		want := status.Convert(e)
		return got.Code() == want.Code() && got.Message() == want.Message()
	})
}

// put writes one pair and returns its revision.
func (r *root) put(key, value string, lease int64) (rev int64, err error) {
	err = r.as(func(ctx context.Context) error {
		sent := r.now()
		resp, err := r.kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease})
		if err != nil {
			return err
		}
		rev = resp.Header.Revision
		r.wrote(rev, sent)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("put %q as root: %w", key, err)
	}
	return rev, nil
}

// wrote records when the write of a revision was sent.
func (r *root) wrote(rev int64, sent time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes = append(r.writes, write{rev, sent})
	told(r.newest, rev)
}

// history is that of the store until a revision.
func (r *root) history(last int64) (h *history) {
	r.Helper()
	r.Must(r.as(func(ctx context.Context) (err error) {
		h, err = readHistory(ctx, r.watch, last)
		return err
	}))
	return h
}

// told makes a revision known.
func told(newest *atomic.Int64, rev int64) {
	for {
		n := newest.Load()
		if n >= rev || newest.CompareAndSwap(n, rev) {
			return
		}
	}
}

// change sends a change of rights, which must work, and records what they are then.
func (r *root) change(what string, call func(context.Context) error, apply func(now *rights)) {
	next := r.ledger.now().clone()
	next.revision++
	apply(next)
	asked := r.now()
	if err := r.as(call); err != nil {
		r.Fatalf("%s: %v", what, err)
	}
	r.ledger.changed(what, asked, r.now(), next)
}

func (r *root) enable() {
	r.change("switch authentication on", func(ctx context.Context) error {
		_, err := r.auth.AuthEnable(ctx, &pb.AuthEnableRequest{})
		return err
	}, func(now *rights) { now.enabled = true })
}

func (r *root) disable() {
	r.change("switch authentication off", func(ctx context.Context) error {
		_, err := r.auth.AuthDisable(ctx, &pb.AuthDisableRequest{})
		return err
	}, func(now *rights) {
		now.enabled = false
		for name := range now.issues {
			now.issues[name]++
		}
	})
}

func (r *root) addUser(name, password string) {
	r.change("add user "+name, func(ctx context.Context) error {
		_, err := r.auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: name, Password: password})
		return err
	}, func(now *rights) {
		now.users[name] = user{password: password}
		now.issues[name]++
	})
}

func (r *root) deleteUser(name string) {
	r.change("delete user "+name, func(ctx context.Context) error {
		_, err := r.auth.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: name})
		return err
	}, func(now *rights) {
		delete(now.users, name)
		now.issues[name]++
	})
}

func (r *root) setPassword(name, password string) {
	r.change("change the password of "+name, func(ctx context.Context) error {
		_, err := r.auth.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: name, Password: password})
		return err
	}, func(now *rights) {
		now.users[name] = user{password, now.users[name].roles}
		now.issues[name]++
	})
}

func (r *root) grantRole(name, role string) {
	r.change(fmt.Sprintf("grant role %s to %s", role, name), func(ctx context.Context) error {
		_, err := r.auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: name, Role: role})
		return err
	}, func(now *rights) {
		u := now.users[name]
		now.users[name] = user{u.password, append(slices.Clone(u.roles), role)}
	})
}

func (r *root) revokeRole(name, role string) {
	r.change(fmt.Sprintf("revoke role %s of %s", role, name), func(ctx context.Context) error {
		_, err := r.auth.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: name, Role: role})
		return err
	}, func(now *rights) { now.users[name] = now.users[name].without(role) })
}

func (u user) without(role string) user {
	return user{u.password, slices.DeleteFunc(slices.Clone(u.roles), func(r string) bool { return r == role })}
}

func (r *root) addRole(role string) {
	r.change("add role "+role, func(ctx context.Context) error {
		_, err := r.auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: role})
		return err
	}, func(now *rights) { now.roles[role] = nil })
}

func (r *root) deleteRole(role string) {
	r.change("delete role "+role, func(ctx context.Context) error {
		_, err := r.auth.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: role})
		return err
	}, func(now *rights) {
		delete(now.roles, role)
		for name, u := range now.users {
			now.users[name] = u.without(role)
		}
	})
}

// grant gives a role a permission, which replaces one on the same range.
func (r *root) grant(role string, p permission) {
	r.change(fmt.Sprintf("grant %v to role %s", p, role), func(ctx context.Context) error {
		perm := &authpb.Permission{Key: []byte(p.key), RangeEnd: []byte(p.end), PermType: p.kind}
		_, err := r.auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: perm})
		return err
	}, func(now *rights) { now.roles[role] = append(without(now.roles[role], p), p) })
}

func (r *root) revoke(role string, p permission) {
	r.change(fmt.Sprintf("revoke %v of role %s", p, role), func(ctx context.Context) error {
		_, err := r.auth.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: role, Key: []byte(p.key), RangeEnd: []byte(p.end)})
		return err
	}, func(now *rights) { now.roles[role] = without(now.roles[role], p) })
}

// without are the permissions but for those on the range of one.
func without(all []permission, p permission) []permission {
	return slices.DeleteFunc(slices.Clone(all), func(q permission) bool { return q.key == p.key && q.end == p.end })
}
