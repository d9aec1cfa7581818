package reads

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/target/targettest"
)

// generator makes random requests, and writes that give them something to meet.
type generator struct {
	rng     *rand.Rand
	rev     int64 // the newest
	compact int64 // the compact revision
	lease   int64 // that some keys have
	known   bool  // only sorts that there are: at any other etcd 3.5 ends
	values  int   // that were ever given to one of many
}

// few are keys that requests meet often. They are 12 at most, because etcd sorts with sort.Sort, which keeps the order
// of equal elements only for so many.
var few = []string{"a", "b", "c", "aa", "ab", "b\x00", "c\xff", "\x00", "\xff", "abc", "d"}

// many are keys whose values, revisions of change and of creation all differ.
var many = targettest.Keys("m/", 300)

// The ends of the two kinds, but for the key "\xff".
const endOfFew, endOfMany = "e", "m0"

func (g *generator) chance(n int) bool { return g.rng.IntN(n) == 0 }

func pick[T any](g *generator, from ...T) T { return from[g.rng.IntN(len(from))] }

// writes makes some changes: each is a transaction of its own.
func (g *generator) writes() [][]*pb.RequestOp {
	var all [][]*pb.RequestOp
	for range 1 + g.rng.IntN(8) {
		switch g.rng.IntN(8) {
		case 0:
			all = append(all, []*pb.RequestOp{targettest.DeleteOp(pick(g, few...))})
		case 1:
			all = append(all, []*pb.RequestOp{targettest.DeleteOp("a"), targettest.PutOp("b", g.value()), targettest.DeleteOp("d"), targettest.PutOp("c", g.value())})
		case 2:
			all = append(all, []*pb.RequestOp{targettest.DeleteOp(pick(g, many...))})
		case 3, 4:
			all = append(all, []*pb.RequestOp{g.putToMany(pick(g, many...))})
		default:
			op := targettest.PutOp(pick(g, few...), g.value())
			if g.chance(3) {
				op.GetRequestPut().Lease = g.lease
			}
			all = append(all, []*pb.RequestOp{op})
		}
	}
	return all
}

// putToMany puts a value that no other of these keys has. It must be alone in its transaction.
func (g *generator) putToMany(key string) *pb.RequestOp {
	g.values++
	return targettest.PutOp(key, fmt.Sprintf("%08x", uint32(g.values)*2654435761)) // in another order than that of the keys
}

func (g *generator) value() string {
	if g.chance(20) {
		return strings.Repeat(pick(g, "1", "2"), 5000)
	}
	return pick(g, "", "x", "y", "xx", "\x00", "\xff\xfe")
}

// revision is one for reads: mostly none, else near something of interest.
func (g *generator) revision() int64 {
	switch g.rng.IntN(12) {
	case 0, 1, 2:
		return g.rev - g.rng.Int64N(min(g.rev, 30)+1)
	case 3:
		return g.compact + g.rng.Int64N(4) - 1
	case 4:
		return pick(g, 1, -1, g.rev+1, g.rev+1000, math.MaxInt64, math.MinInt64)
	default:
		return 0
	}
}

// span is a range of any kind: a key, a prefix, from a key on, everything, the wrong way round, no key.
func (g *generator) span() (key, end []byte) {
	from := few
	if g.chance(3) {
		from = many
	}
	key = []byte(pick(g, from...))
	switch g.rng.IntN(8) {
	case 0, 1:
		return key, nil
	case 2:
		return key, []byte{0}
	case 3:
		if g.chance(10) {
			return nil, nil
		}
		return []byte{0}, []byte{0}
	case 4:
		return []byte(many[0]), []byte(endOfMany)
	case 5:
		if last := key[len(key)-1]; last < 0xff {
			end = bytes.Clone(key)
			end[len(end)-1]++
			return key, end
		}
		return key, []byte{0}
	default:
		return key, []byte(pick(g, from...))
	}
}

