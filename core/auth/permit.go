package auth

import (
	"cmp"
	"math"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// PermitRange refuses who may not read all of a range: key alone when end is empty, everything from key on when end is
// one zero byte, else key to end, end excluded. (A watch of "everything from key on" must be asked for like that too.)
// The permissions that cover the range may be several, of several roles. A range that holds nothing, because end is not
// above key, is permitted to who may read key.
//
// Nothing is refused while authentication is off. Errors: ErrGRPCUserEmpty for nobody, ErrGRPCAuthOldRevision for an
// identity from before the last change of users and roles, and for all while a Replacement has begun, ErrGRPCPermissionDenied for who is not a user any more and for
// who lacks a permission.
func (s *Store) PermitRange(id Identity, key, end []byte) error {
	return s.state.Load().permitRange(id, key, end)
}

func (st *state) permitRange(id Identity, key, end []byte) error {
	u, err := st.userOf(id)
	if u == nil || u.mayRead(key, end) {
		return err
	}
	return rpctypes.ErrGRPCPermissionDenied
}

// PermitUser permits a user to go on reading a range that PermitRange has permitted, whatever has become of the token or the revision
// since. "" is nobody, who may while authentication is off. Errors as of PermitRange, but for ErrGRPCAuthOldRevision.
func (s *Store) PermitUser(user string, key, end []byte) error {
	id := Identity{User: user, Revision: math.MaxUint64}
	if user == "" {
		id = Identity{}
	}
	st := s.state.Load()
	if !st.isBeingReplaced() {
		return st.permitRange(id, key, end)
	}
	return cmp.Or(st.before.permitRange(id, key, end), st.next.permitRange(id, key, end))
}

// PermitPut refuses who may not write key. Errors as of PermitRange.
func (s *Store) PermitPut(id Identity, key []byte) error { return s.PermitDelete(id, key, nil) }

// PermitDelete refuses who may not write all of a range. Range and errors as of PermitRange.
func (s *Store) PermitDelete(id Identity, key, end []byte) error {
	u, err := s.state.Load().userOf(id)
	if u == nil || u.mayWrite(key, end) {
		return err
	}
	return rpctypes.ErrGRPCPermissionDenied
}

// userOf returns the user whose permissions decide, or why nobody's can. It returns neither while authentication is off:
// everything is permitted then.
func (st *state) userOf(id Identity) (*user, error) {
	switch {
	case st.isBeingReplaced():
		return nil, rpctypes.ErrGRPCAuthOldRevision
	case !st.enabled:
		return nil, nil
	case id.Revision == 0:
		return nil, rpctypes.ErrGRPCUserEmpty
	case id.Revision < st.revision:
		return nil, rpctypes.ErrGRPCAuthOldRevision
	}
	u := st.users[id.User]
	if u == nil {
		return nil, rpctypes.ErrGRPCPermissionDenied
	}
	return u, nil
}

// Unchanged refuses, with ErrGRPCAuthOldRevision, what was permitted as of a revision when users or roles have changed since, or are being
// replaced: what is answered may be from after the change. 0 is of what was permitted while authentication was off; it may have been
// turned on.
func (s *Store) Unchanged(revision uint64) error {
	st := s.state.Load()
	if st.isBeingReplaced() || revision != 0 && revision != st.revision || revision == 0 && st.enabled {
		return rpctypes.ErrGRPCAuthOldRevision
	}
	return nil
}

// PermitAdmin refuses who does not have the role root. Like etcd it takes an identity from before the last change, so
// that an administrator can make several changes with one token; only what the user is now counts.
//
// Nothing is refused while authentication is off. Errors: ErrGRPCUserEmpty for nobody, ErrGRPCUserNotFound for who is not
// a user any more, ErrGRPCPermissionDenied, ErrGRPCAuthOldRevision while a Replacement has begun.
func (s *Store) PermitAdmin(id Identity) error {
	st := s.state.Load()
	if st.isBeingReplaced() {
		return rpctypes.ErrGRPCAuthOldRevision
	}
	if !st.enabled {
		return nil
	}
	if id.User == "" {
		return rpctypes.ErrGRPCUserEmpty
	}
	u := st.users[id.User]
	if u == nil {
		return rpctypes.ErrGRPCUserNotFound
	}
	if !u.isRoot {
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}
