package reads

import (
	"context"
	"fmt"
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

// RangeStream answers r in parts, all of one revision, by calling send, or fails with ErrForward before the first. The
// last part has the header, more and the count. stale is the same for all parts; see Range for it and for the rest. An
// error of send ends it and is returned.
//
// Between two parts nothing is held for the client, who may be slow: a view kept for him would keep the memory of all
// that has been overwritten since, however often. Each part is found anew by its revision. If the window of past
// states has left it behind then upstream is asked for the part, so that the stream ends early only when it would at
// etcd, which pins a stream by its number too: by compaction.
func (k *Keeper) RangeStream(ctx context.Context, r *wire.RangeRequest, s *cache.Session, send func(part mem.BufferSlice, stale time.Duration) error) (err error) {
	defer func() { k.stats.countForward(err) }()
	if r.SortTarget != 0 {
		return ErrForward // etcd sorts each part by itself, so that the answer depends on where it cuts
	}
	a, err := k.begin(s, r.Serializable)
	if err != nil {
		return err
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

	next := *r
	next.Raw, next.Revision = nil, at.Revision()
	keys, left := int64(streamFirstKeys), r.Limit
	var total int64 // keys in the whole range
	for first := true; ; first = false {
		next.Limit = keys
		if r.Limit > 0 {
			next.Limit = min(keys, left)
		}
		part, err := a.part(ctx, &next)
		if err != nil {
			return err
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
		left -= int64(len(part.KVs))
		if len(part.KVs) == 0 || !part.More || r.Limit > 0 && left == 0 {
			a.answered()
			return send(wire.EncodeRangeStream(header, part.KVs, part.More, total), a.stale)
		}
		if err := send(wire.EncodeRangeStream(wire.Header{}, part.KVs, false, 0), a.stale); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if next.Key, err = keyAfter(part.KVs); err != nil {
			return err
		}
		keys = keysOfPart(int64(len(part.KVs)), int64(bytesOf(part.KVs)))
	}
}

// keysOfPart is how many keys to collect for a part after one of so many keys and bytes: as many as make a part if they
// are as large, but not many more than before, in case they are larger.
func keysOfPart(keys, bytes int64) int64 {
	return max(1, min(keys*streamPartBytes/max(1, bytes), 8*keys, streamPartKeys))
}

// errReplaced ends a stream whose other parts cannot be had any more.
var errReplaced = status.Error(codes.Unavailable, "weir: upstream was replaced by another cluster while the range was read")

// part reads r at its revision, cut where it gets longer than a part: from memory if it is there, else from upstream.
func (a *read) part(ctx context.Context, r *wire.RangeRequest) (answer cache.Answer, err error) {
	h := a.find(r.Key, r.RangeEnd)
	inMemory := false
	if h != nil {
		var view cache.View
		if view, inMemory = h.snap.View(r.Revision); inMemory {
			answer, err = a.answer(view, *r)
		}
	}
	if !inMemory {
		answer, err = a.partFromUpstream(ctx, r)
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
	if inMemory {
		h.used(spared(size))
	}
	return answer, nil
}

func (a *read) partFromUpstream(ctx context.Context, r *wire.RangeRequest) (cache.Answer, error) {
	ask := *r
	ask.Serializable = false // the member may not have come as far as the one that was asked before
	raw, err := a.k.up.Range(ctx, &ask)
	if err != nil {
		return cache.Answer{}, err
	}
	var answer cache.Answer
	var resp wire.RangeResponse
	err = resp.Unmarshal(raw, func(kv []byte) error {
		answer.KVs = append(answer.KVs, kv)
		return nil
	})
	if err != nil {
		return cache.Answer{}, fmt.Errorf("continue a range from upstream: %w", err)
	}
	answer.More, answer.Count = resp.More, resp.Count
	return answer, nil
}

// keyAfter returns the key that follows the last of kvs.
func keyAfter(kvs [][]byte) ([]byte, error) {
	var last wire.KeyValue
	if err := last.Unmarshal(kvs[len(kvs)-1]); err != nil {
		return nil, fmt.Errorf("continue a range: %w", err)
	}
	return append(append(make([]byte, 0, len(last.Key)+1), last.Key...), 0), nil
}
