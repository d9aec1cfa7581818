package access

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"weir/internal/bubble"

	"go.etcd.io/etcd/api/v3/authpb"
)

// chance changes users and roles at random, each time as one change of etcd's does.
type chance struct {
	*cluster
	*rand.Rand
}

var (
	someUsers = []string{"alice", "bob", "carol", "dave"}
	someRoles = []string{"a", "b", "c"}
	threeKeys = []string{"k1", "k2", "k3"}
)

func anyOf[V any](r *rand.Rand, all []V) V { return all[r.IntN(len(all))] }

// changeOnce makes a change, if the one that was chosen is possible.
func (c chance) changeOnce() {
	c.mu.Lock()
	defer c.mu.Unlock()
	user, role, key := anyOf(c.Rand, someUsers), anyOf(c.Rand, someRoles), anyOf(c.Rand, threeKeys)
	u, hasRole := c.users[user], c.roles[role] != nil
	switch kind := c.IntN(7); {
	case kind == 0 && u == nil:
		c.users[user] = &fakeUser{}
	case kind == 1 && u != nil && c.IntN(3) == 0:
		delete(c.users, user)
	case kind == 2 && u != nil && hasRole && !slices.Contains(u.roles, role):
		c.users[user] = &fakeUser{roles: slices.Concat(u.roles, []string{role})}
	case kind == 3 && u != nil && slices.Contains(u.roles, role):
		c.users[user] = &fakeUser{roles: slices.DeleteFunc(slices.Clone(u.roles), func(r string) bool { return r == role })}
	case kind == 4 && !hasRole:
		c.roles[role] = []*authpb.Permission{}
	case kind == 4 && c.IntN(3) == 0:
		delete(c.roles, role)
		for name, u := range c.users {
			c.users[name] = &fakeUser{password: u.password, roles: slices.DeleteFunc(slices.Clone(u.roles), func(r string) bool { return r == role })}
		}
	case kind == 5 && hasRole:
		c.roles[role] = append(exceptFor(c.roles[role], key), permission(anyOf(c.Rand, []authpb.Permission_Type{authpb.READ, authpb.WRITE}), key, ""))
	case kind == 6 && hasRole:
		c.roles[role] = exceptFor(c.roles[role], key)
	default:
		return
	}
	c.revision++
}

func exceptFor(all []*authpb.Permission, key string) []*authpb.Permission {
	return slices.DeleteFunc(slices.Clone(all), func(p *authpb.Permission) bool { return string(p.Key) == key })
}

// However users and roles change, a second later everybody may read what upstream lets them, and watches nothing else.
func TestWhatUsersMayDoIsWhatUpstreamSays(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	byRole := 0
	for run := range uint64(20) {
		bubble.Test(t, func(t *testing.T) {
			c := chance{newGuardedCluster(nil), rand.New(rand.NewPCG(seed, run))}
			c.roles["a"], c.roles["b"] = []*authpb.Permission{}, []*authpb.Permission{permission(authpb.READ, "k1", "")}
			c.users["alice"], c.users["bob"] = &fakeUser{roles: []string{"a", "b"}}, &fakeUser{roles: []string{"b"}}
			s := newWatchScene(t, c.cluster, "root")
			type watch struct{ user, key string }
			open := map[watch]*watcher{}
			for range 100 {
				for range anyOf(c.Rand, []int{0, 1, 1, 1, 2, 3, 8}) {
					c.changeOnce()
				}
				users := s.count("UserGet")
				changes := s.guard.Status().Changes
				pass()
				if s.guard.Status().Changes > changes && s.count("UserGet") == users {
					byRole++
				}
				s.forgetAll()
				for _, user := range someUsers {
					for _, key := range threeKeys {
						may := c.may(user, false, key, "")
						w := open[watch{user, key}]
						switch {
						case w != nil && w.ended() == nil && !may:
							t.Fatalf("run %d: %s goes on to watch %s", run, user, key)
						case w != nil && w.ended() != nil && may:
							t.Fatalf("run %d: the watch of %s by %s has ended: %v", run, key, user, w.ended())
						}
						name, err := s.guard.PermitWatch(withCertificateIn(t.Context(), user), []byte(key), nil)
						if (err == nil) != may {
							t.Fatalf("run %d: %s may watch %s: %v, error %v", run, user, key, may, err)
						}
						delete(open, watch{user, key})
						if may {
							w = &watcher{guard: s.guard, user: name, key: key}
							open[watch{user, key}] = w
							s.add(w)
						}
					}
				}
			}
		})
	}
	if byRole == 0 {
		t.Error("no change was found to be one of a role alone")
	}

}
