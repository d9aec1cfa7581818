package identities

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// checker holds what clients were given against the ledger of rights and the store's history, when all of it is known.
type checker struct {
	*ledger
	*history
	promises
	own    as
	leases map[int64][]string // keys by lease

	sent   map[int64]time.Duration // when the write of a revision was
	off    []stretch               // in which authentication was
	closed []stretch               // in which it was on, and the proxies' own user had no rights
	counts map[string]int
	wrong  []string
}

// violation records what must not be.
func (c *checker) violation(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

// summary is what was checked.
func (c *checker) summary() string {
	var s []string
	for _, what := range slices.Sorted(maps.Keys(c.counts)) {
		s = append(s, fmt.Sprintf("%d %s", c.counts[what], what))
	}
	return strings.Join(s, ", ")
}

// all checks what all clients were given.
func (c *checker) all(writes []write, ops []*op, streams []*watchStream) {
	c.begin(writes)
	for _, o := range ops {
		if h := header(o.response); h != nil && changed(o.response) {
			c.sent[h.Revision] = o.sent
		}
	}
	for _, e := range c.events {
		if _, ok := c.sent[e.Kv.ModRevision]; !ok {
			c.violation("revision %d was written by a request that was refused, or by nobody: %v", e.Kv.ModRevision, e)
		}
	}
	for _, o := range ops {
		c.op(o)
	}
	for _, s := range streams {
		c.stream(s)
	}
}

// begin is before anything is checked. The ledger is complete then.
func (c *checker) begin(writes []write) {
	c.sent, c.counts = map[int64]time.Duration{}, map[string]int{}
	for _, w := range writes {
		c.sent[w.rev] = w.sent
	}
	c.off = c.stretches(func(now *rights) bool { return !now.enabled })
	c.closed = c.stretches(func(now *rights) bool { return now.enabled && !c.isHeld(now) })
}

// changed tells whether a write has changed anything.
func changed(response proto.Message) bool {
	switch r := response.(type) {
	case *pb.PutResponse:
		return true
	case *pb.DeleteRangeResponse:
		return r.Deleted > 0
	case *pb.TxnResponse:
		return slices.ContainsFunc(r.Responses, func(of *pb.ResponseOp) bool { return of.GetResponsePut() != nil })
	}
	return false
}

func (c *checker) op(o *op) {
	c.settle(o.who)
	if o.err == nil {
		c.counts["answers"]++
		c.given(o)
		if what := c.compare(o); what != "" {
			c.violation("%s, in the answer to %v", what, o)
		}
		return
	}
	c.counts["refusals"]++
	if !c.mayRefuse(o) {
		c.violation("an error that etcd does not give then: %v", o)
	}
}

// given checks that there was the right to what was given.
func (c *checker) given(o *op) {
	if r, ok := o.request.(*pb.AuthenticateRequest); ok {
		if !c.any(o.sent, o.answered, func(now *rights) bool { return now.enabled && now.isPassword(r) }) {
			c.violation("a token for a wrong password: %v", o)
		}
		return
	}
	needs := needsOf(o.request, c.leases)
	allows := func(now *rights) bool { return slices.Contains(now.answers(o.who, needs), nil) }
	if c.any(o.sent, o.answered, allows) {
		return
	}
	if remembers(o.request) && c.remembered(o.who, o.sent, o.answered, needs) {
		c.counts["answers by rights that were gone"]++
		return
	}
	c.violation("given without a right to it: %v", o)
}

// remembered tells whether a proxy may still go by rights that there were before. It may remember each of a transaction's
// ranges from another time.
func (c *checker) remembered(who *identity, from, to time.Duration, needs []need) bool {
	if c.any(from-c.afterEnable, to, func(now *rights) bool { return !now.enabled }) {
		return true
	}
	for _, n := range needs {
		allows := func(now *rights) bool { return slices.Contains(now.answers(who, []need{n}), nil) }
		if !c.any(from-c.afterRevoke, to, allows) {
			return false
		}
	}
	return len(needs) > 0
}

func (r *rights) isPassword(of *pb.AuthenticateRequest) bool {
	u, ok := r.users[of.Name]
	return ok && u.password == of.Password
}

// remembers tells whether the answer to a request may be by rights that were gone: writes are refused by upstream.
func remembers(request proto.Message) bool {
	switch r := request.(type) {
	case *pb.RangeRequest:
		return true
	case *pb.TxnRequest:
		return !writes(r)
	}
	return false
}

// mayRefuse tells whether etcd may have refused a request with that error.
func (c *checker) mayRefuse(o *op) bool {
	if r, ok := o.request.(*pb.AuthenticateRequest); ok {
		return c.any(o.sent, o.answered, func(now *rights) bool {
			if !now.enabled {
				return isAnyOf(o.err, rpctypes.ErrGRPCAuthNotEnabled)
			}
			return !now.isPassword(r) && isAnyOf(o.err, rpctypes.ErrGRPCAuthFailed)
		})
	}
	if c.mayMeet(func(err error) bool { return isAnyOf(o.err, err) }, o.who, o.sent, o.answered) {
		return true
	}
	needs := needsOf(o.request, c.leases)
	return c.any(o.sent, o.answered, func(now *rights) bool {
		return slices.ContainsFunc(now.answers(o.who, needs), func(err error) bool { return err != nil && isAnyOf(o.err, err) })
	})
}

// mayMeet tells whether an error is one that a request meets of which etcd looks at who asks before a change, and at what they
// may after it.
func (c *checker) mayMeet(is func(error) bool, who *identity, from, to time.Duration) bool {
	switch {
	case is(rpctypes.ErrGRPCPermissionDenied) && who != nil && !who.isMadeUp: // a user is deleted before the tokens are
		return c.any(from, to, func(now *rights) bool { return slices.Contains(who.issues, now.issue(who.user)) }) &&
			c.any(from, to, func(now *rights) bool { return now.enabled && !now.has(who.user) })
	case is(rpctypes.ErrGRPCAuthOldRevision):
		return len(c.during(from, to)) > 1
	case is(rpctypes.ErrGRPCUserEmpty), is(rpctypes.ErrGRPCInvalidAuthToken):
		// While authentication is off etcd does not look at tokens, and it forgets them when it is switched off.
		return c.any(from, to, func(now *rights) bool { return !now.enabled }) && c.any(from, to, func(now *rights) bool { return now.enabled })
	}
	return false
}

// compare holds an answer against the history. What is wrong is "" if nothing is.
func (c *checker) compare(o *op) string {
	h := header(o.response)
	switch r := o.response.(type) {
	case *pb.AuthenticateResponse:
		return ""
	case *pb.LeaseTimeToLiveResponse:
		return c.compareLease(o.request.(*pb.LeaseTimeToLiveRequest), r)
	}
	if h == nil || h.Revision > c.last {
		return fmt.Sprintf("there has never been the revision of %v", h)
	}
	if h.Revision < o.known && !isSerializable(o.request) {
		return fmt.Sprintf("revision %d had been written before", o.known)
	}
	switch r := o.response.(type) {
	case *pb.RangeResponse:
		return different(r, c.answer(o.request.(*pb.RangeRequest), h.Revision))
	case *pb.PutResponse:
		return c.comparePut(o.request.(*pb.PutRequest), r, h.Revision)
	case *pb.DeleteRangeResponse:
		return c.compareDelete(o.request.(*pb.DeleteRangeRequest), r, h.Revision)
	default:
		return c.compareTxn(o.request.(*pb.TxnRequest), r.(*pb.TxnResponse), h.Revision)
	}
}

// different compares an answer, without its header, with the one that is right.
func different(got, want *pb.RangeResponse) string {
	got = &pb.RangeResponse{Kvs: got.Kvs, More: got.More, Count: got.Count}
	if proto.Equal(got, want) {
		return ""
	}
	return fmt.Sprintf("not what the store had: %v", want)
}

// isSerializable tells whether a request may be answered with what was so before.
func isSerializable(request proto.Message) bool {
	switch r := request.(type) {
	case *pb.RangeRequest:
		return r.Serializable
	case *pb.TxnRequest:
		for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
			for _, of := range branch {
				if !isSerializable(requestOf(of)) {
					return false
				}
			}
		}
		return true
	}
	return false
}

