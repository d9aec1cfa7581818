package linearizable

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Violation is an operation that breaks a promise.
type Violation struct {
	Op      *Op // nil if there should have been one
	What    string
	Against *Op // what it contradicts, if that is an operation too
}

func (v Violation) String() string {
	s := v.What
	if v.Op != nil {
		s += "\n\t" + v.Op.String()
	}
	if v.Against != nil {
		s += "\n\tafter\n\t" + v.Against.String()
	}
	return s
}

// Promises are what Check holds answers to, beside what always holds.
type Promises struct {
	// MaxStaleness is how old a proxy's serializable answer may be at most when it does not say how old it is.
	MaxStaleness time.Duration
	// Disturbed tells whether something was done, to the members or to their connections with the proxies, in a time during which
	// MaxStaleness need not hold.
	Disturbed func(from, to time.Duration) bool
	// Compactions that were asked for, in any order.
	Compactions []Compaction
}

// Compaction is one compaction of the store.
type Compaction struct {
	Revision     int64
	Call, Return time.Duration // Return is 0 if it failed
}

// Check compares everything that was answered in a run with what has happened in the store. Every answer must be
//
//   - what the store was at the revision of its header, or at the one that was asked for: contents, counts, versions and
//     all. A write must be there, once, and nothing else at its revision;
//   - if it is linearizable, of a revision that is not below any that had been answered to anybody when it was sent, and
//     above them if it made one;
//   - of a revision not below any that had been answered on the same connection when it was sent;
//   - if it is serializable and from a proxy, not older than it may be: not below a revision that had been answered that
//     long before it was sent. There is no slack in this, since the proxy decides after the request was sent.
//
// A request that failed must have failed because something was away, or because of a compaction that had been asked for.
// Its writes must be there once or not at all.
func (t *Truth) Check(ops []*Op, p Promises) []Violation {
	c := checker{Truth: t, Promises: p, makers: map[int64]*Op{}}
	for _, o := range ops {
		if o.changed() {
			c.makers[o.Revision] = o
		}
		for _, value := range o.written() {
			for _, rev := range t.written[value] {
				c.makers[rev] = o // it may not have been answered
			}
		}
	}
	anybody, conns := floorsOf(ops), map[int64][]*Op{}
	for _, o := range ops {
		if o.Response == nil {
			c.checkError(o)
			continue
		}
		if what := t.fits(o); what != "" {
			c.add(o, nil, "%s", what)
		}
		c.checkTime(o, anybody)
		conns[o.Conn] = append(conns[o.Conn], o)
	}
	for _, own := range conns {
		told := floorsOf(own)
		for _, o := range own {
			if floor := told.before(o.Call); floor != nil && floor.Revision > o.Revision {
				c.add(o, floor, "revision %d on a connection that had been told %d", o.Revision, floor.Revision)
			}
		}
	}
	c.checkWrites(ops)
	return c.found
}

// checker is one call of Check.
type checker struct {
	*Truth
	Promises
	makers map[int64]*Op // by revision: which operation made it
	found  []Violation
}

func (c *checker) add(o, against *Op, format string, args ...any) {
	c.found = append(c.found, Violation{o, fmt.Sprintf(format, args...), against})
}

// checkTime compares the revision of an answer with what had been answered, and asked for, at what time.
func (c *checker) checkTime(o *Op, anybody floors) {
	if made := c.makers[o.Revision]; made != nil && made.Call > o.Return {
		c.add(o, made, "revision %d before it was asked for", o.Revision)
	}
	switch {
	case o.linearizable():
		floor := anybody.before(o.Call)
		if floor != nil && (floor.Revision > o.Revision || floor.Revision == o.Revision && o.changed()) {
			c.add(o, floor, "revision %d after %d had been answered", o.Revision, floor.Revision)
		}
		if o.Stale >= 0 {
			c.add(o, nil, "a linearizable answer says that it may be old")
		}
	case o.Proxy:
		age := c.MaxStaleness
		if o.Stale >= 0 {
			age = o.Stale
		} else if c.Disturbed(o.Call-age, o.Return) {
			return
		}
		if floor := anybody.before(o.Call - age); floor != nil && floor.Revision > o.Revision {
			c.add(o, floor, "revision %d is older than %v: %d had been answered", o.Revision, age, floor.Revision)
		}
	}
}

// checkError looks at why a request failed.
func (c *checker) checkError(o *Op) {
	pinned := o.pinned()
	switch {
	case is(o.Err, rpctypes.ErrGRPCCompacted):
		asked := func(one Compaction) bool { return one.Revision > pinned && one.Call < o.Return }
		if pinned == 0 || !slices.ContainsFunc(c.Compactions, asked) {
			c.add(o, nil, "nobody had asked for such a compaction")
		}
	case is(o.Err, rpctypes.ErrGRPCFutureRev):
		// The revision is one that somebody had been told.
		if pinned == 0 || o.linearizable() {
			c.add(o, nil, "a linearizable read does not know a revision that had been answered")
		}
	case !away(o.Err):
		c.add(o, nil, "no reason to fail")
	}
}

func is(err, want error) bool { return status.Convert(err).Message() == status.Convert(want).Message() }

// away tells whether an error says that a server could not be reached, or could not reach others.
func away(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		return true
	case codes.Canceled:
		return is(err, grpc.ErrClientConnClosing) //nolint:staticcheck // clients leave a server while their requests wait; see Load.Leave
	default:
		// As leaders change, and as an etcd ends that was removed.
		return is(err, rpctypes.ErrGRPCRequestTooManyRequests) || is(err, raft.ErrProposalDropped) || is(err, raft.ErrStopped)
	}
}

// checkWrites looks for writes that were done twice, should not have been done, or were not asked for.
func (c *checker) checkWrites(ops []*Op) {
	asked := map[string]bool{}
	for _, o := range ops {
		var done []string
		if o.Response != nil {
			done = (&Request{Then: o.branch()}).written()
		}
		for _, value := range o.written() {
			asked[value] = true
			revs := c.written[value]
			switch {
			case slices.Contains(done, value): // see fits
			case o.Response != nil && len(revs) > 0:
				c.add(o, nil, "%s was put, at revision %d", value, revs[0])
			case len(revs) > 1:
				c.add(o, nil, "%s was put at revisions %v", value, revs)
			}
		}
	}
	for value, revs := range c.written {
		if !asked[value] {
			c.add(nil, nil, "%s was put at revisions %v, and nobody had asked for it", value, revs)
		}
	}
}

// floors is what had been answered by what time: operations in order of their return, each with the one of the highest
// revision up to there.
type floors []struct{ op, highest *Op }

func floorsOf(ops []*Op) floors {
	var f floors
	for _, o := range ops {
		if o.Response != nil {
			f = append(f, struct{ op, highest *Op }{o, o})
		}
	}
	slices.SortFunc(f, func(a, b struct{ op, highest *Op }) int { return cmp.Compare(a.op.Return, b.op.Return) })
	for i := range f[min(1, len(f)):] {
		if before := f[i].highest; before.Revision >= f[i+1].highest.Revision {
			f[i+1].highest = before
		}
	}
	return f
}

// before is the operation of the highest revision among those that had been answered before a time; nil if there is none.
func (f floors) before(t time.Duration) *Op {
	n := sort.Search(len(f), func(i int) bool { return f[i].op.Return >= t })
	if n == 0 {
		return nil
	}
	return f[n-1].highest
}