func (g *generator) rangeRequest() *pb.RangeRequest {
	r := &pb.RangeRequest{Revision: g.revision(), Serializable: g.chance(2), KeysOnly: g.chance(6), CountOnly: g.chance(8)}
	r.Key, r.RangeEnd = g.span()
	if g.chance(2) {
		r.Limit = pick[int64](g, 1, 2, 3, 5, 10, 99, 299, 300, 301, 1000, -1, math.MaxInt64)
	}
	if g.chance(3) {
		g.sort(r)
	}
	if g.chance(4) {
		for _, filter := range []*int64{&r.MinModRevision, &r.MaxModRevision, &r.MinCreateRevision, &r.MaxCreateRevision} {
			if g.chance(2) {
				*filter = pick(g, g.revision(), g.rev-g.rng.Int64N(g.rev+1))
			}
		}
	}
	return r
}

// sort has the answer sorted, and makes the range one in which the order is certain.
func (g *generator) sort(r *pb.RangeRequest) {
	r.SortTarget, r.SortOrder = pb.RangeRequest_KEY, pb.RangeRequest_SortOrder(g.rng.IntN(3))
	switch g.rng.IntN(8) {
	case 0:
		// by key
	case 1:
		if g.known {
			break
		}
		r.SortOrder, r.SortTarget = pick[pb.RangeRequest_SortOrder](g, 0, 3, -1), pick[pb.RangeRequest_SortTarget](g, 0, 5, -1)
	case 2, 3, 4:
		r.SortTarget = pick(g, pb.RangeRequest_MOD, pb.RangeRequest_CREATE, pb.RangeRequest_VALUE)
		r.Key, r.RangeEnd = []byte(pick(g, many...)), []byte(endOfMany)
	default:
		r.SortTarget = pb.RangeRequest_SortTarget(g.rng.IntN(5))
		r.Key, r.RangeEnd = []byte(pick(g, few...)), []byte(endOfFew)
	}
}

// streamRequest is a range request that RangeStream mostly takes: it refuses sorts and filters.
func (g *generator) streamRequest() *pb.RangeRequest {
	r := g.rangeRequest()
	if !g.chance(10) {
		r.SortOrder, r.SortTarget = 0, 0
		r.MinModRevision, r.MaxModRevision, r.MinCreateRevision, r.MaxCreateRevision = 0, 0, 0, 0
	}
	if r.SortOrder == pb.RangeRequest_NONE && r.SortTarget > 0 && r.SortTarget < 5 {
		// etcd 3.7 does not refuse this, sorts each part by itself, and then skips and miscounts keys.
		r.SortTarget = pb.RangeRequest_KEY
	}
	return r
}

// txnRequest is a transaction that only reads.
func (g *generator) txnRequest(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{}
	for range g.rng.IntN(3) {
		r.Compare = append(r.Compare, g.compare())
	}
	for range g.rng.IntN(4) {
		r.Success = append(r.Success, g.readOp(depth))
	}
	for range g.rng.IntN(4) {
		r.Failure = append(r.Failure, g.readOp(depth))
	}
	return r
}

func (g *generator) readOp(depth int) *pb.RequestOp {
	if depth < 3 && g.chance(6) {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.txnRequest(depth + 1)}}
	}
	r := g.rangeRequest()
	if !g.chance(4) { // one that fails is the end of the whole
		r.Revision = 0
	}
	return rangeOp(r)
}

func (g *generator) compare() *pb.Compare {
	c := &pb.Compare{Result: pb.Compare_CompareResult(g.rng.IntN(4)), Target: pb.Compare_CompareTarget(g.rng.IntN(5))}
	c.Key, c.RangeEnd = g.span()
	if !g.chance(4) {
		c.RangeEnd = nil
	}
	number := pick(g, 0, 1, 2, g.rev, g.rev-g.rng.Int64N(min(g.rev, 10)))
	switch union := pick(g, c.Target, c.Target, c.Target, pb.Compare_CompareTarget(g.rng.IntN(5))); union { // they need not agree
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: number}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: number}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: number}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: []byte(g.value())}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: pick(g, 0, g.lease)}
	}
	return c
}
