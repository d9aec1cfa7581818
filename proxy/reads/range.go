package reads

import (
	"context"
	"math"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/mem"

	"weir/cache"
	"weir/grpcapi/wire"
)

// Range answers r from memory or fails with ErrForward. The other errors are the client's: etcd's for a compacted
// revision, ResourceExhausted beyond a limit of Config, and ctx's.
//
// stale is above 0 when upstream is away, and the answer may be that old. s is what the client's connection was told,
// or nil. r has passed the checks that etcd makes before it reads, and was permitted to who asks in an era (of Standing): in
// another one it may not be. Range may be called concurrently.
func (k *Keeper) Range(ctx context.Context, r *wire.RangeRequest, s *cache.Session, era uint64) (resp mem.BufferSlice, stale time.Duration, err error) {
	defer func() { k.stats.countForward(r.Serializable, err) }()
	a, err := k.begin(s, r.Serializable, era)
	if err != nil {
		return nil, 0, err
	}
	h := a.find(r.Key, r.RangeEnd)
	if h == nil {
		return nil, 0, ErrForward
	}
	if _, err := a.settle(ctx, h); err != nil {
		return nil, 0, err
	}
	view, newest, err := a.state(h, r.Revision)
	if err != nil {
		return nil, 0, err
	}
	header := k.up.Header()
	header.Revision = newest
	if resp, err = a.encode(h, view, header, r); err != nil {
		return nil, 0, err
	}
	if err := a.finish(newest); err != nil {
		return nil, 0, err
	}
	h.used(spared(resp.Len()))
	a.answered()
	return resp, a.stale, nil
}

// state returns the state of h at revision pinned, or the newest one if pinned is not above 0, and the newest revision
// of h, which is what a header states in both cases.
//
// A revision that is not in memory may be one that upstream has not reached or that it has compacted, with an error for
// each, or one that it can read: it is forwarded. As at etcd, the future is looked at before the past.
func (a *read) state(h *hot, pinned int64) (view cache.View, newest int64, err error) {
	view, ok := h.snap.View(0)
	newest = view.Revision()
	if ok && pinned > 0 {
		if pinned <= newest && pinned < a.k.up.Compacted() {
			return cache.View{}, 0, rpctypes.ErrGRPCCompacted
		}
		view, ok = h.snap.View(pinned)
	}
	if !ok {
		return cache.View{}, 0, ErrForward
	}
	return view, newest, nil
}

// Answers whose building looks at fewer keys than resultsFrom cost less to build than to look up, and those of more
// than maxResultBytes would take the place of many others.
const (
	resultsFrom    = 16
	maxResultBytes = 1 << 20
)

// answer is what upstream would answer to r, of the state view.
func (a *read) answer(view cache.View, r wire.RangeRequest) (cache.Answer, error) {
	r.KeepLease = a.standing.Before37
	return view.Answer(&r)
}

// encode builds the answer to r from a state of h.
func (a *read) encode(h *hot, view cache.View, header wire.Header, r *wire.RangeRequest) (mem.BufferSlice, error) {
	k := a.k
	fetch := r.FetchLimit()
	// keys_only means one thing to one member and another to the next, which results do not know.
	lookUp := len(r.RangeEnd) > 0 && !r.CountOnly && !(r.KeysOnly && a.standing.Before37) && (fetch == 0 || fetch >= resultsFrom)
	if lookUp {
		if body, ok := k.results.Get(h.snap, view.Changed(), r); ok {
			return wire.WithHeader(header, body), nil
		}
	}
	bounded, _ := k.Bound(r)
	answer, err := a.answer(view, bounded)
	if err != nil {
		return nil, ErrForward
	}
	size := bytesOf(answer.KVs)
	if err := k.checkSize(r, len(answer.KVs), size); err != nil {
		return nil, err
	}
	if size > math.MaxInt32 {
		return nil, ErrForward // more than gRPC sends; upstream has the words for it
	}
	if lookUp && size <= maxResultBytes && answer.Count >= resultsFrom {
		body := wire.AppendRangeBody(nil, answer.KVs, answer.More, answer.Count)
		k.results.Put(h.snap, view.Changed(), r, body)
		return wire.WithHeader(header, body), nil
	}
	return wire.EncodeRange(header, answer.KVs, answer.More, answer.Count), nil
}

// bytesOf is how long kvs are together.
func bytesOf(kvs [][]byte) int {
	n := 0
	for _, kv := range kvs {
		n += len(kv)
	}
	return n
}
