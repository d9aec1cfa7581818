package auth

import (
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"

	"weir/keyset"
)

// state is all users and roles at one revision. It never changes once a Store shows it, and neither does what it
// points to.
type state struct {
	enabled  bool
	revision uint64
	users    map[string]*user
	roles    map[string]*authpb.Role
	// before and next are those on both sides of a Replacement that has begun, and has not ended; else nil.
	before, next *state
}

// user is a user and what its roles come to.
type user struct {
	name   string
	stored *authpb.User // its roles are in order
	isRoot bool
	// keys returns what the user may read and write, root aside. The permissions are merged when it is first called: a
	// change to a role of very many users would hold up the applier otherwise, and most users are never seen here.
	keys func() (read, write keyset.Set)
}

// newUser returns a user whose roles are as they are in the state now.
func (st *state) newUser(stored *authpb.User) *user {
	roles := make([]*authpb.Role, len(stored.Roles))
	for i, name := range stored.Roles {
		roles[i] = st.roles[name] // nil for root, if it has not been added
	}
	return &user{
		name:   string(stored.Name),
		stored: stored,
		isRoot: slices.Contains(stored.Roles, root),
		keys:   sync.OnceValues(func() (read, write keyset.Set) { return mergeRoles(roles) }),
	}
}

func mergeRoles(roles []*authpb.Role) (read, write keyset.Set) {
	var all []*authpb.Permission
	for _, r := range roles {
		all = append(all, r.GetKeyPermission()...)
	}
	return keyset.Of(all, authpb.READ), keyset.Of(all, authpb.WRITE)
}

func (u *user) noPassword() bool { return u.stored.GetOptions().GetNoPassword() }

func (u *user) mayRead(key, end []byte) bool {
	if u.isRoot {
		return true
	}
	read, _ := u.keys()
	return read.Has(key, end)
}

func (u *user) mayWrite(key, end []byte) bool {
	if u.isRoot {
		return true
	}
	_, write := u.keys()
	return write.Has(key, end)
}

// setUser adds a user or replaces it.
func (st *state) setUser(stored *authpb.User) {
	u := st.newUser(stored)
	st.users[u.name] = u
}

// setRole adds a role or replaces it, for its users too.
func (st *state) setRole(r *authpb.Role) {
	st.roles[string(r.Name)] = r
	for _, u := range st.usersOf(string(r.Name)) {
		st.setUser(u.stored)
	}
}

// usersOf returns the users that have a role, in the order of their names.
func (st *state) usersOf(role string) []*user {
	var users []*user
	for _, u := range st.users {
		if slices.Contains(u.stored.Roles, role) {
			users = append(users, u)
		}
	}
	slices.SortFunc(users, func(a, b *user) int { return strings.Compare(a.name, b.name) })
	return users
}

// clone returns a copy that may be changed.
func (st *state) clone() *state {
	return &state{enabled: st.enabled, revision: st.revision, users: maps.Clone(st.users), roles: maps.Clone(st.roles)}
}

// Kind says which of etcd's buckets a record is in.
type Kind uint8

// The kinds of records.
const (
	Meta Kind = iota // auth: whether authentication is on, and the revision
	User             // authUsers: authpb.User by name
	Role             // authRoles: authpb.Role by name
)

// String returns the name of the bucket at etcd.
func (k Kind) String() string {
	switch k {
	case Meta:
		return "auth"
	case User:
		return "authUsers"
	case Role:
		return "authRoles"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Record is one key and value of etcd's buckets for authentication.
type Record struct {
	Kind       Kind
	Key, Value []byte // Value nil: the key is to be deleted
}

// The keys of Meta.
const (
	keyEnabled  = "authEnabled"  // one byte, 1 for on
	keyRevision = "authRevision" // 8 bytes big-endian
)

// loadState makes a state of all records, in any order. Without any it is off and at revision 1: etcd writes that
// when it makes a store, here it is what absence means.
func loadState(records iter.Seq[Record]) (*state, error) {
	st := &state{users: map[string]*user{}, roles: map[string]*authpb.Role{}}
	var users []*authpb.User // whose roles are known only at the end
	if records == nil {
		records = func(func(Record) bool) {}
	}
	for r := range records {
		if err := st.load(r, &users); err != nil {
			return nil, fmt.Errorf("read %q of the bucket %s: %w", r.Key, r.Kind, err)
		}
	}
	for _, u := range users {
		st.setUser(u)
	}
	st.revision = max(st.revision, 1)
	return st, nil
}

func (st *state) load(r Record, users *[]*authpb.User) error {
	switch r.Kind {
	case User:
		u := new(authpb.User)
		if err := proto.Unmarshal(r.Value, u); err != nil {
			return err
		}
		u.Name = r.Key
		*users = append(*users, u)
		return nil
	case Role:
		role := new(authpb.Role)
		if err := proto.Unmarshal(r.Value, role); err != nil {
			return err
		}
		role.Name = r.Key
		st.roles[string(r.Key)] = role
		return nil
	}
	switch string(r.Key) {
	case keyEnabled:
		st.enabled = len(r.Value) == 1 && r.Value[0] == 1
	case keyRevision:
		if len(r.Value) != 8 {
			return fmt.Errorf("%d bytes instead of 8", len(r.Value))
		}
		st.revision = binary.BigEndian.Uint64(r.Value)
	}
	return nil
}

func enabledRecord(enabled bool) Record {
	r := Record{Kind: Meta, Key: []byte(keyEnabled), Value: []byte{0}}
	if enabled {
		r.Value[0] = 1
	}
	return r
}

func revisionRecord(revision uint64) Record {
	return Record{Kind: Meta, Key: []byte(keyRevision), Value: binary.BigEndian.AppendUint64(nil, revision)}
}
