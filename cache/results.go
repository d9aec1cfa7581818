package cache

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/dgraph-io/ristretto/v2"

	"weir/grpcapi/wire"
)

// Results keeps encoded answers that are dearer to build than to look up. It is a hint: an answer may be missing at any
// time. What is found is verified, so that none is wrong.
//
// The entries are in a ristretto cache, which admits those that are asked for most (TinyLFU, Einziger et al. 2017). It
// has edges that are kept away from the caller:
//
//   - It tells keys apart by a hash of 64 bits, and a Get may see what was deleted or is being replaced. So each entry
//     holds all that it is the answer to (snapshot, state, request), and Get compares all of it.
//   - Its bound in bytes is none: what waits to be admitted is not counted, and an entry may be replaced by a larger one.
//     So the bytes are counted here, from Put until ristretto lets go of the entry, and Put refuses what would be too much.
//   - Calls panic that meet its Close. So Close waits for those at work, and later ones do nothing.
//
// The state is not part of the key: the answer of a new state takes the place of the old one, which nobody asks for
// again, and its request is known as a frequent one. With the state in the key, each change in the range would start its
// requests anew and leave their dead answers behind.
//
// An entry does not keep its snapshot in memory. All methods may be called concurrently.
type Results struct {
	seed         maphash.Seed
	limit        int64 // bytes, never passed
	growthLimit  int64 // bytes up to which an entry is replaced by a larger one
	entryLimit   int64 // bytes of an entry
	hits, misses atomic.Uint64
	bytes        atomic.Int64 // of all entries that ristretto holds, those that wait included
	waiting      atomic.Int64 // entries that ristretto has not looked at yet

	mu      sync.RWMutex                      // taken to write by Close, to read by all others: entries is there until they are done
	entries *ristretto.Cache[uint64, *result] // nil if nothing is kept
	making  sync.Mutex                        // taken by the one Put that makes room
}

// ResultStats counts hits and misses since the start; Bytes is what is held now.
type ResultStats struct {
	Hits   uint64 `json:"hits"`
	Misses uint64 `json:"misses"`
	Bytes  int    `json:"bytes"`
}

// result is an entry.
type result struct {
	owner   weak.Pointer[Snapshot]
	changed int64
	request []byte // canonical
	body    []byte

	// holders is who keeps the entry in memory: the queue of what waits to be admitted, and the map, in which a
	// replaced entry is already before it is admitted.
	holders atomic.Int32
}

const (
	// resultBytes is what an entry costs beside request and body: itself, and its places in the maps of ristretto.
	resultBytes = 256

	// maxWaiting bounds the entries that wait. It is below the 32,768 of ristretto's queue, because with a full queue
	// ristretto replaces entries without noticing their new size.
	maxWaiting = 8192

	// requestBuffer is the length up to which a request is made canonical without allocation.
	requestBuffer = 256
)

