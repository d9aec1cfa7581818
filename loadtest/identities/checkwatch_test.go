package identities

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// stream checks a stream of watches, and each of them.
func (c *checker) stream(s *watchStream) {
	c.settle(s.who)
	c.counts["streams of watches"]++
	if s.hung != "" {
		c.violation("waited in vain for %s, on %v", s.hung, s)
	}
	switch {
	case s.err == nil || s.err == context.Canceled:
	case c.breaks && isUnavailable(s.err) && len(c.during(s.opened-longPast-slack, s.closed)) > 1:
		c.counts["streams of watches ended when rights changed"]++
	default:
		c.violation("a stream of watches ended by itself: %v", s)
	}
	for _, w := range s.watches {
		if w.answered == 0 {
			continue
		}
		if w.refused != "" {
			c.counts["watches refused"]++
			c.refusedWatch(s, w)
			continue
		}
		c.counts["watches"]++
		c.createdWatch(s, w)
		c.eventsOf(s, w)
		if w.canceled != "" {
			c.counts["watches cancelled"]++
			c.canceledWatch(s, w)
		}
	}
}

func (w *watch) needs() []need { return []need{{key: w.in.key, end: w.in.end}} }

// refusedWatch checks that etcd would have refused a watch too.
func (c *checker) refusedWatch(s *watchStream, w *watch) {
	if c.mayMeet(func(err error) bool { return err.Error() == w.refused }, s.who, w.sent, w.answered) {
		return
	}
	if !c.any(w.sent, w.answered, func(now *rights) bool {
		return slices.ContainsFunc(now.answers(s.who, w.needs()), func(err error) bool { return err != nil && err.Error() == w.refused })
	}) {
		c.violation("refused though etcd would not have done so: %v on %v", w, s)
	}
}

// createdWatch checks that there was the right to a watch.
func (c *checker) createdWatch(s *watchStream, w *watch) {
	allows := func(now *rights) bool { return slices.Contains(now.answers(s.who, w.needs()), nil) }
	if c.any(w.sent, w.answered, allows) {
		return
	}
	if c.remembered(s.who, w.sent, w.answered, w.needs()) {
		c.counts["watches by rights that were gone"]++
		return
	}
	c.violation("created without a right to it: %v on %v", w, s)
}

// eventsOf checks that a watch was given each event of its range once and in order, and none too long after the right to it
// was gone.
func (c *checker) eventsOf(s *watchStream, w *watch) {
	next, _ := slices.BinarySearchFunc(c.events, c.firstOf(w), func(e *mvccpb.Event, rev int64) int { return int(e.Kv.ModRevision - rev) })
	for _, got := range w.events {
		c.counts["events"]++
		for next < len(c.events) && !within(string(c.events[next].Kv.Key), w.in.key, w.in.end) {
			next++
		}
		if next == len(c.events) {
			c.violation("there is no such event: %v, of %v on %v", got, w, s)
			return
		}
		want := c.events[next]
		if !w.prevKV {
			want = &mvccpb.Event{Type: want.Type, Kv: want.Kv}
		}
		next++
		if !c.core && got.PrevKv == nil { // etcd leaves it out now and then, though it has it
			want = &mvccpb.Event{Type: want.Type, Kv: want.Kv}
		}
		if !proto.Equal(got.Event, want) {
			c.violation("the event %v came instead of %v, of %v on %v", got, want, w, s)
			return
		}
		if what := c.late(s, w, want.Kv.ModRevision, got.at); what != "" {
			c.violation("%s, at %v of a write sent at %v: %v of %v on %v", what, got.at, c.sent[want.Kv.ModRevision], got, w, s)
			return
		}
	}
}

// firstOf is the first revision that a watch was to be given. One from now on is registered at etcd before its answer states a
// revision: what was written between the two comes too.
func (c *checker) firstOf(w *watch) int64 {
	if !c.core && w.start == 0 && len(w.events) > 0 && w.events[0].Kv.ModRevision > w.known {
		return min(w.from, w.events[0].Kv.ModRevision)
	}
	return w.from
}

// late tells what is wrong about giving an event of a revision at some time.
func (c *checker) late(s *watchStream, w *watch, rev int64, at time.Duration) string {
	from := c.sent[rev] - c.endsWithin
	if c.any(from, at, func(now *rights) bool { return !now.enabled }) {
		return ""
	}
	// In the time since the write, and before that as long as it may take, authentication was on.
	held := c.own != asNobody && !c.any(from, at, func(now *rights) bool { return !c.isHeld(now) })
	switch {
	case c.breaks && wasFound(c.off, w, from, c.endsWithin):
		return "given, though the watch is from before authentication was switched on"
	case held && wasFound(c.closed, w, from, c.endsWithin):
		return "given, though the watch is from before the proxies had their rights again"
	case !held && !c.core:
		return "" // upstream goes on with what is forwarded
	case s.who == nil || s.who.isMadeUp:
		if c.own == asReader {
			return "" // permitted while authentication was off for a moment, and not looked at again
		}
		return "given to nobody, though authentication is on"
	case c.endsAtRevoke && !c.any(from, at, func(now *rights) bool { return now.permit(s.who.user, w.needs()) == nil }):
		return fmt.Sprintf("given to %s, who has lost the right to it", s.who.user)
	}
	return ""
}

// isHeld tells whether the proxies' own user has the rights that they need.
func (c *checker) isHeld(now *rights) bool {
	return slices.Contains(now.users[proxyUser].roles, string(c.own))
}

// wasFound tells whether one of the stretches was so long that the proxies must have found out, and ended while there was a watch and
// before some time. They have then ended all watches that there were: those that they shared before it or during it, and those that
// they forwarded.
func wasFound(all []stretch, w *watch, until, takes time.Duration) bool {
	return slices.ContainsFunc(all, func(s stretch) bool {
		return s.to-s.from > takes && s.to > w.answered && s.over < until
	})
}

// canceledWatch checks that a watch was cancelled for a reason that there was.
func (c *checker) canceledWatch(s *watchStream, w *watch) {
	if !c.cancels || !c.any(w.answered, w.canceledAt, func(now *rights) bool {
		return slices.ContainsFunc(now.watchEnds(s.who, w), func(err error) bool { return err.Error() == w.canceled })
	}) {
		c.violation("cancelled because of %q at %v: %v on %v", w.canceled, w.canceledAt, w, s)
	}
}

// watchEnds are the errors with which a watch that was permitted can end under these rights.
func (r *rights) watchEnds(id *identity, w *watch) []error {
	switch {
	case !r.enabled:
		return nil
	case id == nil || id.isMadeUp:
		return []error{rpctypes.ErrGRPCUserEmpty}
	}
	if err := r.permit(id.user, w.needs()); err != nil {
		return []error{err, rpctypes.ErrGRPCUserEmpty} // it is nobody's if it was created while authentication was off
	}
	return []error{rpctypes.ErrGRPCUserEmpty}
}
