package identities

import (
	"testing"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// as is whom proxies have as their own identity upstream, while that has authentication on.
type as string

// The identities of proxies.
const (
	asNobody as = ""
	asReader as = "everything" // a role that may read every key
	asRoot   as = rootRole
)

// promises are for how long, and where, what is given may be behind the rights.
type promises struct {
	// A read may be answered by rights that there were as long before it was sent: 0 is none.
	afterEnable time.Duration // if authentication was off then
	afterRevoke time.Duration // if it was on
	// Whether a watch ends when its user loses the right to its range; and whether it may be cancelled then, or when
	// authentication is switched on.
	endsAtRevoke, cancels bool
	// Whether the members are cores. They end watches by themselves, also while the proxies' own user has no rights: those without
	// a right when authentication is switched on, and those of users as above.
	core bool
	// How long after that a write may be sent that is still given to the watch.
	endsWithin time.Duration
	// Whether a stream of watches may be ended with Unavailable when rights have changed, so that its client comes again; and
	// is, when authentication is switched on after a proxy has found it off.
	breaks bool
}

const (
	// longPast is for how long at most anything may go by rights that are gone.
	longPast = time.Second
	// slack is what a busy machine adds to that where it depends on something being noticed in time.
	slack = 2 * time.Second
)

// promised are the promises of a kind of target.
func promised(kind target.Kind, own as) promises {
	core := kind.Member() == proc.Core
	p := promises{endsAtRevoke: core, cancels: core, core: core}
	if kind.Proxies() == 0 {
		return p
	}
	// While authentication is off and upstream does not answer in time, a proxy goes on by what it has heard.
	p.afterEnable, p.endsWithin, p.breaks = longPast+slack, longPast+slack, true
	switch own {
	case asReader:
		p.afterRevoke, p.endsAtRevoke = longPast, false // the proxy's own watch stands for all
	case asRoot:
		p.afterRevoke, p.endsAtRevoke, p.cancels = longPast, true, true
	}
	return p
}

// place is where the isolation test runs.
type place struct {
	kind   target.Kind
	own    as
	signed bool // tokens
}

func (p place) String() string {
	s := string(p.kind)
	if p.own != asNobody {
		s += " as " + string(p.own)
	}
	if p.signed {
		s += " with signed tokens"
	}
	return s
}

// cacheAll has proxies keep all keys in memory from the start.
const cacheAll = "--cache-prefix="

// start starts the members of a place, without proxies as yet.
func (p place) start(t *testing.T) *site {
	t.Helper()
	if p.signed {
		return p.startWith(t, signedTokens(t))
	}
	return p.startWith(t)
}

// startWith is start with these arguments of members, which decide about tokens.
func (p place) startWith(t *testing.T, memberArgs ...string) *site {
	t.Helper()
	o := targettest.SiteOptions{NoProxies: true, MemberArgs: memberArgs, ProxyArgs: []string{cacheAll}}
	if p.own != asNobody {
		o.ProxyArgs = append(o.ProxyArgs, "--user="+proxyUser+":"+proxyPassword)
	}
	return newSite(t, p.kind, o)
}
