package reads

import (
	"context"
	"iter"
	"math"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/mem"

	"weir/cache"
	"weir/grpcapi/wire"
)

// Txn answers a transaction that only reads from memory, all of it at one revision, or fails with ErrForward. For the
// rest see Range.
func (k *Keeper) Txn(ctx context.Context, r *pb.TxnRequest, s *cache.Session, era uint64) (resp mem.BufferSlice, stale time.Duration, err error) {
	serializable := Serializable(r)
	defer func() { k.stats.countForward(serializable, err) }()
	if !onlyRanges(r) {
		return nil, 0, ErrForward
	}
	a, err := k.begin(s, serializable, era)
	if err != nil {
		return nil, 0, err
	}
	t := txn{read: a, request: r}
	if err := t.begin(ctx); err != nil {
		return nil, 0, err
	}
	succeeded, err := t.holdsAll(ctx)
	if err != nil {
		return nil, 0, err
	}
	ops := r.Success
	if !succeeded {
		ops = r.Failure
	}
	body, err := t.run(ctx, ops)
	if err != nil {
		return nil, 0, err
	}
	header := k.up.Header()
	header.Revision = t.revision
	if err := t.finish(t.revision); err != nil {
		return nil, 0, err
	}
	for _, h := range t.hots { // upstream was spared one call, not one for each
		h.used(spared(len(body)) / time.Duration(len(t.hots)))
	}
	t.answered()
	return wire.EncodeTxn(header, succeeded, body), t.stale, nil
}

// txn is a read-only transaction on its way. Its revision is the lowest of the snapshots that decide how it goes on: the
// highest at which all of them can be looked at. Those that are needed later must have it in their windows.
type txn struct {
	read
	request  *pb.TxnRequest
	revision int64
	hots     []*hot       // that have been looked at
	views    []cache.View // of them, at revision
}

// begin looks first whether all that may be read is in memory: else the transaction would pay for a check, and for upstream's
// answer as well. Then it settles the revision, with the snapshots of the compares, or, when nothing is compared, with those
// that are read.
func (t *txn) begin(ctx context.Context) error {
	deciding := len(t.request.Compare)
	if deciding == 0 {
		deciding = len(t.request.Success)
	}
	var hots []*hot
	for key, end := range touched(t.request) {
		h := t.find(key, end)
		if h == nil {
			return ErrForward
		}
		if deciding--; deciding >= 0 && !slices.Contains(hots, h) {
			hots = append(hots, h)
		}
	}
	if len(hots) == 0 {
		return ErrForward // it asks for the revision alone, of which no snapshot tells
	}
	var err error
	if t.revision, err = t.settle(ctx, hots...); err != nil {
		return err
	}
	if len(hots) == 1 { // which may have gone further, and forgotten where it was
		view, ok := hots[0].snap.View(0)
		if !ok {
			return ErrForward
		}
		t.hots, t.views, t.revision = hots, []cache.View{view}, view.Revision()
		return nil
	}
	for _, h := range hots {
		if _, err := t.view(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// open returns the snapshot that contains [key, end), and its state at the transaction's revision.
func (t *txn) open(ctx context.Context, key, end []byte) (*hot, cache.View, error) {
	h := t.find(key, end)
	if h == nil {
		return nil, cache.View{}, ErrForward
	}
	view, err := t.view(ctx, h)
	return h, view, err
}

// view returns the state of h at the transaction's revision.
func (t *txn) view(ctx context.Context, h *hot) (cache.View, error) {
	if i := slices.Index(t.hots, h); i >= 0 {
		return t.views[i], nil
	}
	if err := t.reach(ctx, t.revision, []*hot{h}); err != nil {
		return cache.View{}, err
	}
	view, ok := h.snap.View(t.revision)
	if !ok {
		return cache.View{}, ErrForward
	}
	t.hots, t.views = append(t.hots, h), append(t.views, view)
	return view, nil
}

// holdsAll evaluates the compares.
func (t *txn) holdsAll(ctx context.Context) (bool, error) {
	for _, c := range t.request.Compare {
		_, view, err := t.open(ctx, c.Key, c.RangeEnd)
		if err != nil {
			return false, err
		}
		kvs, _ := view.Range(c.Key, c.RangeEnd, 0)
		if ok, err := wire.Holds(c, kvs); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// run answers the ranges of the branch that is taken, encoded. As at etcd, all of them are checked before the first is
// read.
func (t *txn) run(ctx context.Context, ops []*pb.RequestOp) ([]byte, error) {
	for _, op := range ops {
		switch rev := op.GetRequestRange().GetRevision(); {
		case rev < 0 || rev > t.revision:
			return nil, ErrForward
		case rev != 0 && rev < t.k.up.Compacted():
			return nil, rpctypes.ErrGRPCCompacted
		}
	}
	var encoded, body []byte
	for _, op := range ops {
		r := wire.RangeRequestOf(op.GetRequestRange())
		h, view, err := t.open(ctx, r.Key, r.RangeEnd)
		if err != nil {
			return nil, err
		}
		if r.Revision > 0 {
			var ok bool
			if view, ok = h.snap.View(r.Revision); !ok {
				return nil, ErrForward
			}
		}
		answer, err := t.answer(view, r)
		if err != nil || len(encoded)+bytesOf(answer.KVs) > math.MaxInt32 {
			return nil, ErrForward
		}
		body = wire.AppendRange(body[:0], wire.Header{Revision: t.revision}, answer.KVs, answer.More, answer.Count)
		encoded = wire.AppendTxnOp(encoded, wire.TxnRange, body)
	}
	return encoded, nil
}

// onlyRanges tells whether etcd answers the transaction without a log entry: a nested one counts as a write.
func onlyRanges(r *pb.TxnRequest) bool {
	return everyOp(r, func(op *pb.RequestOp) bool { return op.GetRequestRange() != nil })
}

// Serializable tells whether etcd answers the transaction without asking the leader, which it does too when there is
// nothing to read, whatever is compared.
func Serializable(r *pb.TxnRequest) bool {
	return everyOp(r, func(op *pb.RequestOp) bool { return op.GetRequestRange().GetSerializable() })
}

// touched are the ranges that the transaction may read: of its compares first, then of the branches. The second branch
// counts only if something is compared, because else it is never taken.
func touched(r *pb.TxnRequest) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, end []byte) bool) {
		for _, c := range r.Compare {
			if !yield(c.Key, c.RangeEnd) {
				return
			}
		}
		branches := [][]*pb.RequestOp{r.Success, r.Failure}
		for _, ops := range branches[:min(1+len(r.Compare), 2)] {
			for _, op := range ops {
				if in := op.GetRequestRange(); !yield(in.GetKey(), in.GetRangeEnd()) {
					return
				}
			}
		}
	}
}

// everyOp tells whether is holds for every operation of both branches.
func everyOp(r *pb.TxnRequest, is func(*pb.RequestOp) bool) bool {
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if !is(op) {
				return false
			}
		}
	}
	return true
}
