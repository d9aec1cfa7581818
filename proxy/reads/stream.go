package reads

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"weir/cache"
	"weir/grpcapi/wire"
)

// Parts of a RangeStream have at most streamPartBytes, but for a single larger key, and streamPartKeys. A stream
// begins with streamFirstKeys, for which little is collected in vain if few of them make a part.
const (
	streamPartBytes = 1 << 20
	streamPartKeys  = 8 << 10
	streamFirstKeys = 1 << 10
)

// What upstream is asked for is in memory as a whole, so that keys which turn out to be large must be few.
const (
	upstreamFirstKeys = 16 // and at most, while nothing tells how large they are: 24 MiB of the largest that etcd takes
	upstreamPartKeys  = 1 << 10
)

// RangeStream answers r in parts, all of one revision, by calling send, or fails with ErrForward before the first. The
// last part has the header, more and the count. stale is the same for all parts; see Range for it and for the rest. An
// error of send ends it and is returned.
//
// Between two parts nothing is held for the client, who may be slow: a view kept for him would keep the memory of all
// that has been overwritten since, however often. Each part is found anew by its revision. If the window of past
// states has left it behind then upstream is asked for the part, so that the stream ends early only when it would at
// etcd, which pins a stream by its number too: by compaction.
func (k *Keeper) RangeStream(ctx context.Context, r *wire.RangeRequest, s *cache.Session, era uint64, send func(part mem.BufferSlice, stale time.Duration) error) (err error) {
	defer func() { k.stats.countForward(r.Serializable, err) }()
	if r.SortTarget != 0 {
		return ErrForward // etcd sorts each part by itself, so that the answer depends on where it cuts
	}
	a, err := k.begin(s, r.Serializable, era)
	if err != nil {
		return err
	}
	if a.standing.Before37 {
		return ErrForward // to the client upstream has no such method, also when the range happens to be in memory
	}
	h := a.find(r.Key, r.RangeEnd)
	if h == nil {
		return ErrForward
	}
	if _, err := a.settle(ctx, h); err != nil {
		return err
	}
	at, newest, err := a.state(h, r.Revision)
	if err != nil {
		return err
	}
	header := k.up.Header()
	header.Revision = newest

	p := parts{read: &a, left: *r, keys: streamFirstKeys, upstreamKeys: upstreamFirstKeys}
	p.left.Raw, p.left.Revision = nil, at.Revision()
	var total int64 // keys in the whole range
	for first := true; ; first = false {
		part, err := p.next(ctx)
		switch {
		case err != nil && first:
			return forwardUnlessDone(ctx)
		case err != nil:
			return interrupted(ctx, err)
		}
		if err := a.finish(newest); err != nil {
			if first {
				return err
			}
			return errReplaced
		}
		if first {
			total = part.Count
		}
		if len(part.KVs) == 0 || !part.More || r.Limit > 0 && p.left.Limit == 0 {
			a.answered()
			return send(wire.EncodeRangeStream(header, part.KVs, part.More, total), a.stale)
		}
		if err := send(wire.EncodeRangeStream(wire.Header{}, part.KVs, false, 0), a.stale); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// errReplaced ends a stream whose other parts cannot be had any more.
var errReplaced = status.Error(codes.Unavailable, "weir: upstream was replaced by another cluster while the range was read")

// interrupted is the client's error when his stream cannot go on: with upstream's words if it has any, else one that says
// that he may try again.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if s, ok := status.FromError(err); ok && s.Code() != codes.DeadlineExceeded { // which was not his
		return err
	}
	return status.Errorf(codes.Unavailable, "weir: continue a range from upstream: %v", err)
}

// parts is a range that is read part by part, at one revision.
type parts struct {
	*read
	left         wire.RangeRequest
	keys         int64 // to collect for the next part if it is in memory,
	upstreamKeys int64 // and to ask for at most if it is not
}

// next reads the next part, cut where it gets longer than a part: from memory if it is there, else from upstream.
func (p *parts) next(ctx context.Context) (answer cache.Answer, err error) {
	h := p.find(p.left.Key, p.left.RangeEnd)
	var view cache.View
	inMemory := false
	if h != nil {
		view, inMemory = h.snap.View(p.left.Revision)
	}
	if inMemory {
		answer, err = p.answer(view, p.first(p.keys))
	} else {
		answer, err = p.fromUpstream(ctx, p.first(p.safeKeys(h)))
	}
	if err != nil {
		return cache.Answer{}, err
	}
	size := 0
	for i, kv := range answer.KVs {
		if size+len(kv) > streamPartBytes && i > 0 {
			answer.KVs, answer.More = answer.KVs[:i:i], true
			break
		}
		size += len(kv)
	}
	n := int64(len(answer.KVs))
	if n == 0 {
		return answer, nil
	}
	if inMemory {
		h.used(spared(size))
		p.keys = keysOfPart(n, int64(size))
	} else {
		p.upstreamKeys = min(keysOfPart(n, int64(size)), upstreamPartKeys)
	}
	if p.left.Limit > 0 {
		p.left.Limit -= n
	}
	p.left.Key, err = keyAfter(answer.KVs)
	return answer, err
}

// first is the request for as many of the keys that are left.
func (p *parts) first(keys int64) wire.RangeRequest {
	r := p.left
	if r.Limit <= 0 || r.Limit > keys {
		r.Limit = keys
	}
	return r
}

// safeKeys is how many keys to ask upstream for. Large ones may follow any number of small ones. How large they are is seen
// in the newest state of h, in which most are as they were at the revision of the stream; h is nil if nothing is in memory.
func (p *parts) safeKeys(h *hot) int64 {
	if p.left.KeysOnly {
		return p.upstreamKeys
	}
	var view cache.View
	known := false
	if h != nil {
		view, known = h.snap.View(0)
	}
	if !known {
		return min(p.upstreamKeys, upstreamFirstKeys)
	}
	kvs, _ := view.Range(p.left.Key, p.left.RangeEnd, p.upstreamKeys)
	size := 0
	for i, kv := range kvs {
		if size += len(kv); size > streamPartBytes {
			return int64(max(1, i))
		}
	}
	return p.upstreamKeys
}

// keysOfPart is how many keys to collect for a part after one of so many keys and bytes: as many as make a part if they
// are as large, but not many more than before, in case they are larger.
func keysOfPart(keys, bytes int64) int64 {
	return max(1, min(keys*streamPartBytes/max(1, bytes), 8*keys, streamPartKeys))
}

// fromUpstream reads r from upstream, when it is the client's turn: without Serializable, because the member that is asked may
// not have come as far as the one that was asked before.
func (p *parts) fromUpstream(ctx context.Context, r wire.RangeRequest) (cache.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	if turn := p.k.cfg.Turn; turn != nil {
		end, err := turn(ctx)
		if err != nil {
			return cache.Answer{}, err
		}
		defer end()
	}
	r.Serializable = false
	raw, err := p.k.up.Range(ctx, &r)
	if err != nil {
		return cache.Answer{}, err
	}
	var answer cache.Answer
	var resp wire.RangeResponse
	err = resp.Unmarshal(raw, func(kv []byte) error {
		answer.KVs = append(answer.KVs, kv)
		return nil
	})
	answer.More, answer.Count = resp.More, resp.Count
	return answer, err
}

// keyAfter returns the key that follows the last of kvs.
func keyAfter(kvs [][]byte) ([]byte, error) {
	var last wire.KeyValue
	if err := last.Unmarshal(kvs[len(kvs)-1]); err != nil {
		return nil, err
	}
	return append(append(make([]byte, 0, len(last.Key)+1), last.Key...), 0), nil
}
