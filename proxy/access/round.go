package access

import (
	"context"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	// maxReads bounds the users and roles that are read in one round for whoever asks; each read is a write to etcd's log.
	maxReads = 512
	// maxWatched bounds the users with open watches that are read in one round besides. Those of further ones end.
	maxWatched = 4096
	// readsPerWatched is what one of them may take: themselves and a role of their own, twice if something changes meanwhile.
	readsPerWatched = 4
	// maxTries is how often a round reads again because something has changed meanwhile.
	maxTries = 3
	// maxUsers and maxUserBytes bound a policy. One that is full is begun anew.
	maxUsers     = 20_000
	maxUserBytes = 64 << 20
)

// refresh is one round.
func (r *roster) refresh(ctx context.Context) error {
	st, err := r.askStatus(ctx)
	if err != nil {
		return err
	}
	wanted, left := r.takeWanted()
	for try := 1; ; try++ {
		p := r.following(st)
		r.publish(p) // what was known before counts no more, whether or not it can be read anew
		names := r.missing(p, wanted)
		if p.settled && len(names) == 0 {
			return nil
		}
		next, err := r.read(ctx, p, names, &left)
		if err != nil {
			return err
		}
		// Who has been permitted to watch meanwhile was so by what was known before, and nobody is to come again for nothing.
		if late := r.missing(next, nil); len(late) > 0 && len(names) < maxWatched {
			if next, err = r.read(ctx, next, late, &left); err != nil {
				return err
			}
		}
		again, err := r.askStatus(ctx)
		switch {
		case err != nil:
			return err
		case again.sameAs(st):
			next.status = again
			r.publish(next)
			return nil
		case try == maxTries:
			r.publish(r.following(again))
			return nil // those who wait see that it is not enough
		}
		st = again
	}
}

// following is the policy after the present one: the same, if nothing has changed, else one that knows nobody.
func (r *roster) following(st authStatus) *policy {
	was := r.policy()
	if was != nil && st.sameAs(was.status) {
		return &policy{generation: was.generation, status: st, settled: was.settled, own: was.own, users: was.users}
	}
	g := &generation{enabled: st.enabled, revision: st.revision, begun: st.sent}
	if was != nil {
		g.number = was.number + 1
	}
	r.roles = map[string]*role{}
	return &policy{generation: g, status: st, settled: !st.enabled}
}

// missing returns the users that p should know and does not, first those who have open watches.
func (r *roster) missing(p *policy, wanted []string) (names []string) {
	if !p.enabled || p.own == someRights {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.watchers.names {
		if p.users[name] == nil && len(names) < maxWatched {
			names = append(names, name)
		}
	}
	for name := range r.earlier.names {
		if p.users[name] == nil && !r.watchers.has(name) && len(names) < maxWatched {
			names = append(names, name)
		}
	}
	for _, name := range wanted {
		if p.users[name] == nil && !r.hasWatches(name) {
			names = append(names, name)
		}
	}
	return names
}

// read returns p with users added. left is how many reads it may take.
func (r *roster) read(ctx context.Context, p *policy, names []string, left *int) (*policy, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	next := *p
	next.settled = true
	if !p.settled {
		switch changed, err := r.roleChanged(ctx, p, names, left); {
		case err != nil:
			return nil, err
		case changed:
			next.own, next.users = rootRights, r.rejoined()
			names = without(names, next.users)
		}
	}
	if next.own == unknownRights {
		*left--
		own, err := r.readOwn(ctx)
		if err != nil {
			return nil, err
		}
		next.own = someRights
		if !own.root {
			return &next, nil
		}
		next.own = rootRights
	}
	roles, err := r.readUsers(ctx, names, left)
	if says(err, rpctypes.ErrGRPCPermissionDenied) { // its role has just been taken away
		next.own = someRights
		return &next, nil
	}
	if err != nil {
		return nil, err
	}
	if err := r.readRoles(ctx, rolesOf(roles), left); err != nil {
		return nil, err
	}
	next.users = r.with(next.users, roles)
	return &next, nil
}

// roleChanged tells whether the only thing that has changed since the last settled policy is the permissions of one role: then
// everybody has the roles they had. It is the change that is made most, and there are fewer roles than users.
func (r *roster) roleChanged(ctx context.Context, p *policy, names []string, left *int) (bool, error) {
	if r.last == nil || r.last.own != rootRights || !r.last.status.precedes(p.status) {
		return false, nil
	}
	var known []string
	for _, name := range names {
		if u := r.last.users[name]; u != nil {
			known = append(known, u.roles...)
		}
	}
	if len(r.lastRoles) <= len(names) {
		known = slices.AppendSeq(known, maps.Keys(r.lastRoles))
	}
	err := r.readRoles(ctx, known, left)
	if says(err, rpctypes.ErrGRPCPermissionDenied) { // the proxy has no longer the role root
		return false, nil
	}
	if err != nil {
		return false, err
	}
	changed := 0
	for name, now := range r.roles {
		was := r.lastRoles[name]
		if was != nil && !was.absent && !now.absent && !now.sameAs(was) {
			changed++
		}
	}
	return changed == 1, nil
}

// rejoined are the users of the last settled policy with their roles' present permissions.
func (r *roster) rejoined() map[string]*user {
	all := make(map[string][]string, len(r.last.users))
	for name, u := range r.last.users {
		if !u.absent {
			all[name] = append([]string{}, u.roles...) // not nil
		}
	}
	return r.with(nil, all)
}

// without returns those names that are not of users.
func without(names []string, users map[string]*user) (others []string) {
	for _, name := range names {
		if users[name] == nil {
			others = append(others, name)
		}
	}
	return others
}

// with returns the users together with more, as far as all their roles have been read.
func (r *roster) with(users map[string]*user, more map[string][]string) map[string]*user {
	all := make(map[string]*user, len(users)+len(more))
	bytes := 0
	for name, roles := range more {
		if u := r.userOf(roles); u != nil && bytes < maxUserBytes {
			all[name] = u
			bytes += len(name) + u.bytes
		}
	}
	for name, u := range users {
		bytes += len(name) + u.bytes
		if all[name] == nil && len(all) < maxUsers && bytes < maxUserBytes {
			all[name] = u
		}
	}
	return all
}

// userOf makes a user of roles; nil roles are of one that does not exist.
func (r *roster) userOf(roles []string) *user {
	if roles == nil {
		return &user{absent: true, bytes: 256}
	}
	var permissions []*authpb.Permission
	for _, name := range roles {
		if name == rootRole {
			continue
		}
		known := r.roles[name]
		if known == nil {
			return nil
		}
		permissions = append(permissions, known.permissions...)
	}
	return newUser(roles, permissions)
}
