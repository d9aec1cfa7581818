package identities

import (
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// asked are ranges: those of permissions, parts of them, and what is partly in one.
var asked = append([]permission{
	{key: "/a/0", end: "/a/5"}, {key: "/a/2", end: "/a/8"}, {key: "/b/5", end: "/c/"}, {key: "\x00", end: infinite}, {key: "/a/7"},
	{key: "/b/1"}, {key: "/b/8"}, {key: "/c/9"}, {key: "/c/2"}, {key: "/b/8", end: infinite},
}, permissions...)

// watched are those of them that are watched. Their first keys are written, so that something comes.
var watched = slices.DeleteFunc(slices.Clone(asked), func(in permission) bool { return in.key == "\x00" })

// leased are keys with a lease, by their place in the list of leases. Nobody writes them any more.
var leased = [][]string{{"/a/lease"}, {"/b/lease", "/c/lease"}}

// randomKey is one of those that are written.
func (c *client) randomKey() string {
	return fmt.Sprintf("/%c/%d", "abc"[c.rng.IntN(3)], c.rng.IntN(10))
}

// value is one that nobody else writes, nor this client again. It says where it belongs.
func (c *client) value(key string) string {
	c.next++
	return fmt.Sprintf("of %s, written by %s: %d", key, c.name, c.next)
}

// request is the next one to send, and how.
func (c *client) request() (proto.Message, way) {
	if c.onlyReads {
		return c.rangeRequest(), byGRPC
	}
	n := c.rng.IntN(100)
	json := c.rng.IntN(12) == 0
	switch {
	case n < 55:
		r := c.rangeRequest()
		switch {
		case json:
			return r, byJSON
		case c.rng.IntN(5) == 0:
			return r, inParts
		}
		return r, byGRPC
	case n < 75:
		return c.readTxn(), gRPCUnless(json)
	case n < 82:
		key := c.randomKey()
		return &pb.PutRequest{Key: []byte(key), Value: []byte(c.value(key)), PrevKv: c.rng.IntN(2) == 0}, gRPCUnless(json)
	case n < 86:
		return &pb.DeleteRangeRequest{Key: []byte(c.randomKey()), PrevKv: c.rng.IntN(2) == 0}, gRPCUnless(json)
	case n < 92:
		return c.writeTxn(), gRPCUnless(json)
	default:
		return &pb.LeaseTimeToLiveRequest{ID: int64(1 + c.rng.IntN(len(leased))), Keys: c.rng.IntN(4) > 0}, gRPCUnless(json)
	}
}

// pickRange is one to ask for: mostly one that the user may read, so that something is given.
func (c *client) pickRange() permission {
	in, now := pick(c.rng, asked), c.ledger.now()
	for range 10 {
		if c.rng.IntN(4) == 0 || now.permit(c.user, []need{{key: in.key, end: in.end}}) == nil {
			break
		}
		in = pick(c.rng, asked)
	}
	return in
}

func gRPCUnless(json bool) way {
	if json {
		return byJSON
	}
	return byGRPC
}

func (c *client) rangeRequest() *pb.RangeRequest {
	in := c.pickRange()
	r := &pb.RangeRequest{Key: []byte(in.key), RangeEnd: []byte(in.end), Serializable: c.rng.IntN(2) == 0}
	switch c.rng.IntN(10) {
	case 0:
		r.Limit = 1 + c.rng.Int64N(5)
	case 1:
		r.CountOnly = true
	case 2:
		r.KeysOnly = true
	case 3:
		r.Revision = 1 + c.rng.Int64N(c.newest.Load())
	}
	return r
}

// readTxn compares and reads, and etcd wants to see the right to all that is in it.
func (c *client) readTxn() *pb.TxnRequest {
	t := &pb.TxnRequest{}
	for range c.rng.IntN(3) {
		in := c.pickRange()
		t.Compare = append(t.Compare, &pb.Compare{
			Key: []byte(in.key), RangeEnd: []byte(in.end), Target: pb.Compare_MOD, Result: pb.Compare_LESS,
			TargetUnion: &pb.Compare_ModRevision{ModRevision: 1 + c.rng.Int64N(2*c.newest.Load())},
		})
	}
	serializable := c.rng.IntN(2) == 0
	for range 1 + c.rng.IntN(2) {
		t.Success, t.Failure = append(t.Success, c.rangeOp(serializable)), append(t.Failure, c.rangeOp(serializable))
	}
	return t
}

func (c *client) rangeOp(serializable bool) *pb.RequestOp {
	r := c.rangeRequest()
	r.Serializable = serializable
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

// writeTxn writes if something is so, and else reads.
func (c *client) writeTxn() *pb.TxnRequest {
	t := c.readTxn()
	key := c.randomKey()
	put := &pb.PutRequest{Key: []byte(key), Value: []byte(c.value(key)), PrevKv: c.rng.IntN(2) == 0}
	t.Success = []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}}
	return t
}