func (c *checker) compareLease(r *pb.LeaseTimeToLiveRequest, got *pb.LeaseTimeToLiveResponse) string {
	var keys []string
	for _, k := range got.Keys {
		keys = append(keys, string(k))
	}
	slices.Sort(keys)
	var want []string
	if r.Keys {
		want = c.leases[r.ID]
	}
	if got.ID != r.ID || got.TTL <= 0 || !slices.Equal(keys, want) {
		return fmt.Sprintf("a lease with the keys %q", want)
	}
	return ""
}

func (c *checker) comparePut(r *pb.PutRequest, got *pb.PutResponse, rev int64) string {
	key := string(r.Key)
	if kv := c.at(key, rev); kv == nil || kv.ModRevision != rev || string(kv.Value) != string(r.Value) {
		return fmt.Sprintf("the store has %v", kv)
	}
	var before *mvccpb.KeyValue
	if r.PrevKv {
		before = c.at(key, rev-1)
	}
	if !proto.Equal(got.PrevKv, before) {
		return fmt.Sprintf("before it was %v", before)
	}
	return ""
}

func (c *checker) compareDelete(r *pb.DeleteRangeRequest, got *pb.DeleteRangeResponse, rev int64) string {
	key, end := string(r.Key), string(r.RangeEnd)
	if now := c.in(key, end, rev); len(now) > 0 {
		return fmt.Sprintf("the store still has %v", now)
	}
	if got.Deleted == 0 {
		return ""
	}
	before := c.in(key, end, rev-1)
	if got.Deleted != int64(len(before)) || r.PrevKv && !slices.EqualFunc(got.PrevKvs, before, equal) || !r.PrevKv && len(got.PrevKvs) > 0 {
		return fmt.Sprintf("before it was %v", before)
	}
	return ""
}

