package access

import (
	"context"
	"time"
)

// Range is keys to be read: as in etcd's requests no end is the single key, and an end of one zero byte is no end.
type Range struct{ Key, End []byte }

// MayRead tells whether upstream would give all of these ranges to the client of ctx: has been asked at most a second ago, or
// is asked now. False means that it is not known to. The read is then to be forwarded with what the client has shown, and
// upstream says what is the matter.
//
// While authentication is off everybody may read everything. Whether it still is off is for the caller to know, who calls
// Regime.
func (g *Guard) MayRead(ctx context.Context, ranges ...Range) bool {
	switch g.regime() {
	case Open:
		return true
	case Guarded:
		c := clientOf(ctx)
		if c.hasToken() {
			return g.mayToken(ctx, c, ranges)
		}
		return c.verified && g.mayNamed(c.name, longAgo, ranges)
	}
	return false
}

// mayToken allows nothing but what there are verdicts for, of all the ranges.
func (g *Guard) mayToken(ctx context.Context, c client, ranges []Range) bool {
	now := g.clock.now()
	known := 0
	for _, r := range ranges {
		if g.verdicts.allows(c.token, r.Key, r.End, false, now) && len(r.Key) > 0 {
			known++
		}
	}
	if known == len(ranges) {
		g.hits.Add(1)
		return true
	}
	if g.mayByPolicy(c, ranges) {
		g.shortcuts.Add(1)
		return true
	}
	return g.askFor(ctx, c, ranges)
}

// mayByPolicy allows what the user of a token may read, if it is known whose the token is, and that it is valid. It saves a
// client who reads here and there a verdict for each key.
func (g *Guard) mayByPolicy(c client, ranges []Range) bool {
	if p := g.roster.policy(); p != nil && (!p.enabled || p.own == someRights) || !g.verdicts.isValid(c.token, g.clock.now()) {
		return false
	}
	k := g.tokens.find(c.credential())
	if k == nil {
		return false
	}
	name, ok := k.user()
	return ok && g.mayNamed(name, k.seen, ranges)
}

// mayNamed allows what a user may read, if that is known already, and was asked for after `since`. Else it will be.
func (g *Guard) mayNamed(name string, since time.Duration, ranges []Range) bool {
	if !g.HasIdentity() {
		return false
	}
	s := subject{name, true}
	p := g.roster.recent(g.clock.now())
	if p == nil || !p.knows(s) || p.status.sent <= since {
		g.roster.want(name)
		return false
	}
	if p.enabled && p.own != rootRights {
		return false
	}
	for _, r := range ranges {
		if len(r.Key) == 0 || p.permitRead(s, r.Key, r.End) != nil {
			return false
		}
	}
	return true
}

// askFor asks upstream for the verdicts that are not there, all at once, unless they are too many.
func (g *Guard) askFor(ctx context.Context, c client, ranges []Range) bool {
	now := g.clock.now()
	var missing []Range
	for _, r := range ranges {
		if len(r.Key) == 0 {
			return false // which upstream refuses in its own words
		}
		if !g.verdicts.allows(c.token, r.Key, r.End, false, now) {
			missing = append(missing, r)
		}
	}
	if len(missing) > maxCallsOfOne {
		return false // it is cheaper to forward
	}
	open := make([]*verdict, 0, len(missing))
	for _, r := range missing {
		open = append(open, g.verdicts.ask(c, r, false))
	}
	for _, v := range open {
		if g.verdicts.wait(ctx, v) != nil {
			return false
		}
	}
	return true
}
