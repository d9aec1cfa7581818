package identities

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
)

// Few users, roles and ranges, so that what one may the other may not, or only in part.
var (
	userNames = []string{"alice", "bob", "carol"}
	roleNames = []string{"r1", "r2", "r3"}
	// Permissions overlap. Of a key there is one only: of two etcd would not always find the one that is to be replaced.
	permissions = []permission{
		{key: "/a/", end: "/a0"}, {key: "/a/5", end: "/b/5"}, {key: "/b/", end: "/b0"}, {key: "/a/3"}, {key: "/b/7", end: infinite},
		{key: "/c/", end: "/c0"},
	}
	kinds = []authpb.Permission_Type{authpb.READ, authpb.READ, authpb.READWRITE, authpb.READWRITE, authpb.WRITE}
)

// changes are those of rights, at random.
type changes struct {
	*root
	rng       *rand.Rand
	proxyRole string // of the user that the proxies are; "" if they are nobody
	made      int
	password  int // number of the last
}

// proxyUser is whom proxies with an identity of their own log in as.
const proxyUser, proxyPassword = "proxy", "the proxy's password"

// prepare makes users, of which each may something.
func (c *changes) prepare() {
	for i, name := range userNames {
		c.addUser(name, c.newPassword())
		c.addRole(roleNames[i])
		for range 4 {
			c.grant(roleNames[i], c.permission())
		}
		c.grantRole(name, roleNames[i])
		if i > 0 {
			c.grantRole(name, roleNames[i-1])
		}
	}
	c.addProxyUser()
}

func (c *changes) addProxyUser() {
	if c.proxyRole == "" {
		return
	}
	c.addUser(proxyUser, proxyPassword)
	if c.proxyRole != rootRole {
		c.addRole(c.proxyRole)
		c.grant(c.proxyRole, permission{"\x00", infinite, authpb.READ})
	}
	c.grantRole(proxyUser, c.proxyRole)
}

func (c *changes) permission() permission {
	p := pick(c.rng, permissions)
	p.kind = pick(c.rng, kinds)
	return p
}

func (c *changes) newPassword() string {
	c.password++
	return fmt.Sprintf("password %d", c.password)
}

// round changes rights a few times, then leaves them as they are for longer than anybody may remember what they were, and now and
// then for longer than it may take until that is noticed.
func (c *changes) round(ctx context.Context) {
	for range 1 + c.rng.IntN(6) {
		if !pause(ctx, time.Duration(c.rng.IntN(300))*time.Millisecond) {
			return
		}
		c.step()
		c.made++
	}
	rest := longPast + time.Duration(500+c.rng.IntN(1500))*time.Millisecond
	if c.rng.IntN(3) == 0 {
		rest += slack
	}
	pause(ctx, rest)
}

// pause is between the steps of a load. It tells whether the load goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func pick[T any](rng *rand.Rand, of []T) T { return of[rng.IntN(len(of))] }

// step makes one change. What was deleted comes back soon.
func (c *changes) step() {
	now, name, role := c.ledger.now(), pick(c.rng, userNames), pick(c.rng, roleNames)
	u, isUser := now.users[name]
	granted, isRole := now.roles[role]
	n := c.rng.IntN(100)
	switch {
	case !now.enabled:
		c.enable()
	case !isUser:
		c.addUser(name, c.newPassword())
	case !isRole:
		c.addRole(role)
	case c.proxyRole != "" && !slices.Contains(now.users[proxyUser].roles, c.proxyRole) && n < 50:
		c.grantRole(proxyUser, c.proxyRole)
	case n < 36:
		c.grant(role, c.permission())
	case n < 56:
		if len(granted) > 0 {
			c.revoke(role, pick(c.rng, granted))
		}
	case n < 74:
		c.toggle(u, name, role)
	case n < 78 && !now.signed: // a signed token may serve an administrator for longer than others
		c.toggle(u, name, rootRole)
	case n < 82:
		c.setPassword(name, c.newPassword())
	case n < 85:
		c.deleteUser(name)
	case n < 88:
		c.deleteRole(role)
	case n < 94:
		c.disable()
	case c.proxyRole != "":
		c.disturbProxy(now)
	}
}

// toggle gives a user a role or takes it away.
func (c *changes) toggle(u user, name, role string) {
	if slices.Contains(u.roles, role) {
		c.revokeRole(name, role)
	} else {
		c.grantRole(name, role)
	}
}

// disturbProxy takes away the proxies' token, or their rights.
func (c *changes) disturbProxy(now *rights) {
	if slices.Contains(now.users[proxyUser].roles, c.proxyRole) && c.rng.IntN(2) == 0 {
		c.revokeRole(proxyUser, c.proxyRole)
	} else {
		c.setPassword(proxyUser, proxyPassword)
	}
}