func equal(a, b *mvccpb.KeyValue) bool { return proto.Equal(a, b) }

func (c *checker) compareTxn(r *pb.TxnRequest, got *pb.TxnResponse, rev int64) string {
	before := rev
	if changed(got) {
		before--
	}
	holds := !slices.ContainsFunc(r.Compare, func(one *pb.Compare) bool { return !c.holds(one, before) })
	branch := r.Failure
	if holds {
		branch = r.Success
	}
	if got.Succeeded != holds || len(got.Responses) != len(branch) {
		return fmt.Sprintf("that the comparison holds is %v", holds)
	}
	for i, of := range branch {
		what := ""
		if put := of.GetRequestPut(); put != nil {
			what = c.comparePut(put, got.Responses[i].GetResponsePut(), rev)
		} else {
			what = different(got.Responses[i].GetResponseRange(), c.answer(of.GetRequestRange(), before))
		}
		if what != "" {
			return fmt.Sprintf("%s (operation %d)", what, i)
		}
	}
	return ""
}

// holds tells whether the revisions of all keys in a range are less than one; that of no key is 0.
func (c *checker) holds(one *pb.Compare, rev int64) bool {
	for _, kv := range c.in(string(one.Key), string(one.RangeEnd), rev) {
		if kv.ModRevision >= one.GetModRevision() {
			return false
		}
	}
	return one.GetModRevision() > 0
}

// isUnavailable tells whether an error has clients come again.
func isUnavailable(err error) bool { return status.Code(err) == codes.Unavailable }
