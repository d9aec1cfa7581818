package access

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// readers is how many users or roles are read at a time. etcd commits requests that come together in one go: so many take hardly
// longer than one, and 2,000 users a fifth of a second.
const readers = 64

// role is the permissions of a role.
type role struct {
	absent      bool // there is none of this name
	permissions []*authpb.Permission
}

// sameAs tells whether both permit the same, in whatever order.
func (o *role) sameAs(other *role) bool {
	type permission struct {
		key, end string
		kind     authpb.Permission_Type
	}
	setOf := func(all []*authpb.Permission) map[permission]struct{} {
		set := make(map[permission]struct{}, len(all))
		for _, p := range all {
			set[permission{string(p.Key), string(p.RangeEnd), p.PermType}] = struct{}{}
		}
		return set
	}
	return maps.Equal(setOf(o.permissions), setOf(other.permissions))
}

// authStatus is an answer to AuthStatus.
type authStatus struct {
	enabled  bool
	revision uint64
	header   *pb.ResponseHeader
	sent     time.Duration
}

// sameAs tells whether nothing has changed from was to st, which came later. The store and the term of one cluster never go
// back: if they do it has been restored from a backup, and the auth revision says nothing.
func (st authStatus) sameAs(was authStatus) bool {
	return st.enabled == was.enabled && st.revision == was.revision &&
		st.header.GetClusterId() == was.header.GetClusterId() &&
		st.header.GetRevision() >= was.header.GetRevision() && st.header.GetRaftTerm() >= was.header.GetRaftTerm()
}

// precedes tells whether a single change has been made from st to next, which came later.
func (st authStatus) precedes(next authStatus) bool {
	st.revision++
	return st.enabled && next.sameAs(st)
}

// askStatus does not wait for an answer that would not count any more.
func (r *roster) askStatus(ctx context.Context) (authStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, maxAge)
	defer cancel()
	st := authStatus{sent: r.clock.now()}
	r.pace.took(st.sent)
	r.stats.statuses.Add(1)
	raw, err := r.status(ctx, pb.Auth_AuthStatus_FullMethodName, nil)
	if err != nil {
		return st, fmt.Errorf("ask for the auth revision: %w", err)
	}
	var resp pb.AuthStatusResponse
	if err := proto.Unmarshal(raw, &resp); err != nil {
		return st, fmt.Errorf("decode the auth status: %w", err)
	}
	st.enabled, st.revision, st.header = resp.Enabled, resp.AuthRevision, resp.Header
	if st.enabled {
		r.off.Store(false)
	}
	return st, nil
}

// readOwn reads the proxy's own user, which everybody may do for themselves.
func (r *roster) readOwn(ctx context.Context) (*user, error) {
	roles, err := r.readUser(ctx, r.ownName)
	if isRejected(err) || isRefusal(err) && !isTokenRefused(err) {
		return &user{absent: true}, nil // whoever the proxy is for upstream, it is not somebody who sees everybody's roles
	}
	if err != nil {
		return nil, err
	}
	return newUser(roles, nil), nil
}

// readUsers returns the roles of users; nil for users that do not exist. Those for whom nothing is left are not in it.
func (r *roster) readUsers(ctx context.Context, names []string, left *int) (map[string][]string, error) {
	names = names[:min(len(names), max(0, *left))]
	*left -= len(names)
	all := make([][]string, len(names))
	err := concurrently(len(names), func(i int) error {
		roles, err := r.readUser(ctx, names[i])
		if says(err, rpctypes.ErrGRPCUserNotFound) {
			return nil
		}
		all[i] = slices.Concat([]string{}, roles) // not nil
		return err
	})
	if err != nil {
		return nil, err
	}
	users := make(map[string][]string, len(names))
	for i, name := range names {
		users[name] = all[i]
	}
	return users, nil
}

func (r *roster) readUser(ctx context.Context, name string) (roles []string, err error) {
	r.stats.users.Add(1)
	req, err := proto.Marshal(&pb.AuthUserGetRequest{Name: name})
	if err != nil {
		return nil, rpctypes.ErrGRPCUserNotFound // it is not UTF-8, and users' names are
	}
	raw, err := r.call(ctx, pb.Auth_UserGet_FullMethodName, req)
	if err != nil {
		return nil, fmt.Errorf("read a user: %w", err)
	}
	var resp pb.AuthUserGetResponse
	if err := proto.Unmarshal(raw, &resp); err != nil {
		return nil, fmt.Errorf("decode a user: %w", err)
	}
	return resp.Roles, nil
}

// rolesOf are the roles of users, some of them more than once.
func rolesOf(users map[string][]string) (names []string) {
	for _, roles := range users {
		names = append(names, roles...)
	}
	return names
}

// readRoles reads those roles that have not been read in this generation.
func (r *roster) readRoles(ctx context.Context, all []string, left *int) error {
	var names []string
	for _, name := range all {
		if name != rootRole && r.roles[name] == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	names = names[:min(len(names), max(0, *left))]
	*left -= len(names)
	read := make([]*role, len(names))
	err := concurrently(len(names), func(i int) (err error) {
		read[i], err = r.readRole(ctx, names[i])
		return err
	})
	if err != nil {
		return err
	}
	for i, name := range names {
		r.roles[name] = read[i]
	}
	return nil
}

func (r *roster) readRole(ctx context.Context, name string) (*role, error) {
	r.stats.roles.Add(1)
	req, err := proto.Marshal(&pb.AuthRoleGetRequest{Role: name})
	if err != nil {
		return nil, fmt.Errorf("encode a role: %w", err)
	}
	raw, err := r.call(ctx, pb.Auth_RoleGet_FullMethodName, req)
	if says(err, rpctypes.ErrGRPCRoleNotFound) {
		return &role{absent: true}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read a role: %w", err)
	}
	var resp pb.AuthRoleGetResponse
	if err := proto.Unmarshal(raw, &resp); err != nil {
		return nil, fmt.Errorf("decode a role: %w", err)
	}
	return &role{permissions: resp.Perm}, nil
}

// concurrently calls f for each of n, a few at a time, and returns one of the errors.
func concurrently(n int, f func(i int) error) error {
	var (
		group sync.WaitGroup
		slots = make(chan struct{}, readers)
		errs  = make([]error, n)
	)
	for i := range n {
		slots <- struct{}{}
		group.Go(func() {
			errs[i] = f(i)
			<-slots
		})
	}
	group.Wait()
	return errors.Join(errs...)
}
