package reads

import (
	"fmt"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/proc"
	"weir/loadtest/target/targettest"
)

// Whatever a range request, a stream of ranges or a transaction that only reads asks for, the answer from memory is the
// member's to the byte, with its header, or its error.
func TestEveryOptionIsAnsweredAsByTheMember(t *testing.T) {
	t.Parallel()
	at(t, everywhere, everyOption, cacheAll)
}

// comparison is a run of random requests, each sent to the member and to where clients read.
type comparison struct {
	*site
	*generator
	direct, client *client
	report         map[string]int // answers by request and status
}

func everyOption(s *site) {
	c := &comparison{site: s, generator: &generator{rng: targettest.Random(s, *seed), known: s.Kind.Member() == proc.Etcd35}, direct: s.member(), client: s.dial(), report: map[string]int{}}
	lease, err := pb.NewLeaseClient(c.direct.conn).LeaseGrant(s.Ctx, &pb.LeaseGrantRequest{TTL: 10_000})
	s.Must(err)
	c.lease = lease.ID
	for _, i := range c.rng.Perm(len(many)) {
		c.write(c.putToMany(many[i]))
	}
	s.awaitCached(fromKey("\x00"))
	before := s.hits()
	const rounds, requests = 32, 25
	for round := range rounds {
		for _, ops := range c.writes() {
			c.write(ops...)
		}
		if round%8 == 7 {
			c.compactSome()
		}
		for range requests {
			c.compare()
		}
	}
	s.Logf("compared: %v", c.report)
	// With each goes one more, for the revision.
	if n := s.hits() - before - rounds*requests; len(s.Proxies) > 0 && n < rounds*requests/2 {
		s.Errorf("%d of %d requests were answered from memory", n, rounds*requests)
	}
}

func (c *comparison) write(ops ...*pb.RequestOp) {
	c.Helper()
	c.rev = c.direct.txn(ops...).Header.Revision
}

// compactSome forgets a part of the history, and waits until clients of the proxy are told so too.
func (c *comparison) compactSome() {
	c.Helper()
	c.compact = c.rev - c.rng.Int64N(min(20, c.rev-c.compact))
	c.direct.compact(c.compact)
	c.Eventually(compactedWithin, "compaction", func() error {
		if _, err := c.client.read(pinned(single("a"), c.compact-1)); errText(err) != errText(rpctypes.ErrGRPCCompacted) {
			return fmt.Errorf("a read before the compact revision: %s", errText(err))
		}
		return nil
	})
}

// compare sends one random request to both sides.
func (c *comparison) compare() {
	c.Helper()
	// A serializable read is to be as new as what its connection has been told.
	targettest.Want(c, "revision", c.client.revision(), c.rev)
	var (
		r    proto.Message
		send func(to *client) (proto.Message, error)
	)
	switch c.rng.IntN(8) {
	case 0, 1:
		txn := c.txnRequest(1)
		r, send = txn, func(to *client) (proto.Message, error) { return to.kv.Txn(to.ctx, txn) }
	case 2, 3:
		if c.Kind.Member() == proc.Etcd35 || c.Kind.Member() == proc.Etcd36 {
			return // there are no streams of ranges
		}
		one := c.streamRequest()
		r, send = one, func(to *client) (proto.Message, error) { return to.stream(one) }
	default:
		one := c.rangeRequest()
		r, send = one, func(to *client) (proto.Message, error) { return to.read(one) }
	}
	answer, wantErr := send(c.direct)
	got, err := send(c.client)
	c.report[fmt.Sprintf("%T %s", r, errText(wantErr))]++
	if errText(err) != errText(wantErr) || !proto.Equal(got, answer) {
		c.Fatalf("%T %v at revision %d, compacted at %d:\n%s answers %s\n%s\n%s answers %s\n%s", r, r, c.rev, c.generator.compact,
			c.direct.name, errText(wantErr), prototext.Format(answer), c.client.name, errText(err), prototext.Format(got))
	}
}

// An answer that is wanted at a revision and sorted otherwise than by key is built from the whole range: it is the same
// from the cache of results as when it was made.
func TestAnswerIsTheSameEachTime(t *testing.T) {
	t.Parallel()
	at(t, somewhere, sameEachTime, cacheAll)
}

func sameEachTime(s *site) {
	direct, c := s.member(), s.dial()
	all := targettest.Keys("/a/", 200)
	for _, k := range all {
		direct.put(k, fmt.Sprint("value of ", k))
	}
	s.awaitCached(below("/a/"))
	sorted := below("/a/")
	sorted.SortTarget, sorted.SortOrder, sorted.Limit = pb.RangeRequest_VALUE, pb.RangeRequest_DESCEND, 150
	for i := range 15 {
		rev := direct.put(all[i], fmt.Sprint("again ", i))
		for _, r := range slices.Concat([]*pb.RangeRequest{below("/a/"), sorted, pinned(sorted, rev-1), pinned(below("/a/"), rev)}) {
			now := direct.get(r)
			for range 4 {
				if err := sameAnswer(c.get(r), now); err != nil {
					s.Fatalf("linearizable %v: %v", r, err)
				}
				if err := sameAnswer(c.get(serializable(r)), now); err != nil {
					s.Fatalf("serializable %v: %v", r, err)
				}
			}
		}
	}
}
