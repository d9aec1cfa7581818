package differential

import (
	"bytes"
	"context"
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// keys are few, so that requests meet; with those of lockLeases 12 at most, because etcd sorts ranges with sort.Sort, which
// keeps the order of equal elements only for so many.
var keys = []string{"a", "b", "c", "aa", "b\x00", "c\xff", "\x00", "\xff"}

func (r *runner) key() []byte {
	if r.chance(10) {
		return r.lockKey()
	}
	return []byte(pick(r, keys...))
}

// badKey is a key, seldom none.
func (r *runner) badKey() []byte {
	if r.chance(50) {
		return nil
	}
	return r.key()
}

// rangeEnd is the end of any kind of range: none, to the end of the keys, a prefix, another key, at times before its start.
func (r *runner) rangeEnd(key []byte) []byte {
	switch r.rng.IntN(8) {
	case 0, 1, 2:
		return nil
	case 3:
		return []byte{0}
	case 4:
		if len(key) == 0 || key[len(key)-1] == 0xff {
			return []byte{0}
		}
		end := bytes.Clone(key)
		end[len(end)-1]++
		return end
	default:
		end := r.key()
		if r.auth.enabled && bytes.Compare(end, key) <= 0 {
			return nil // whether one may read nothing is an accident of how etcd keeps permissions
		}
		return end
	}
}

// revision is one for reads: mostly none, else near something of interest.
func (r *runner) revision() int64 {
	switch r.rng.IntN(16) {
	case 0, 1, 2, 3:
		return r.rev - r.rng.Int64N(min(r.rev, 20)+1)
	case 4:
		return r.rev + 1 + r.rng.Int64N(3)
	case 5:
		return max(r.compact, 0) + r.rng.Int64N(3) - 1
	case 6:
		return pick[int64](r, -1, math.MaxInt64, math.MinInt64, 1)
	default:
		return 0
	}
}

func (r *runner) value() []byte {
	switch r.rng.IntN(30) {
	case 0:
		return nil
	case 1:
		return bytes.Repeat([]byte{byte(r.rng.IntN(256))}, 3000)
	default:
		return []byte(pick(r, "x", "y", "z", "xx", "\x00", "\xff\xfe"))
	}
}

func (r *runner) rangeRequest() *pb.RangeRequest {
	req := &pb.RangeRequest{
		Key:          r.badKey(),
		Revision:     r.revision(),
		Serializable: r.chance(3),
		KeysOnly:     r.chance(6),
		CountOnly:    r.chance(8),
	}
	req.RangeEnd = r.rangeEnd(req.Key)
	if r.chance(3) {
		req.Limit = pick[int64](r, 1, 2, 3, 5, 1000, -1, math.MaxInt64)
	}
	if r.chance(3) {
		req.SortOrder = pb.RangeRequest_SortOrder(r.rng.IntN(3))
		req.SortTarget = pb.RangeRequest_SortTarget(r.rng.IntN(5))
	}
	if r.chance(60) {
		req.SortOrder, req.SortTarget = pick[pb.RangeRequest_SortOrder](r, 0, 3, -1), pick[pb.RangeRequest_SortTarget](r, 0, 5, -1)
	}
	if r.chance(5) {
		for _, filter := range []*int64{&req.MinModRevision, &req.MaxModRevision, &req.MinCreateRevision, &req.MaxCreateRevision} {
			if r.chance(2) {
				*filter = r.revision()
			}
		}
	}
	return req
}

func (r *runner) putRequest() *pb.PutRequest {
	req := &pb.PutRequest{Key: r.badKey(), Value: r.value(), PrevKv: r.chance(3)}
	if r.chance(4) {
		req.Lease = r.aLease()
	}
	if r.chance(8) {
		req.IgnoreValue = true
		if !r.chance(6) {
			req.Value = nil
		}
	}
	if r.chance(8) {
		req.IgnoreLease = true
		if !r.chance(6) {
			req.Lease = 0
		}
	}
	return req
}

func (r *runner) deleteRequest() *pb.DeleteRangeRequest {
	req := &pb.DeleteRangeRequest{Key: r.badKey(), PrevKv: r.chance(3)}
	if r.chance(3) {
		req.RangeEnd = r.rangeEnd(req.Key)
	}
	return req
}

func (r *runner) compare() *pb.Compare {
	c := &pb.Compare{
		Key:    r.badKey(),
		Result: pb.Compare_CompareResult(r.rng.IntN(4)),
		Target: pb.Compare_CompareTarget(r.rng.IntN(5)),
	}
	if r.chance(4) {
		c.RangeEnd = r.rangeEnd(c.Key)
	}
	union := c.Target
	if r.chance(40) { // what is compared and what with need not agree
		union = pb.Compare_CompareTarget(r.rng.IntN(5))
	}
	number := pick(r, 0, 1, 2, 3, r.rev, r.rev-1, r.rev-r.rng.Int64N(min(r.rev, 10)))
	switch union {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: number}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: number}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: number}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: r.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: pick(r, 0, r.aLease())}
	}
	switch r.rng.IntN(60) {
	case 0:
		c.TargetUnion = nil
	case 1:
		c.Target = 7
	case 2:
		c.Result = 7
	}
	return c
}

