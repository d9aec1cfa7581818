package reads

import (
	"fmt"
	"math"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// The limits of Config, MaxKeys and MaxBytes, are for a Range whose answer has as many keys as there happen to be. It is
// refused when the answer goes beyond them, from wherever it comes. A read of one key, a count, and an answer of one key
// are never refused, because no page is smaller; RangeStream never, because nobody holds its whole answer; and ranges
// within a transaction are left to upstream's own limits of a transaction.
//
// The limit of keys is looked for by reading one more than it: a request without a limit, or with a higher one, is given
// that one. If the answer stays within MaxKeys then the limit has cut nothing, so that it is the answer to the client's
// request in all its parts: More, and the order too, which etcd makes after cutting in some cases and before in others.

// Bound returns what to read instead of r, and whether that differs from r: in its limit. It has no Raw then, and
// CheckAnswer must see the response.
func (k *Keeper) Bound(r *wire.RangeRequest) (req wire.RangeRequest, bounded bool) {
	req, most := *r, k.cfg.MaxKeys
	if most <= 0 || most == math.MaxInt64 || !limited(r) || r.Limit > 0 && r.Limit <= most {
		return req, false
	}
	req.Raw, req.Limit = nil, most+1
	return req, true
}

// Limits tells whether there are any.
func (k *Keeper) Limits() bool { return k.cfg.MaxKeys > 0 || k.cfg.MaxBytes > 0 }

// CheckAnswer refuses an encoded RangeResponse to r, or to what Bound made of it, that goes beyond a limit.
func (k *Keeper) CheckAnswer(r *wire.RangeRequest, resp wire.Raw) error {
	if !k.Limits() || !limited(r) {
		return nil
	}
	keys, size := 0, 0
	var decoded wire.RangeResponse
	err := decoded.Unmarshal(resp, func(kv []byte) error {
		keys++
		size += len(kv)
		return nil
	})
	if err != nil {
		return fmt.Errorf("measure the answer of upstream: %w", err)
	}
	return k.checkSize(r, keys, size)
}

// checkSize refuses an answer to r of that many keys and bytes of encoded KeyValues.
func (k *Keeper) checkSize(r *wire.RangeRequest, keys, size int) error {
	switch {
	case keys <= 1 || !limited(r):
		return nil
	case k.cfg.MaxKeys > 0 && int64(keys) > k.cfg.MaxKeys:
		k.stats.refused.Add(1)
		return status.Errorf(codes.ResourceExhausted,
			"weir: the range has more than %d keys (--max-range-keys); read it in pages with a limit, or with RangeStream", k.cfg.MaxKeys)
	case k.cfg.MaxBytes > 0 && int64(size) > k.cfg.MaxBytes:
		k.stats.refused.Add(1)
		return status.Errorf(codes.ResourceExhausted,
			"weir: the range has more than %d bytes (--max-range-bytes); read it in pages with a limit, or with RangeStream", k.cfg.MaxBytes)
	}
	return nil
}

// limited tells whether the answer to r can grow with the store.
func limited(r *wire.RangeRequest) bool { return len(r.RangeEnd) > 0 && !r.CountOnly }
