package access

import (
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/keyset"
)

// policy is what upstream lets users do, as far as the proxy has had to know, in one generation. It is immutable: a newer
// one replaces it.
//
// It decides with the errors of etcd, which are those of its auth store (server/auth/store.go).
type policy struct {
	*generation
	status authStatus // that has shown it last
	// settled: the users with open watches have been read in this generation. Before that nobody is known, and nothing else counts.
	settled bool
	own     ownRights // of no meaning while authentication is off
	users   map[string]*user
}

// generation is a time in which no user and no role has changed: the auth revision counts changes, and to turn authentication
// off is one.
type generation struct {
	number   uint64 // they are counted
	enabled  bool
	revision uint64
	begun    time.Duration // when the AuthStatus that has shown it first was sent
	shown    atomic.Int64  // when the newest AuthStatus that has shown it was sent, a time.Duration
}

// ownRights is what the own identity may do.
type ownRights int

const (
	unknownRights ownRights = iota
	someRights              // not those of root
	rootRights              // which see the users and roles of everybody
)

// user is one user, or that there is none of this name.
type user struct {
	absent      bool
	root        bool
	roles       []string
	read, write keyset.Set
	bytes       int // of memory, about
}

// rootRole is the role that may do everything.
const rootRole = "root"

// newUser makes a user of the permissions of all its roles together.
func newUser(roles []string, permissions []*authpb.Permission) *user {
	u := &user{
		root:  slices.Contains(roles, rootRole),
		roles: roles,
		read:  keyset.Of(permissions, authpb.READ),
		write: keyset.Of(permissions, authpb.WRITE),
	}
	u.bytes = 256 + u.read.Size() + u.write.Size()
	for _, r := range roles {
		u.bytes += 16 + len(r)
	}
	return u
}

// subject is who is judged: a user by name, of whom it is not known whether there is one, or nobody.
type subject struct {
	name  string
	known bool
}

// permitKnown refuses nobody.
func (p *policy) permitKnown(s subject) error {
	if p.enabled && !s.known {
		return rpctypes.ErrGRPCUserEmpty
	}
	return nil
}

// permitAdmin refuses who has not the role root.
func (p *policy) permitAdmin(s subject) error {
	if !p.enabled {
		return nil
	}
	if s.name == "" {
		return rpctypes.ErrGRPCUserEmpty
	}
	switch u := p.users[s.name]; {
	case u == nil || u.absent:
		return rpctypes.ErrGRPCUserNotFound
	case !u.root:
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

// permitRead refuses who may not read all of a range.
func (p *policy) permitRead(s subject, key, end []byte) error {
	return p.permitKeys(s, func(u *user) bool { return u.read.Has(key, end) })
}

// permitWrite refuses who may not write all of a range.
func (p *policy) permitWrite(s subject, key, end []byte) error {
	return p.permitKeys(s, func(u *user) bool { return u.write.Has(key, end) })
}

func (p *policy) permitKeys(s subject, may func(*user) bool) error {
	if err := p.permitKnown(s); err != nil || !p.enabled {
		return err
	}
	if u := p.users[s.name]; u == nil || u.absent || !u.root && !may(u) {
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

// hasRole tells whether there is such a user and has the role.
func (p *policy) hasRole(s subject, role string) bool {
	u := p.users[s.name]
	return u != nil && slices.Contains(u.roles, role)
}

// knows tells whether the policy can decide about s.
func (p *policy) knows(s subject) bool {
	switch {
	case !p.enabled || p.own == someRights:
		return true
	case p.own == unknownRights:
		return false
	}
	return s.name == "" || p.users[s.name] != nil
}
