package access

import (
	"context"

	"weir/grpcapi/wire"
)

// A right that is taken away is seen by an AuthStatus, of which there is one a second. From then on nothing that happens upstream
// may be told to who has lost it, and who else that is, is known only when users and roles have been read. So events wait.
//
// Other ways were rejected. To end every watch of which it is not known yet: whatever changes, a thousand clients would come again
// at once. To let watches go on until they are known: with hundreds of users on a slow cluster that takes a second more. To ask
// for a verdict under the token of each watcher: after a change every JWT is too old to be answered, an expired token says nothing
// of the rights of its owner, and certificates have none. To end watches when AuthStatus fails: then a cluster that elects a
// leader would lose all of them, while nothing happens that could be told to the wrong ones.
const (
	// eventAge is how old an AuthStatus may be when events are passed on: a second until the next, and what that may take.
	eventAge = maxAge + patience
	// maxHold bounds how long events wait. Then the watches end of whom it is not known whether they may go on.
	maxHold = roundInterval + patience
)

// Hold is called with each encoded WatchResponse from upstream before anybody is given what is in it. If there are events it
// waits, for maxHold at most, until it is known who may be given what happens now. Of whom that is not known then the watches have
// ended when it returns, by Config.Changed. Without watches that have to be judged it returns at once.
func (g *Guard) Hold(ctx context.Context, resp wire.Raw) {
	if g.passes() {
		return
	}
	var r wire.WatchResponse
	if r.Unmarshal(resp) == nil && len(r.Events) == 0 { // it says nothing of any key
		return
	}
	if !g.roster.lapsed.Load() { // else it is in vain
		ctx, cancel := context.WithTimeout(ctx, maxHold)
		defer cancel()
		for ctx.Err() == nil && !g.passes() {
			if _, _, err := g.roster.await(ctx, subject{}); err != nil {
				break
			}
		}
		if g.passes() {
			return
		}
		if !g.roster.lapsed.Swap(true) {
			g.log.Warn("open watches end: upstream does not tell in time what their users may do")
		}
	}
	g.cfg.Changed()
}

// passes tells whether events may be passed on now.
func (g *Guard) passes() bool {
	if g.watching.Load() == 0 || g.regime() != Guarded {
		return true
	}
	p := g.roster.policy()
	if p == nil || p.enabled && p.own == someRights { // there are no watches that were judged, or none is judged again
		return true
	}
	// Open watches have been looked at, and those that may not go on have ended.
	return p.settled && g.roster.told.Load() == p.generation && g.clock.now()-p.status.sent <= eventAge
}
