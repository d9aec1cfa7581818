package core

import (
	"context"
	"errors"

	"weir/coalesce"
	"weir/core/mvcc"
	"weir/grpcapi/wire"
)

// history lets the hub read from the store what its ring no longer has. It satisfies coalesce.Source.
type history struct{ store *mvcc.Store }

func (h history) History(ctx context.Context, r coalesce.Range, from int64, yield func(coalesce.Batch) bool) (next int64, err error) {
	next, err = h.store.History(r.Key, r.End, from, func(rev int64, events []wire.Event) bool {
		return ctx.Err() == nil && yield(coalesce.Batch{Revision: rev, Events: events})
	})
	if errors.Is(err, mvcc.ErrCompacted) {
		return next, &coalesce.CompactedError{CompactRevision: h.store.CompactRevision()}
	}
	if err == nil {
		err = ctx.Err()
	}
	return next, err
}

func (h history) Prev(key []byte, rev int64) []byte { return h.store.Prev(key, rev) }
