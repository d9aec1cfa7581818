package access

import (
	"context"
	"strconv"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// A user, as PermitWatch names one, is a name for the same client as long as its stream lives: "" nobody, else one of these
// prefixes and what tells users apart.
const (
	byCertificate = 'c' // the common name
	byToken       = 't' // the token's id in tokens
)

// PermitWatch refuses who may not watch a range, and else tells who it is, for PermitUser. The error is that of etcd, or
// Unavailable if it cannot be known; then the client is to come again.
//
// While authentication is off everybody may, and is nobody. With the role root of its own the proxy lets a token watch only
// on a verdict of a member that has caught up with the others: of what comes later PermitUser can tell.
func (g *Guard) PermitWatch(ctx context.Context, key, end []byte) (user string, err error) {
	switch g.regime() {
	case Open:
		return "", nil
	case Guarded:
	default:
		return "", errUnjudged
	}
	r := Range{watchKey(key), end}
	c := clientOf(ctx)
	switch {
	case c.hasToken():
		return g.permitToken(ctx, c, r)
	case c.verified:
		return g.permitNamed(ctx, c, r)
	}
	return "", g.refuseNobody(ctx)
}

// refuseNobody asks upstream first: authentication may have been turned off since it was found on, and who is refused does
// not come again.
func (g *Guard) refuseNobody(ctx context.Context) error {
	switch err := g.askAnything(ctx, g.cfg.Upstream.Call); {
	case err == nil:
		return errUnjudged
	case isRefusal(err):
		return rpctypes.ErrGRPCUserEmpty
	default:
		return toUnavailable("ask who may watch", err)
	}
}

// watchKey is the key of a watch: none is the smallest.
func watchKey(key []byte) []byte {
	if len(key) == 0 {
		return []byte{0}
	}
	return key
}

func (g *Guard) permitNamed(ctx context.Context, c client, r Range) (string, error) {
	err := g.judge(ctx, c.subject(), func(p *policy, s subject) error { return p.permitRead(s, r.Key, r.End) })
	if err != nil {
		return "", err
	}
	g.roster.watch(c.name)
	return string(byCertificate) + c.name, nil
}

func (g *Guard) permitToken(ctx context.Context, c client, r Range) (string, error) {
	p, stirred := g.roster.policy(), g.roster.stirredAt()
	// It has to be seen that something changes from now on, unless the proxy cannot see that under this regime.
	if p == nil || p.status.sent <= stirred || p.own != someRights && g.clock.now()-p.status.sent > eventAge {
		var err error
		if p, err = g.roster.need(ctx, subject{}, stirred); err != nil {
			return "", err
		}
	}
	caughtUp := p.own != someRights
	if !g.verdicts.allows(c.token, r.Key, r.End, caughtUp, g.clock.now()) {
		if err := g.askNow(ctx, c, r, caughtUp); err != nil && !isRefusal(err) {
			return "", toUnavailable("ask who may watch", err)
		} else if err != nil {
			return "", err
		}
	}
	k := g.tokens.get(c.credential())
	g.grants.add(k.id, r, p.generation)
	name, _ := k.user()
	g.roster.watch(name) // whose it is may be certain only when something changes
	return string(byToken) + strconv.FormatUint(k.id, 10), nil
}

// askNow asks upstream for a verdict. A refusal to who had asked before does not count: it may be from before a grant that
// this client knows of.
func (g *Guard) askNow(ctx context.Context, c client, r Range, caughtUp bool) error {
	begun := g.clock.now()
	v := g.verdicts.ask(c, r, caughtUp)
	err := g.verdicts.wait(ctx, v)
	if v.sent < begun && isRefusal(err) {
		err = g.verdicts.wait(ctx, g.verdicts.ask(c, r, caughtUp))
	}
	return err
}

// PermitUser refuses a user, as PermitWatch has named it, who may not read a range any more. It does not wait: what counts is
// the newest that is known. The error is that of etcd, or Unavailable for who cannot be judged: since something has changed
// it is not known whose the token is, or upstream has not told for too long what users may do. See Hold.
//
// Without the role root of its own the proxy refuses nobody who was permitted, as etcd does.
func (g *Guard) PermitUser(user string, key, end []byte) error {
	if g.regime() == Open {
		return nil
	}
	if user == "" { // since when authentication was off: what was shared then ends, and the client is to come again
		return errUnjudged
	}
	name, known := user[1:], true
	var id uint64
	if user[0] == byToken {
		id, _ = strconv.ParseUint(user[1:], 10, 64)
		name, known = g.tokens.userOf(id)
	}
	g.roster.watch(name)
	p, now, key := g.roster.policy(), g.clock.now(), watchKey(key)
	switch {
	case p == nil:
		return errUnjudged
	case p.enabled && p.own == someRights:
		if user[0] == byCertificate {
			return rpctypes.ErrGRPCUserEmpty
		}
		return nil
	case now-p.status.sent > eventAge+maxHold:
		return errUnjudged
	case !p.enabled:
		return nil
	case user[0] == byToken && g.grants.has(id, Range{key, end}, p.generation):
		return nil
	case known && p.knows(subject{name, true}):
		return p.permitRead(subject{name, true}, key, end)
	case known && !p.settled && now-p.begun <= maxHold && !g.roster.lapsed.Load(): // events wait meanwhile, see Hold
		return nil
	}
	return errUnjudged
}

// Watching says that so many more streams of watches are open, or fewer. As long as there are any, and each is to be judged,
// the guard finds out when users and roles change.
func (g *Guard) Watching(more int) {
	if now := g.watching.Add(int64(more)); now == 0 {
		g.roster.unwatchAt0(&g.watching)
	}
	if more > 0 && g.regime() == Guarded {
		g.roster.look()
	}
}
