package identities

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// rights are who may what at one time. Nobody changes them: a change makes others.
//
// They say by etcd's rules which answers are possible, from the permissions themselves. What they are to judge, a proxy's or
// a core's way to the same, has caches and merged ranges; this has neither.
type rights struct {
	enabled  bool
	signed   bool           // tokens are signed, and state the revision of users and roles at which they were made
	revision int            // of users and roles
	issues   map[string]int // by user: counts what made the tokens void that there were
	users    map[string]user
	roles    map[string][]permission
}

type user struct {
	password string
	roles    []string
}

// permission is one on a range of keys, or on one key if end is empty. infinite is the end of a range without end.
type permission struct {
	key, end string
	kind     authpb.Permission_Type
}

// infinite is how etcd's API writes the end of a range that has none.
const infinite = "\x00"

// rootRole may everything.
const rootRole = "root"

// need is what a request needs to be permitted.
type need struct {
	key, end string
	write    bool
}

// identity is whom a request shows. nil is nobody.
type identity struct {
	user  string
	token string

	isMadeUp     bool
	asked, given time.Duration // when the token was
	// issues are those of which the token can be, of which there is more than one if something changed while it was asked
	// for. They are known when all changes are.
	issues []int
}

func (id *identity) String() string {
	switch {
	case id == nil:
		return "nobody"
	case id.isMadeUp:
		return "a liar"
	}
	return fmt.Sprintf("%s with a token of issue %v given at %v", id.user, id.issues, id.given)
}

// clone is for a change.
func (r *rights) clone() *rights {
	c := *r
	c.issues, c.users, c.roles = maps.Clone(r.issues), maps.Clone(r.users), maps.Clone(r.roles)
	return &c
}

// issue is which tokens of a user are good.
func (r *rights) issue(user string) int {
	if r.signed {
		return r.revision
	}
	return r.issues[user]
}

// answers are what etcd can answer to a request, as an error; nil is what was asked for.
func (r *rights) answers(id *identity, needs []need) (all []error) {
	if !r.enabled {
		return []error{nil}
	}
	if id == nil {
		return []error{rpctypes.ErrGRPCUserEmpty}
	}
	now := r.issue(id.user)
	if slices.Contains(id.issues, now) {
		all = append(all, r.permit(id.user, needs))
	}
	void := func(issue int) bool { return issue != now }
	switch {
	case id.isMadeUp:
		all = append(all, rpctypes.ErrGRPCInvalidAuthToken)
	case !slices.ContainsFunc(id.issues, void):
	case !r.signed:
		all = append(all, rpctypes.ErrGRPCInvalidAuthToken)
	case len(needs) == 0:
		all = append(all, nil) // only where permissions are looked up it matters how old a signed token is
	default:
		all = append(all, rpctypes.ErrGRPCAuthOldRevision)
	}
	return all
}

// has tells whether there is a user.
func (r *rights) has(name string) bool {
	_, ok := r.users[name]
	return ok
}

// permit refuses a user who may not all that is needed.
func (r *rights) permit(name string, needs []need) error {
	if len(needs) == 0 {
		return nil
	}
	u, ok := r.users[name]
	if !ok {
		return rpctypes.ErrGRPCPermissionDenied
	}
	if slices.Contains(u.roles, rootRole) {
		return nil
	}
	for _, n := range needs {
		var of []permission
		for _, role := range u.roles {
			for _, p := range r.roles[role] {
				if p.allows(n.write) {
					of = append(of, p)
				}
			}
		}
		if !cover(of, n.key, n.end) {
			return rpctypes.ErrGRPCPermissionDenied
		}
	}
	return nil
}

func (p permission) allows(write bool) bool {
	return p.kind == authpb.READWRITE || write == (p.kind == authpb.WRITE)
}

func (p permission) contains(key string) bool {
	if p.end == "" {
		return key == p.key
	}
	return key >= p.key && (p.end == infinite || key < p.end)
}

// cover tells whether each key of a range is in one of the permissions. Between two neighbours of all their bounds keys are
// all alike, so that one of each such stretch is looked at: its first.
func cover(of []permission, key, end string) bool {
	firsts := []string{key}
	if end != "" {
		for _, p := range of {
			ends := p.end
			if ends == "" {
				ends = p.key + "\x00"
			}
			for _, bound := range []string{p.key, ends} {
				if bound != infinite && bound > key && (end == infinite || bound < end) {
					firsts = append(firsts, bound)
				}
			}
		}
	}
	for _, first := range firsts {
		if !slices.ContainsFunc(of, func(p permission) bool { return p.contains(first) }) {
			return false
		}
	}
	return true
}
