package coalesce

import (
	"context"

	"weir/grpcapi/wire"
)

// Batch is all events of one revision, in the order in which they were made.
type Batch struct {
	Revision int64
	Events   []wire.Event
}

// Hub fans one ordered stream of revisions out to watchers.
type Hub struct{}

// Source is where the hub resyncs watchers from that are older than its ring, and finds previous values.
type Source interface {
	// History calls yield with each revision from `from` on, in order, that touched [key, end) (etcd's meaning of
	// range ends), whole and with only the events of that range, until yield returns false or the newest is reached.
	// It returns the next revision to ask from. Below the compact revision it returns a *CompactedError.
	History(ctx context.Context, key, end []byte, from int64, yield func(Batch) bool) (next int64, err error)
	// Prev returns the encoded KeyValue that key had just before revision rev, or nil when there was none or it is compacted.
	Prev(key []byte, rev int64) []byte
}

// CompactedError says that history was asked for which is no longer there.
type CompactedError struct{ CompactRevision int64 }

func (e *CompactedError) Error() string { return "required revision has been compacted" }

// NewHub makes a hub whose newest revision is rev. ringBytes bounds the history it keeps in memory.
func NewHub(source Source, rev int64, ringBytes int) *Hub { panic("skeleton") }

// Publish appends one revision. It never waits for a watcher. Revisions must ascend; gaps are revisions without events.
func (h *Hub) Publish(b Batch) { panic("skeleton") }

// Compacted tells that history before rev is gone.
func (h *Hub) Compacted(rev int64) { panic("skeleton") }

// Close ends every watcher and waits for what the hub started.
func (h *Hub) Close() { panic("skeleton") }