func (r *runner) txnRequest(depth int) *pb.TxnRequest {
	req := &pb.TxnRequest{}
	for range r.rng.IntN(3) {
		req.Compare = append(req.Compare, r.compare())
	}
	for range r.rng.IntN(4) {
		req.Success = append(req.Success, r.op(depth))
	}
	for range r.rng.IntN(4) {
		req.Failure = append(req.Failure, r.op(depth))
	}
	return req
}

// spare takes out of a txn what only accident decides in etcd 3.7: it overlooks that a delete up to the end of all keys
// overlaps with a put of the same txn. It does both, but then panics if the put wants the value or the lease of the key just
// deleted, and a compaction at that revision, or a hash of it, loses the put.
func spare(txn *pb.TxnRequest) {
	var deletes []*pb.DeleteRangeRequest
	puts := false
	var walk func(*pb.TxnRequest)
	walk = func(txn *pb.TxnRequest) {
		for _, op := range slices.Concat(txn.Success, txn.Failure) {
			if d := op.GetRequestDeleteRange(); d != nil && bytes.Equal(d.RangeEnd, []byte{0}) {
				deletes = append(deletes, d)
			}
			if op.GetRequestPut() != nil {
				puts = true
			}
			if nested := op.GetRequestTxn(); nested != nil {
				walk(nested)
			}
		}
	}
	walk(txn)
	if puts {
		for _, d := range deletes {
			d.RangeEnd = nil
		}
	}
}

func (r *runner) op(depth int) *pb.RequestOp {
	switch n := r.rng.IntN(20); {
	case n < 6:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r.rangeRequest()}}
	case n < 13:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r.putRequest()}}
	case n < 16:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r.deleteRequest()}}
	case depth < 3:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r.txnRequest(depth + 1)}}
	case r.chance(20):
		return &pb.RequestOp{}
	default:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: r.key()}}}
	}
}

func (r *runner) stepRange(ctx context.Context) error { return r.both(ctx, r.rangeRequest()) }

func (r *runner) stepRangeStream(ctx context.Context) error {
	req := r.rangeRequest()
	if !r.chance(10) { // sorts and filters are refused
		req.SortOrder, req.SortTarget = 0, 0
		req.MinModRevision, req.MaxModRevision, req.MinCreateRevision, req.MaxCreateRevision = 0, 0, 0, 0
	}
	if req.SortOrder == pb.RangeRequest_NONE && req.SortTarget > 0 && req.SortTarget < 5 {
		// etcd 3.7 does not refuse this, sorts each chunk by itself, and then skips and miscounts keys.
		req.SortTarget = pb.RangeRequest_KEY
	}
	_, err := r.exchange(ctx, "RangeStream", show(req), func(ctx context.Context, s *side) answer { return s.rangeStream(ctx, r.who, req) })
	return err
}

// write sends a request that may make a revision.
func (r *runner) write(ctx context.Context, req proto.Message) error {
	answers, err := r.ask(ctx, req)
	if err != nil || answers[0].err != nil {
		return err
	}
	if answers[0].http != "" {
		return r.refresh(ctx)
	}
	r.rev = headerOf(answers[0].resp).Revision
	return nil
}

func (r *runner) stepPut(ctx context.Context) error { return r.write(ctx, r.putRequest()) }

func (r *runner) stepDelete(ctx context.Context) error { return r.write(ctx, r.deleteRequest()) }

func (r *runner) stepTxn(ctx context.Context) error {
	req := r.txnRequest(1)
	spare(req)
	if r.corrupt && slices.ContainsFunc(slices.Concat(req.Success, req.Failure), func(op *pb.RequestOp) bool { return op.GetRequestTxn() != nil }) {
		// etcd refuses for corruption what needs its log: a txn in a txn does, even if it only reads, which weir sees.
		req.Failure = append(req.Failure, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("refused")}}})
	}
	if r.chance(100) {
		for range 130 {
			req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: r.key()}}})
		}
	}
	return r.write(ctx, req)
}

// stepCompact waits for all events first: whether one's previous pair has just been compacted is a matter of timing, and so
// is whether one that waits for a lock still reads what is compacted.
func (r *runner) stepCompact(ctx context.Context) error {
	req := &pb.CompactionRequest{Revision: r.revision(), Physical: r.chance(2)}
	if req.Revision == 0 {
		req.Revision = r.rev - r.rng.Int64N(min(r.rev, 50))
	}
	if err := r.barrier(ctx, r.streams...); err != nil {
		return err
	}
	if err := r.endWaiters(ctx); err != nil {
		return err
	}
	answers, err := r.ask(ctx, req)
	if err == nil && answers[0].err == nil {
		r.compact, r.compactDone = req.Revision, req.Physical
	}
	return err
}

func (r *runner) stepHashKV(ctx context.Context) error {
	rev := r.revision()
	// etcd answers for the compact revision itself from a cache once the compaction is done, computed differently.
	if rev == r.compact && !r.compactDone {
		rev++
	}
	return r.both(ctx, &pb.HashKVRequest{Revision: rev})
}