// NewResults makes a cache of at most maxBytes, in which the requests, 256 B an entry and what waits to be admitted are
// counted. An answer of more than an eighth of that is not kept. With 0 nothing is kept, nor is anything started. Beside
// maxBytes it takes about 0.4 MB, and 3 B a KiB of maxBytes, up to 4 MB, to count how often what is asked for.
func NewResults(maxBytes int) (*Results, error) {
	if maxBytes < 0 {
		return nil, fmt.Errorf("make cache of results: a size of %d bytes", maxBytes)
	}
	limit := int64(maxBytes)
	c := &Results{
		seed: maphash.MakeSeed(), limit: limit, growthLimit: limit - limit/8, entryLimit: limit / 8,
	}
	if limit == 0 {
		return c, nil
	}
	// ristretto evicts until an entry that it admits fits into three quarters. That leaves an eighth for what grows when
	// it is replaced, which evicts nothing, and one for what waits. Who grows cannot take the room of who waits, so there
	// is always an admission to come that evicts.
	entries, err := ristretto.NewCache(&ristretto.Config[uint64, *result]{
		MaxCost:            max(1, limit-limit/4),
		NumCounters:        min(max(limit/1024, 1<<14), 1<<20),
		BufferItems:        64,
		IgnoreInternalCost: true,
		KeyToHash:          func(hash uint64) (uint64, uint64) { return hash, 0 },
		Cost: func(e *result) int64 { // called when e has left the queue
			c.waiting.Add(-1)
			c.release(e)
			return e.size()
		},
		OnExit: func(e *result) { // nil when a deleted entry leaves again
			if e != nil {
				c.release(e)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make cache of results: %w", err)
	}
	c.entries = entries
	return c, nil
}

// Get returns the body of the answer to r, an encoded RangeResponse without header, if it was Put for the same Snapshot
// and the same View.Changed. Two requests are the same if they differ in nothing but Serializable. The body is shared
// and must not be changed.
func (c *Results) Get(owner *Snapshot, changed int64, r *wire.RangeRequest) (body []byte, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.entries == nil {
		return nil, false
	}
	var buf [requestBuffer]byte
	request := appendCanonical(buf[:0], r)
	e, ok := c.entries.Get(maphash.Bytes(c.seed, request))
	if !ok || e.changed != changed || !bytes.Equal(e.request, request) || e.owner.Value() != owner {
		c.misses.Add(1)
		return nil, false
	}
	c.hits.Add(1)
	return e.body, true
}

// Put offers the answer to r at a View of owner whose Changed is changed. It may become visible later, or never. The
// cache keeps body, all of its capacity, which must not be changed any more.
func (c *Results) Put(owner *Snapshot, changed int64, r *wire.RangeRequest, body []byte) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.entries == nil {
		return
	}
	e := &result{owner: weak.Make(owner), changed: changed, request: appendCanonical(nil, r), body: body}
	e.holders.Store(2)
	if e.size() > c.entryLimit {
		return
	}
	hash := maphash.Bytes(c.seed, e.request)
	if !c.reserve(e, hash) {
		return
	}
	if c.waiting.Add(1) > maxWaiting || !c.entries.Set(hash, e, 0) {
		c.waiting.Add(-1)
		c.bytes.Add(-e.size())
	}
}

// reserve counts e's bytes if there is room for it. If there is none, the entry in its place, which is outdated, goes.
func (c *Results) reserve(e *result, hash uint64) bool {
	old, replaces := c.entries.Get(hash)
	for held := c.bytes.Load(); ; held = c.bytes.Load() {
		total := held + e.size()
		if total > c.limit || replaces && total-old.size() > c.growthLimit {
			break
		}
		if c.bytes.CompareAndSwap(held, total) {
			return true
		}
	}
	// The next Put of the request then asks to be admitted. One deletion at a time is in ristretto's queue, see maxWaiting.
	if replaces && c.making.TryLock() {
		c.entries.Del(hash)
		c.entries.Wait()
		c.making.Unlock()
	}
	return false
}

// release takes away one of e's holders.
func (c *Results) release(e *result) {
	if e.holders.Add(-1) == 0 {
		c.bytes.Add(-e.size())
	}
}

// Stats returns the counters.
func (c *Results) Stats() ResultStats {
	return ResultStats{Hits: c.hits.Load(), Misses: c.misses.Load(), Bytes: int(c.bytes.Load())}
}

// Close drops everything and waits for the goroutines of the cache to end.
func (c *Results) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		return
	}
	c.entries.Close()
	c.entries = nil
	c.bytes.Store(0)
}

func (e *result) size() int64 { return int64(resultBytes + cap(e.request) + cap(e.body)) }

// appendCanonical appends what is asked for in r, however it was encoded and whoever may answer.
func appendCanonical(dst []byte, r *wire.RangeRequest) []byte {
	canonical := *r
	canonical.Serializable = false
	return wire.AppendRangeRequest(dst, &canonical)
}
